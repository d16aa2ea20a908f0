import numpy as np
import pytest
import torch

from learner.supervised import supervise, teach_language
from rlcap.config.captioner import SftConfig
from rlcap.types import PolicyFeatures

CAPTIONS = (("a dog barks",), ("rain falls", "rain then rain"), ("a dog then rain falls",))


def config(**changes):
    return SftConfig(**{"num_epochs": 8, "batch_size": 2, "learning_rate": 1e-2, **changes})


def taught(captioner, clips, settings, seed=0, captions=CAPTIONS):
    return losses_of(captioner, captioner.features(clips), captions, settings, seed)


def losses_of(captioner, features, captions, settings, seed=0):
    losses = []
    last = supervise(captioner, features, captions, settings, seed, lambda _, loss: losses.append(loss))
    assert last == losses[-1]
    return losses


def state_of(captioner):
    return {name: value.clone() for name, value in captioner.state_dict().items()}


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_the_loss_falls(make_captioner, make_clips, freeze_encoder):
    captioner = make_captioner(freeze_encoder=freeze_encoder)
    losses = taught(captioner, make_clips(1.0, 0.5, 2.0), config(num_epochs=25, augment=not freeze_encoder))
    assert len(losses) == 25
    assert losses[-1] < 0.5 * losses[0]
    assert not captioner.training


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(make_captioner, make_clips, freeze_encoder):
    results = []
    for global_seed, seed in ((1, 7), (2, 7), (1, 8)):
        captioner = make_captioner(freeze_encoder=freeze_encoder)
        torch.manual_seed(global_seed)
        taught(captioner, make_clips(1.0, 0.5, 2.0), config(num_epochs=2, augment=not freeze_encoder), seed)
        results.append(state_of(captioner))
    one, again, other = results
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_global_randomness_is_left_as_it_was(make_captioner, make_clips):
    captioner, clips = make_captioner(), make_clips(1.0, 0.5, 2.0)
    before = torch.random.get_rng_state()
    taught(captioner, clips, config(num_epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_weights_and_batch_statistics_and_critic_stay(make_captioner, make_clips):
    captioner = make_captioner()
    before = state_of(captioner)
    taught(captioner, make_clips(1.0, 0.5, 2.0), config(num_epochs=2))
    changed = {name for name, value in captioner.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("audio_tower", "value_head"))]


def test_every_caption_of_a_clip_has_its_turn(make_captioner, make_clips):
    captioner = make_captioner()
    read = []
    tokenize = captioner.tokenize
    captioner.tokenize = lambda captions: (read.append(tuple(captions)), tokenize(captions))[1]
    taught(captioner, make_clips(1.0, 0.5, 2.0), config(num_epochs=4, batch_size=3))
    of_second_clip = [next(text for text in captions if text in CAPTIONS[1]) for captions in read]
    assert of_second_clip == ["rain falls", "rain then rain"] * 2


def test_a_first_epoch_without_learning_reports_the_loss_of_the_captions(make_captioner, make_clips):
    captioner, clips = make_captioner(dropout=0.0), make_clips(1.0, 0.5, 2.0)
    features = captioner.features(clips)
    tokens, mask = captioner.tokenize([captions[0] for captions in CAPTIONS])
    with torch.no_grad():
        encoding = captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
        scored = captioner.log_probs(encoding, torch.arange(3), tokens, mask, temperature=1.0)
    expected = -float(scored.log_probs.sum() / mask.sum())
    found = taught(captioner, clips, config(num_epochs=1, batch_size=3))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_padding_teaches_nothing(make_captioner, make_clips):
    clips = make_clips(1.0, 0.5, 2.0)
    results = []
    for extra in (0, 40):
        captioner = make_captioner(dropout=0.0)
        heard = captioner.features(clips)
        padded = PolicyFeatures(
            np.pad(heard.frames, ((0, 0), (0, extra), (0, 0))), np.pad(heard.frame_mask, ((0, 0), (0, extra)))
        )
        results.append(losses_of(captioner, padded, CAPTIONS, config(num_epochs=3)))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_language_is_taught_without_audio(make_captioner, make_clips):
    captioner, clips = make_captioner(), make_clips(1.0, 2.0)
    blank, losses = captioner.features(clips[:1]), []
    texts = ["a dog barks", "rain then rain"] * 4
    heard_before = captioner.clip_to_prefix[1].weight.clone()
    last = teach_language(captioner, blank, texts, config(text_epochs=30), 0, lambda _, loss: losses.append(loss))
    assert len(losses) == 30
    assert last == losses[-1] < 0.5 * losses[0]
    assert not captioner.training
    # The way from audio to prefix got no gradient, only decay.
    decayed = captioner.clip_to_prefix[1].weight / heard_before
    assert decayed.std() < 1e-4


def test_language_needs_no_particular_audio(make_captioner, make_clips):
    results = []
    for clip in make_clips(1.0, 2.0):
        captioner = make_captioner()
        teach_language(
            captioner, captioner.features([clip]), ["a dog barks"], config(text_epochs=2), 0, lambda *_: None
        )
        results.append(state_of(captioner))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
