"""What is computed on several threads beside busy processes is bit for bit what it is alone, again and again."""

import numpy as np
import pytest
import torch
from busy_machine import busy_machine
from small_captioner import gradient_of, make_update
from tiny_captioners import adopt

from actors.sampler import sample_captions
from learner.batching import Captions, Experience, Targets
from learner.supervised import supervise
from reward_server.clap_training import train_clap
from reward_server.fitting import fit_preferences
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.captioner import SftConfig
from rlcap.config.reward import ClapConfig, FinetuneTowers, HeadConfig
from rlcap.preferences.pairs import PreferencePair
from rlcap.threads import limited_threads
from rlcap.types import PolicyFeatures

NUM_THREADS = 4
NUM_CLIPS, GROUP, NUM_TOKENS = 16, 8, 16
DURATIONS_S = [1.0] * NUM_CLIPS
WORDS = ("a", "dog", "barks", "rain", "falls", "then")


@pytest.fixture
def policy(make_captioner):
    """A captioner whose passes are large enough for threads to share, with an encoder that is trained as well."""
    return make_captioner(freeze_encoder=False, width=128, num_heads=4, prefix_length=8, max_caption_tokens=NUM_TOKENS)


def spectrograms(num_clips):
    frames = np.random.default_rng(0).standard_normal((num_clips, 128, LogMelConfig().num_mels), dtype=np.float32)
    return PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))


def sentences(num_sentences):
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 10))) for _ in range(num_sentences)]


def weights_of(*modules):
    return torch.cat([tensor.detach().double().reshape(-1) for one in modules for tensor in one.state_dict().values()])


def random_experience(captioner, clips):
    """Captions of random tokens and lengths, several a clip, with targets at random."""
    generator = torch.Generator().manual_seed(0)
    features = captioner.features(clips)
    rows = len(clips) * GROUP
    tokens = torch.randint(3, 9, (rows, NUM_TOKENS), generator=generator)
    lengths = torch.randint(1, NUM_TOKENS + 1, (rows, 1), generator=generator)
    captions = Captions(
        frames=torch.from_numpy(features.frames),
        frame_mask=torch.from_numpy(features.frame_mask),
        clip_index=torch.arange(len(clips)).repeat_interleave(GROUP),
        tokens=tokens,
        action_mask=torch.arange(NUM_TOKENS) < lengths,
        temperature=1.0,
    )
    log_probs, advantages, returns = (torch.randn(rows, NUM_TOKENS, generator=generator) for _ in range(3))
    return Experience(captions, Targets(log_probs, log_probs, log_probs, returns, advantages, returns))


def assert_same_bits(compute, num_times):
    """Hold what `compute` gives beside busy processes to what it gave without them."""
    with limited_threads(NUM_THREADS):
        expected = compute()
        with busy_machine():
            for _ in range(num_times):
                assert torch.equal(compute(), expected)


def assert_same_gradients(captioner, clips):
    update = make_update(captioner, entropy_coef=0.01)
    experience = random_experience(captioner, clips)
    captioner.eval()

    def gradient():
        update.compute_gradient(experience, torch.arange(len(clips)), num_units=100.0)
        return gradient_of(update)

    assert_same_bits(gradient, num_times=40)


def test_gradients_of_the_learner(policy, make_clips):
    assert_same_gradients(policy, make_clips(*DURATIONS_S))


@pytest.mark.parametrize("architecture", ["whisper", "speech_bart", "qwen2_audio"])
def test_gradients_of_the_learner_for_given_checkpoints(tiny_checkpoint, make_clips, architecture):
    assert_same_gradients(adopt(architecture, tiny_checkpoint(architecture)), make_clips(*DURATIONS_S[:4]))


def test_sampled_captions_and_their_log_probs(policy, make_clips):
    features = policy.features(make_clips(*DURATIONS_S))
    frames, mask = torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)
    clip_index = torch.arange(NUM_CLIPS).repeat_interleave(GROUP)

    def draw():
        with torch.inference_mode():
            sampled = sample_captions(
                policy,
                policy.encode(frames, mask),
                clip_index,
                temperature=1.0,
                max_new_tokens=NUM_TOKENS,
                generator=torch.Generator().manual_seed(0),
            )
        return torch.cat([sampled.tokens.double(), sampled.log_probs.double(), sampled.values.double()], dim=1)

    assert_same_bits(draw, num_times=10)


def test_supervised_training(make_captioner, make_clips):
    clips = make_clips(*DURATIONS_S)

    def train():
        captioner = make_captioner(freeze_encoder=False, width=128, num_heads=4, prefix_length=8)
        written = [[sentence] for sentence in sentences(NUM_CLIPS)]
        config = SftConfig(num_epochs=2, batch_size=8, learning_rate=1e-3, augment=True)
        supervise(captioner, captioner.features(clips), written, config, 0, lambda *_: None)
        return weights_of(captioner)

    assert_same_bits(train, num_times=5)


def test_training_of_the_clap():
    def train():
        clap, _ = train_clap(spectrograms(64), sentences(64), ClapConfig(num_epochs=2, batch_size=32), seed=0)
        return weights_of(clap)

    assert_same_bits(train, num_times=5)


@pytest.mark.parametrize("towers", FinetuneTowers)
def test_fits_of_the_reward_model(towers):
    # Seven pairs a clip: threads share out the pairs of a batch, and meet within those of a clip.
    captions, clip_ids = sentences(336), [f"clip-{number}" for number in range(24)]
    clap = SmallClap.for_captions(ClapConfig(), captions, LogMelConfig(), seed=0)
    pairs = [
        PreferencePair(clip_ids[number // 7], captions[2 * number], captions[2 * number + 1], (1, 1, -1))
        for number in range(168)
    ]
    config = HeadConfig(num_epochs=3, batch_size=128, finetune_towers=towers)

    def fit():
        fitted = fit_preferences(clap, spectrograms(24), clip_ids, pairs, config, seed=0)
        return weights_of(fitted.clap, fitted.head)

    assert_same_bits(fit, num_times=5)
