"""Sums in a fixed order: what a block of them leaves behind, and that every loop that trains is inside of one."""

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from small_captioner import make_update, sample
from torch.utils import deterministic

from learner.supervised import supervise, teach_language
from reward_server.clap_training import train_clap
from reward_server.fitting import fit_preferences
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.captioner import SftConfig
from rlcap.config.reward import ClapConfig, FinetuneTowers, HeadConfig
from rlcap.preferences.pairs import PreferencePair
from rlcap.threads import deterministic_algorithms
from rlcap.types import PolicyFeatures

CAPTIONS = ("a dog barks", "rain falls", "a dog then rain", "then a dog barks")
CLIP_IDS = tuple(f"clip-{number}" for number in range(20))
CLAP = ClapConfig(
    embedding_dim=8, audio_channels=[2, 2, 4, 4], num_segments=2, text_width=8, num_heads=2, batch_size=2, num_epochs=1
)


def spectrograms(num_clips):
    frames = np.random.default_rng(0).standard_normal((num_clips, 32, LogMelConfig().num_mels), dtype=np.float32)
    return PolicyFeatures(frames, np.ones((num_clips, 32), dtype=bool))


def update(make_captioner, make_clips):
    one = make_update(num_epochs=1)
    one.update([sample(one.captioner)])


def supervised_training(make_captioner, make_clips):
    captioner = make_captioner()
    features = captioner.features(make_clips(1.0, 0.5))
    supervise(captioner, features, [["a dog barks"], ["rain falls"]], SftConfig(num_epochs=1), 0, lambda *_: None)


def training_on_text(make_captioner, make_clips):
    captioner = make_captioner()
    blank = captioner.features(make_clips(1.0))
    teach_language(captioner, blank, CAPTIONS, SftConfig(text_epochs=1), 0, lambda *_: None)


def training_of_the_clap(make_captioner, make_clips):
    train_clap(spectrograms(4), CAPTIONS, CLAP, seed=0)


def fit_that_tunes(towers):
    def fit(make_captioner, make_clips):
        clap = SmallClap.for_captions(CLAP, CAPTIONS, LogMelConfig(), seed=0)
        pairs = [PreferencePair(clip_id, CAPTIONS[0], CAPTIONS[1], (1,)) for clip_id in CLIP_IDS]
        config = HeadConfig(hidden_sizes=[8, 4], num_epochs=1, finetune_towers=towers)
        fit_preferences(clap, spectrograms(len(CLIP_IDS)), CLIP_IDS, pairs, config, seed=0)

    return pytest.param(fit, id=f"fit of head and towers: {towers.name}")


LOOPS = [update, supervised_training, training_on_text, training_of_the_clap, *map(fit_that_tunes, FinetuneTowers)]


@pytest.mark.parametrize("train", LOOPS)
def test_every_loop_that_trains_sums_in_a_fixed_order(monkeypatch, make_captioner, make_clips, train):
    modes, backward = [], torch.autograd.backward

    def seen(*arguments, **settings):
        modes.append((torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory))
        backward(*arguments, **settings)

    monkeypatch.setattr(torch.autograd, "backward", seen)
    train(make_captioner, make_clips)
    assert set(modes) == {(1, False)}
    assert torch.get_deterministic_debug_mode() == 0
    assert deterministic.fill_uninitialized_memory


def test_no_other_module_goes_backward():
    root = Path(__file__).parents[2]
    apart = ("rlcap/bench/", "rlcap/conformance/")  # nothing that they train is kept
    found = set()
    for package in ("rlcap", "actors", "learner", "reward_server"):
        for path in (root / package).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if not name.startswith(apart) and re.search(r"[.]backward[(]", path.read_text(encoding="utf-8")):
                found.add(name)
    assert found == {
        "learner/policy_pass.py",
        "learner/supervised.py",
        "reward_server/clap_training.py",
        "reward_server/fitting.py",
    }, "a new loop that trains belongs into a block of `deterministic_algorithms`, and into LOOPS"


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_what_torch_was_told_before_holds_again_behind_the_block_even_where_it_raised(mode):
    def run_and_fail():
        with deterministic_algorithms(torch.device("cpu")):
            raise LookupError

    torch.set_deterministic_debug_mode(mode)
    try:
        with pytest.raises(LookupError):
            run_and_fail()
        assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(0)


def test_other_devices_are_left_alone():
    with deterministic_algorithms(torch.device("cuda")):
        assert torch.get_deterministic_debug_mode() == 0


def test_threads_that_train_side_by_side_leave_the_mode_as_it_was():
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(deterministic_algorithms(torch.device("cpu")))
        second.enter_context(deterministic_algorithms(torch.device("cpu")))
        first.close()
        assert torch.get_deterministic_debug_mode() == 1, "the other one still trains"
    assert torch.get_deterministic_debug_mode() == 0
