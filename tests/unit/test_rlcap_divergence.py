"""Every training loop of the project ends by name once its numbers are not finite; none hands over what is left."""

import numpy as np
import pytest
import torch
from small_captioner import make_update, sample

import learner.supervised
from learner.supervised import supervise, teach_language
from reward_server.clap_training import train_clap
from reward_server.fitting import fit_preferences
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.captioner import SftConfig
from rlcap.config.reward import ClapConfig, FinetuneTowers, HeadConfig
from rlcap.divergence import DivergenceWatch
from rlcap.errors import DivergedError, GuardError
from rlcap.preferences.pairs import PreferencePair
from rlcap.types import PolicyFeatures

CAPTIONS = ("a dog barks", "rain falls", "a dog then rain falls", "rain then rain")
CLAP = {"embedding_dim": 8, "audio_channels": [4] * 4, "num_segments": 2, "text_width": 8, "num_heads": 2}
TOO_FAST = 1e30


def noise(num_clips, *, broken):
    """Frames of noise; broken ones hold a number that is none in every clip."""
    frames = np.random.default_rng(0).standard_normal((num_clips, 32, 64)).astype(np.float32)
    frames[:, 3, 5] = np.nan if broken else 0.0
    return PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))


def sft(make_captioner, _monkeypatch, rate, broken):
    captioner = make_captioner(freeze_encoder=False)
    settings = SftConfig(num_epochs=3, batch_size=2, learning_rate=rate)
    supervise(captioner, noise(4, broken=broken), [[one] for one in CAPTIONS], settings, 0, lambda *_: None)


def sft_on_text(make_captioner, monkeypatch, rate, broken):
    monkeypatch.setattr(learner.supervised, "TEXT_LEARNING_RATE", rate)
    captioner = make_captioner(freeze_encoder=False)
    if broken:
        captioner.language_model.transformer.wpe.weight.data[0] = torch.nan
    teach_language(captioner, noise(1, broken=False), CAPTIONS, SftConfig(text_epochs=3), 0, lambda *_: None)


def clap(_make_captioner, _monkeypatch, rate, broken):
    config = ClapConfig(**CLAP, num_epochs=3, batch_size=4, learning_rate=rate)
    train_clap(noise(12, broken=broken), CAPTIONS * 3, config, seed=0)


def fit(**settings):
    def run(_make_captioner, _monkeypatch, rate, broken):
        towers = SmallClap.for_captions(ClapConfig(**CLAP), CAPTIONS, LogMelConfig(), seed=0).eval()
        pairs = [PreferencePair(f"clip-{i}", CAPTIONS[i % 4], CAPTIONS[(i + 1) % 4], (1, 1, 1, 0)) for i in range(30)]
        rates = {"learning_rate": rate, "tower_learning_rate": rate}
        config = HeadConfig(hidden_sizes=[8], batch_size=4, num_epochs=3, dropout=0.0, **rates, **settings)
        fit_preferences(towers, noise(30, broken=broken), [f"clip-{i}" for i in range(30)], pairs, config, seed=0)

    return run


def ppo(_make_captioner, _monkeypatch, rate, broken):
    update = make_update(learning_rate=rate, max_kl=0.0)
    for version in range(3):
        rollouts = sample(update.captioner, version, version=version)
        if broken:
            update.captioner.audio.bias.data[0] = torch.nan
        update.update([rollouts])


LOOPS = {
    "PPO": (ppo, "algorithm.learning_rate"),
    "SFT": (sft, "sft.learning_rate"),
    "SFT on text": (sft_on_text, "sft.text_epochs"),
    "CLAP": (clap, "reward.clap.learning_rate"),
    "reward head": (fit(finetune_towers=FinetuneTowers.none), "reward.head.learning_rate"),
    "reward ensemble": (fit(finetune_towers=FinetuneTowers.none, num_members=2), "reward.head.learning_rate"),
    "reward and projections": (fit(finetune_towers=FinetuneTowers.projections), "reward.head.tower_learning_rate"),
    "reward and towers": (fit(finetune_towers=FinetuneTowers.all), "reward.head.tower_learning_rate"),
    "reward and LoRA": (fit(finetune_towers=FinetuneTowers.text_lora), "reward.head.tower_learning_rate"),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_diverges_ends_by_the_name_of_what_to_lower(loop, make_captioner, monkeypatch):
    run, setting = LOOPS[loop]
    with pytest.raises((DivergedError, GuardError)) as caught:
        run(make_captioner, monkeypatch, TOO_FAST, broken=False)
    assert setting in str(caught.value) + getattr(caught.value, "remedy", "")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_begins_with_numbers_that_are_not_finite_says_so(loop, make_captioner, monkeypatch):
    run, _ = LOOPS[loop]
    with pytest.raises((DivergedError, GuardError), match=r"cannot begin|not finite stopped update 1"):
        run(make_captioner, monkeypatch, 1e-4, broken=True)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_sound_loop_is_let_through(loop, make_captioner, monkeypatch):
    LOOPS[loop][0](make_captioner, monkeypatch, 1e-4, broken=False)


def watch():
    return DivergenceWatch("training", "lower it")


def test_the_epoch_and_the_step_are_those_of_the_numbers_although_they_are_looked_at_later():
    watching = watch()
    for epoch, loss in ((0, 1.0), (0, 2.0), (1, float("inf"))):
        watching.note_step(epoch, torch.tensor(loss), torch.tensor(1.0))
    with pytest.raises(DivergedError) as caught:
        watching.note_step(1, torch.tensor(1.0), torch.tensor(1.0))
    assert str(caught.value) == (
        "training diverged in epoch 2 (step 3): the loss is inf and the norm of its gradient 1; lower it"
    )


def test_the_last_step_and_the_weights_that_it_leaves_are_looked_at():
    last = watch()
    last.note_step(0, torch.tensor(1.0), torch.tensor(1.0))
    last.note_step(0, torch.tensor(1.0), torch.tensor(torch.nan))
    with pytest.raises(DivergedError, match=r"step 2\): the loss is 1 and the norm of its gradient nan"):
        last.finish({})
    spoilt = watch()
    spoilt.note_step(0, torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(
        DivergedError, match=r"its last step \(number 1\) left weights that are not finite, in spoilt; lower it"
    ):
        spoilt.finish({"sound": torch.ones(2), "spoilt": torch.tensor([1.0, torch.inf])})


def test_a_validation_loss_that_is_not_finite_does_not_pass_for_one_that_fell_no_further():
    with pytest.raises(DivergedError, match="epoch 5: the validation loss is nan"):
        watch().check_validation(4, float("nan"))
