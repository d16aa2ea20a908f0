"""Several heads that score as one, against slow arithmetic in float64."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_server.bootstrap import resample_clips
from reward_server.fitting import fit_preferences, pair_accuracy
from reward_server.heads import EnsembleHead, MlpHead, build_head, member_seeds
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from reward_server.text_tower import TextTower
from rlcap.audio.features import LogMelConfig
from rlcap.config.load import load_config
from rlcap.config.reward import ClapConfig, Ensemble, FinetuneTowers, HeadConfig, HeadKind
from rlcap.errors import ConfigError
from rlcap.preferences.pairs import PreferencePair
from rlcap.types import Clip

DIM = 6
CAPTIONS = ["a dog barks", "a cat meows", "rain falls"]
CLAP = ClapConfig(embedding_dim=DIM, audio_channels=[4] * 4, num_segments=2, text_width=16, num_heads=2)


def heads(num_members=4):
    return [build_head(HeadConfig(hidden_sizes=[7, 5]), DIM, seed=seed).eval() for seed in range(num_members)]


def ensemble(how=Ensemble.mean_minus_std, num_members=4, std_weight=0.7):
    return EnsembleHead(heads(num_members), how, std_weight).eval()


def embeddings(num_rows=9):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, num_rows, DIM, generator=generator)


def slow_mlp(head, audio, text):
    """One row in float64, a unit at a time."""
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}
    row = []
    for side, embedding in enumerate((audio, text)):
        length = sum(float(x) ** 2 for x in embedding) ** 0.5
        row += [
            (float(x) / length - weights["mean"][side][i]) * weights["scale"][side][i] for i, x in enumerate(embedding)
        ]
    for layer in ("first", "rest.2", "rest.5"):
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        row = [sum(w * x for w, x in zip(unit, row, strict=True)) + b for unit, b in zip(weight, bias, strict=True)]
        row = row if layer == "rest.5" else [max(0.0, x) for x in row]
    return row[0]


def slow_score(how, scores, std_weight):
    mean = sum(scores) / len(scores)
    if how is Ensemble.mean:
        return mean
    if how is Ensemble.minimum:
        return sorted(scores)[0]
    return mean - std_weight * (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5


@pytest.mark.parametrize("how", list(Ensemble))
def test_members_are_combined_as_by_slow_arithmetic(how):
    head, (audio, text) = ensemble(how), embeddings()
    with torch.no_grad():
        found = head(audio, text)
    assert found.shape == (9,)
    for row in range(9):
        expected = slow_score(how, [slow_mlp(member, audio[row], text[row]) for member in head.members], 0.7)
        assert found[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("how", list(Ensemble))
def test_one_member_scores_as_the_plain_head(how):
    head, (audio, text) = ensemble(how, num_members=1), embeddings()
    assert torch.equal(head(audio, text), heads(1)[0](audio, text))
    assert isinstance(build_head(HeadConfig(ensemble=how), DIM, seed=0), MlpHead)


def test_members_begin_apart_and_further_ones_leave_them_as_they_are():
    config = HeadConfig(num_members=3, hidden_sizes=[7])
    three = build_head(config, DIM, seed=5)
    assert three.kind is HeadKind.mlp
    assert member_seeds(5, 4)[:3] == member_seeds(5, 3)
    assert len(set(member_seeds(5, 20)) | set(member_seeds(6, 20))) == 40
    assert not torch.equal(three.members[0].first.weight, three.members[1].first.weight)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**31))
def test_a_resample_holds_as_many_clips_each_with_all_of_its_pairs(clip_of_pair, seed):
    clip = torch.tensor(clip_of_pair)
    pairs = torch.arange(len(clip))
    drawn = resample_clips(pairs, clip, np.random.default_rng(seed))
    times = {}
    for number in set(clip_of_pair):
        counts = {int((drawn == pair).sum()) for pair in pairs[clip == number]}
        assert len(counts) == 1
        times[number] = counts.pop()
    assert sum(times.values()) == len(times)
    assert torch.equal(drawn, resample_clips(pairs, clip, np.random.default_rng(seed)))


def test_resampling_speaks_of_the_given_pairs_alone():
    clip = torch.tensor([4, 4, 7, 9, 9])
    drawn = resample_clips(torch.tensor([0, 1, 3, 4]), clip, np.random.default_rng(0))
    assert set(drawn.tolist()) <= {0, 1, 3, 4}
    assert len(drawn) == 4


def fitted(how=Ensemble.mean, num_members=3, seed=0):
    clap = SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0).eval()
    rng = np.random.default_rng(0)
    ids = [f"clip-{number}" for number in range(80)]
    embedded = rng.standard_normal((80, DIM)).astype(np.float32)
    pairs = [
        PreferencePair(clip_id, CAPTIONS[number % 3], CAPTIONS[(number + 1) % 3], (1 if row[0] > 0 else -1,))
        for number, (clip_id, row) in enumerate(zip(ids, embedded, strict=True))
    ]
    config = HeadConfig(hidden_sizes=[16], num_epochs=3, num_members=num_members, ensemble=how)
    return fit_preferences(clap, embedded, ids, pairs, config, seed=seed), embedded, pairs


@pytest.mark.parametrize("how", list(Ensemble))
def test_the_accuracy_is_that_of_the_combined_score(how):
    result, embedded, _ = fitted(how)
    heldout = result.heldout.pairs
    audio = torch.from_numpy(embedded[[int(pair.clip_id[5:]) for pair in heldout]])
    majority = torch.tensor([pair.majority for pair in heldout])

    def accuracy(head):
        with torch.no_grad():
            sides = [
                head(audio, result.clap.embed_captions([getattr(pair, side) for pair in heldout]))
                for side in ("caption_a", "caption_b")
            ]
        return pair_accuracy(*sides, majority)

    assert result.metrics.heldout_accuracy == accuracy(result.head)
    assert result.metrics.member_accuracies == tuple(accuracy(member) for member in result.head.members)
    assert len(result.metrics.member_accuracies) == 3


def test_captions_are_read_once_for_all_members(monkeypatch):
    read, pool = [], TextTower.pool
    monkeypatch.setattr(
        TextTower, "pool", lambda self, tokens, mask: read.append(len(tokens)) or pool(self, tokens, mask)
    )
    fitted(num_members=4)
    assert read == [3]


def test_the_same_seed_fits_the_same_members_and_they_differ_from_one_another():
    one, other = fitted()[0].head, fitted(num_members=4)[0].head
    for mine, theirs in zip(one.members, other.members, strict=False):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())
    firsts = [member.first.weight for member in other.members]
    assert not any(torch.equal(firsts[0], first) for first in firsts[1:])


def test_no_member_stands_above_the_others_on_what_it_was_fitted_on():
    result, embedded, pairs = fitted()
    seen = {pair.clip_id for pair in result.heldout.pairs}
    rest = [pair for pair in pairs if pair.clip_id not in seen]
    audio = torch.from_numpy(embedded[[int(pair.clip_id[5:]) for pair in rest]])
    with torch.no_grad():
        text = result.clap.embed_captions([caption for pair in rest for caption in (pair.caption_a, pair.caption_b)])
        means = [member(audio.repeat_interleave(2, dim=0), text).mean().item() for member in result.head.members]
    # Validation clips are among these, training clips alone are centred.
    assert max(map(abs, means)) < 0.02


def test_a_saved_ensemble_is_loaded_with_its_version(tmp_path):
    clap = SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0)
    reward = ClapReward(clap, ensemble(), sigmoid_output=True)
    reward.save(tmp_path)
    settings = json.loads((tmp_path / "reward.json").read_text())
    assert (settings["num_members"], settings["ensemble"], settings["std_weight"]) == (4, "mean_minus_std", 0.7)
    loaded = ClapReward.load(tmp_path)
    assert loaded.version == reward.version
    waveform = np.sin(np.arange(8_000) / 7).astype(np.float32)
    audio = reward.embed_audio([Clip("one", waveform, 16_000)])
    index = np.zeros(3, dtype=np.int64)
    assert np.array_equal(loaded.score(audio, CAPTIONS, index), reward.score(audio, CAPTIONS, index))


def test_the_version_changes_with_how_members_are_combined():
    clap = SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0)
    kinds = [ensemble(how) for how in Ensemble] + [ensemble(std_weight=0.8), ensemble(num_members=3), heads(1)[0]]
    assert len({ClapReward(clap, head).version for head in kinds}) == 6


def test_a_plain_head_is_saved_as_before_ensembles(tmp_path):
    ClapReward(SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0), heads(1)[0]).save(tmp_path)
    settings = json.loads((tmp_path / "reward.json").read_text())
    assert set(settings) == {"version", "head", "hidden_sizes", "sigmoid_output", "text_terms"}
    assert ClapReward.load(tmp_path).version == settings["version"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"num_members": 0}, "num_members must be above 0, got 0"),
        ({"num_members": 3, "finetune_towers": FinetuneTowers.all}, "finetune_towers must be none where num_members"),
        ({"num_members": 3, "kind": HeadKind.cosine}, "num_members must be 1 where kind is cosine"),
        ({"std_weight": -1.0}, "std_weight must be 0 or more"),
    ],
)
def test_what_cannot_be_an_ensemble_is_refused_by_name(settings, fault):
    assert any(found.startswith(fault) for found in HeadConfig(**settings).faults())


def test_the_settings_come_from_the_command_line():
    head = load_config(["reward.head.num_members=5", "reward.head.ensemble=minimum"]).reward.head
    assert (head.num_members, head.ensemble) == (5, Ensemble.minimum)
    with pytest.raises(ConfigError, match=r"reward\.head\.ensemble must be one of mean, minimum, mean_minus_std"):
        load_config(["reward.head.ensemble=median"])
