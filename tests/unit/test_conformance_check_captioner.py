"""The example captioner passes every check; for each check there is a broken variant that fails it."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from example_package import DcaseCaptioner, install, tiny_captioner
from torch import nn

from rlcap.captioners import families
from rlcap.captioners.captioner import Encoding, WholeCaptions
from rlcap.commands.main import run
from rlcap.conformance import check_captioner as conformance
from rlcap.conformance.check_captioner import CHECKS, check_captioner
from rlcap.types import PolicyFeatures


class ValuesSeeTheTemperature(DcaseCaptioner):
    def log_probs(self, encoding, clip_index, tokens, action_mask, temperature, support_sizes=None):
        output = super().log_probs(encoding, clip_index, tokens, action_mask, temperature, support_sizes)
        return replace(output, values=output.values / temperature)


class ForgetsTheTemperature(DcaseCaptioner):
    def log_probs(self, encoding, clip_index, tokens, action_mask, temperature, support_sizes=None):
        return super().log_probs(encoding, clip_index, tokens, action_mask, 1.0, support_sizes)


class SaysSomethingOfPadding(DcaseCaptioner):
    def log_probs(self, encoding, clip_index, tokens, action_mask, temperature, support_sizes=None):
        output = super().log_probs(encoding, clip_index, tokens, action_mask, temperature, support_sizes)
        return replace(output, log_probs=torch.where(action_mask, output.log_probs, -1.0))


class HearsPadding(DcaseCaptioner):
    def encode(self, frames, frame_mask):
        return super().encode(frames, torch.ones_like(frame_mask))


class HearsOtherClips(DcaseCaptioner):
    def encode(self, frames, frame_mask):
        encoding = super().encode(frames, frame_mask)
        return Encoding(encoding.states - encoding.states[:1], encoding.mask)


class HearsInFloat32Alone(DcaseCaptioner):
    def encode(self, frames, frame_mask):
        return Encoding(*self.network.encode(frames, frame_mask))


class NormalisesOverTheBatch(DcaseCaptioner):
    def features(self, clips):
        heard = super().features(clips)
        return replace(heard, frames=heard.frames - heard.frames[heard.frame_mask].mean())


class LearnsToHear(DcaseCaptioner):
    def features(self, clips):
        heard = super().features(clips)
        return replace(heard, frames=heard.frames * float(self.network.vocabulary.weight.mean()))


class IgnoresTheSampleRate(DcaseCaptioner):
    def features(self, clips):
        return super().features([replace(clip, sample_rate_hz=16_000) for clip in clips])


class GivesDoubles(DcaseCaptioner):
    def features(self, clips):
        heard = super().features(clips)
        return PolicyFeatures(heard.frames.astype(np.float64), heard.frame_mask)


class PeeksAtTheToken(DcaseCaptioner):
    def hidden_states(self, encoding, clip_index, tokens, action_mask):
        return super().hidden_states(encoding, clip_index, tokens.roll(-1, dims=1), action_mask)


class ForgetsWhoseRowItIs(DcaseCaptioner):
    class State(WholeCaptions):
        def select_rows(self, rows):
            self.tokens, self.clip_index = self.tokens[rows], self.clip_index[: len(rows)]

    def begin(self, encoding, clip_index, max_new_tokens):
        state, hidden = super().begin(encoding, clip_index, max_new_tokens)
        return self.State(state.encoding, state.clip_index, state.tokens), hidden


class StepsElsewhere(DcaseCaptioner):
    def step(self, state, tokens):
        return -super().step(state, tokens)


class DropsAlways(DcaseCaptioner):
    def logits(self, hidden):
        return nn.functional.dropout(super().logits(hidden), 0.1)


class HasAnIdleWeight(DcaseCaptioner):
    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.idle = nn.Linear(2, 2)


class BendsThePolicy(DcaseCaptioner):
    def value(self, hidden):
        return self.value_head(hidden).squeeze(-1)


class CallsItsCriticOtherwise(DcaseCaptioner):
    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        self.critic = nn.Linear(config.width, 1)
        del self.value_head

    def value(self, hidden):
        return self.critic(hidden.detach()).squeeze(-1)


class KeepsItsVocabularyBack(DcaseCaptioner):
    def state_dict(self, *arguments, **settings):
        state = super().state_dict(*arguments, **settings)
        return {name: value for name, value in state.items() if "network.vocabulary" not in name}


class IsItsOwnReference(DcaseCaptioner):
    def frozen_reference(self):
        reference = super().frozen_reference()
        reference.network.vocabulary.weight.data = self.network.vocabulary.weight.data
        return reference


class SavesNoCritic(DcaseCaptioner):
    @classmethod
    def load(cls, directory):
        captioner = super().load(directory)
        captioner.value_head = nn.Linear(captioner.config.width, 1)
        return captioner


class DecodesPadding(DcaseCaptioner):
    def decode(self, tokens, action_mask):
        return super().decode(tokens, torch.ones_like(action_mask))


class WritesNothing(DcaseCaptioner):
    def decode(self, tokens, action_mask):
        return ("",) * len(tokens)


class ClosesNoCaption(DcaseCaptioner):
    def tokenize(self, captions):
        tokens, mask = super().tokenize([*captions, "a dog barks on"])
        return tokens[:-1, :-1], torch.ones_like(mask)[:-1, :-1]


BROKEN = {
    ValuesSeeTheTemperature: ("values do not see the temperature", "sampled log-probs"),
    ForgetsTheTemperature: ("sampled log-probs",),
    SaysSomethingOfPadding: ("scores have the shape",),
    HearsPadding: ("padding of the audio", "captions of a clip"),
    HearsOtherClips: ("captions of a clip",),
    HearsInFloat32Alone: ("it computes in bfloat16",),
    NormalisesOverTheBatch: ("features of a clip",),
    LearnsToHear: ("features do not depend",),
    IgnoresTheSampleRate: ("clips are heard",),
    GivesDoubles: ("features are what encode reads",),
    PeeksAtTheToken: ("a token is predicted", "sampled log-probs"),
    ForgetsWhoseRowItIs: ("captions grow",),
    StepsElsewhere: ("captions grow", "greedy tokens", "sampled log-probs"),
    DropsAlways: ("nothing is dropped", "greedy captions"),
    HasAnIdleWeight: ("gradients reach",),
    BendsThePolicy: ("the critic's gradient",),
    CallsItsCriticOtherwise: ("the critic is a module",),
    KeepsItsVocabularyBack: ("weights travel",),
    IsItsOwnReference: ("the frozen reference",),
    SavesNoCritic: ("saved and loaded",),
    DecodesPadding: ("captions come back",),
    WritesNothing: ("captions come back",),
    ClosesNoCaption: ("captions come back",),
}
"""By variant, how the checks that it must fail begin."""


@pytest.fixture
def known_as(monkeypatch):
    """Return a function that makes a class the family `dcase`."""

    def know(family):
        monkeypatch.setattr(families, "families", lambda: {"dcase": family})

    return know


@pytest.fixture
def clips(make_clips):
    return make_clips(0.6, 0.1, 0.9)


def test_the_example_passes_every_check(known_as, clips):
    known_as(DcaseCaptioner)
    captioner = tiny_captioner()
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    results = check_captioner(captioner, clips)
    assert [(result.name, result.got) for result in results if not result.passed] == []
    assert len(results) == len(CHECKS)
    assert all(torch.equal(value, before[name]) for name, value in captioner.state_dict().items())
    assert all(parameter.grad is None for parameter in captioner.parameters())


@pytest.mark.parametrize("broken", BROKEN, ids=lambda family: family.__name__)
def test_a_broken_variant_fails(broken, known_as, clips, monkeypatch):
    known_as(broken)
    meant = [one for one in CHECKS if one.name.startswith(BROKEN[broken])]
    monkeypatch.setattr(conformance, "CHECKS", meant)
    results = check_captioner(tiny_captioner(broken), clips)
    assert [result.passed for result in results] == [False] * len(BROKEN[broken])
    assert all(result.got and result.remedy for result in results)


def test_every_check_is_failed_by_some_variant():
    begun = [begin for names in BROKEN.values() for begin in names]
    assert [one.name for one in CHECKS if not one.name.startswith(tuple(begun))] == []


def test_what_a_captioner_raises_is_a_finding_with_its_place(known_as, clips):
    class Unfinished(DcaseCaptioner):
        def logits(self, hidden):
            raise KeyError("vocabulary")

    known_as(Unfinished)
    results = check_captioner(tiny_captioner(Unfinished), clips)
    broken = {result.name: result.got for result in results if not result.passed}
    assert "features are what encode reads" not in broken
    place = rf"({__file__}, line "
    assert broken["greedy captions are repeatable"].startswith("KeyError: 'vocabulary' " + place)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A captioner directory, and the example as an installed package."""
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    families.families.cache_clear()
    tiny_captioner().save(tmp_path / "captioner")
    yield tmp_path / "captioner"
    families.families.cache_clear()


def test_the_command_says_what_holds(saved, tmp_path, capsys, make_clips):
    files = [tmp_path / "one.wav", tmp_path / "other.wav"]
    for file, clip in zip(files, make_clips(0.3, 0.5), strict=True):
        soundfile.write(file, clip.waveform, clip.sample_rate_hz)
    report = tmp_path / "checks.json"
    assert run(["check-captioner", str(saved), "--audio", *map(str, files), "--json", str(report)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in said[: len(CHECKS)]] == ["ok      "] * len(CHECKS)
    assert said[-1] == f"{len(CHECKS)} of {len(CHECKS)} checks passed by a captioner of family dcase."
    written = json.loads(report.read_text())
    assert written["passed"] is True
    assert [one["name"] for one in written["checks"]] == [one.name for one in CHECKS]


def test_the_command_fails_with_what_is_wrong_and_what_to_do(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["dcase_captioner.captioner"], "DcaseCaptioner", HearsPadding)
    monkeypatch.setattr(conformance, "CHECKS", [one for one in CHECKS if one.name.startswith("padding")])
    assert run(["check-captioner", str(saved), "--json", str(tmp_path / "checks.json")]) == 1
    first, expected, got, remedy, _, last = capsys.readouterr().out.splitlines()
    assert first == "FAILED  padding of the audio changes nothing"
    assert expected.startswith("        expected  the same log-probs")
    assert got.startswith("        got       largest difference ")
    assert remedy.startswith("        to do     in `encode`, mask padding")
    assert last == "0 of 1 checks passed by a captioner of family dcase."
    assert json.loads((tmp_path / "checks.json").read_text())["passed"] is False


def test_a_file_that_cannot_be_used_is_a_sentence(saved, tmp_path, capsys):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    assert run(["check-captioner", str(saved), "--audio", str(tmp_path / "broken.wav")]) == 1
    assert "broken.wav cannot be used: " in capsys.readouterr().err
