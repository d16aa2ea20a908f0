import numpy as np
import pytest
import torch
from small_captioner import EOS, MELS, SmallCaptioner
from tiny_captioners import adopt
from torch import nn

from learner.supervised import supervise, teach_language
from rlcap.config.captioner import SftConfig
from rlcap.config.precision import Precision
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


def spy_on_captions(captioner):
    """Return a list that grows by the captions of each pass."""
    read, log_probs = [], captioner.log_probs

    def spy(encoding, clip_index, tokens, action_mask, temperature):
        read.append(captioner.decode(tokens, action_mask))
        return log_probs(encoding, clip_index, tokens, action_mask, temperature)

    captioner.log_probs = spy
    return read


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
    read = spy_on_captions(captioner)
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


FAMILIES = ("prefix", "whisper", "speech_gpt2", "speech_bart", "qwen2_audio", "audio_flamingo_3")
TEXTS = ("a dog", "rain then a dog falls", "a dog then rain falls", "rain", "falls")


@pytest.fixture
def make_family(make_captioner, tiny_checkpoint):
    """Return a function that makes a captioner of a family, ready to be taught."""

    def make(family, **settings):
        if family == "prefix":
            return make_captioner(**settings)
        return adopt(family, tiny_checkpoint(family), **settings).eval()

    return make


def gradient_of(captioner, features, captions, monkeypatch, *, without_dropout=True, **changes):
    """Return the gradient of the first step, unclipped, and the loss."""
    found = []

    def keep(parameters, _):
        found.append([None if one.grad is None else one.grad.clone() for one in parameters])
        return torch.tensor(1.0)

    with monkeypatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", keep)
        if without_dropout:
            patch.setattr(captioner, "train", lambda _=True: captioner)
        settings = config(num_epochs=1, batch_size=len(captions), learning_rate=1e-9, **changes)
        loss = supervise(captioner, features, captions, settings, 0, lambda *_: None)
    (gradient,) = found
    return torch.cat([one.flatten() for one in gradient if one is not None]), loss


def with_something_forbidden(captioner):
    """Forbid the second token of a caption, where nothing is forbidden yet; return captions with it."""
    captions = [[text] for text in TEXTS]
    tokens, mask = captioner.tokenize(TEXTS)
    if not torch.isin(tokens[mask], torch.tensor(captioner.forbidden_tokens)).any():
        captioner.forbidden_tokens = (*captioner.forbidden_tokens, int(tokens[1, 1]))
    return captions


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_leave_the_gradient_of_the_whole_batch(make_family, make_clips, monkeypatch, family):
    captioner = make_family(family)
    captions = with_something_forbidden(captioner)
    features = captioner.features(make_clips(1.0, 0.5, 2.0, 1.5, 0.7))
    whole, loss = gradient_of(captioner, features, captions, monkeypatch)
    split, split_loss = gradient_of(captioner, features, captions, monkeypatch, microbatch_size=2)
    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    assert split_loss == pytest.approx(loss, rel=1e-5)
    rounded, rounded_loss = gradient_of(
        captioner, features, captions, monkeypatch, microbatch_size=2, precision=Precision.bfloat16
    )
    assert torch.cosine_similarity(rounded, whole, dim=0) > 0.98
    assert rounded_loss != loss
    assert rounded_loss == pytest.approx(loss, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_layers_leave_the_same_gradient_with_dropout(make_family, make_clips, monkeypatch, family):
    gradients = []
    for checkpointing in (False, True):
        captioner = make_family(family, gradient_checkpointing=checkpointing)
        features = captioner.features(make_clips(1.0, 0.5, 2.0, 1.5, 0.7))
        captions = [[text] for text in TEXTS]
        gradients.append(gradient_of(captioner, features, captions, monkeypatch, without_dropout=False)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_caption_makes_the_loss_anything_but_finite(make_family, make_clips, caplog, family):
    captioner = make_family(family)
    with_something_forbidden(captioner)
    forbidden = captioner.tokenizer.decode([captioner.forbidden_tokens[-1]])
    captions = [[""], [f"a {forbidden} dog"], ["a dog then rain " * 400], [forbidden], ["a dog"]]
    losses = taught(
        captioner, make_clips(1.0, 0.5, 2.0, 1.5, 0.7), config(num_epochs=2, learning_rate=1e-4), 0, captions
    )
    assert all(0 < loss < 100 for loss in losses)
    told = [record.getMessage() for record in caplog.records]
    assert any("left out of the loss" in message for message in told)
    assert any("are cut to the" in message for message in told)
    assert any("captions are left out" in message for message in told)


class InDoublePrecision(SmallCaptioner):
    """A captioner whose words are numbers."""

    pad_token_id = EOS
    forbidden_tokens = (5,)
    forbidden_first_tokens = (3,)
    tokenizer = type("Tokenizer", (), {"decode": staticmethod(str)})

    def encode(self, frames, frame_mask):
        return super().encode(frames.double(), frame_mask)

    def longest_caption(self, _):
        return 4

    def tokenize(self, captions):
        rows = [torch.tensor([*map(int, caption.split()), EOS]) for caption in captions]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=EOS)
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


@pytest.mark.parametrize("microbatch_size", [0, 1, 2, 5])
def test_the_gradient_is_that_of_the_mean_over_all_tokens_that_may_be_written(monkeypatch, microbatch_size):
    captions = ["1 2", "3 1 5 2", "4 4 4 4 4 4", "6", "2 5"]
    frames = np.random.default_rng(0).normal(size=(5, 6, MELS)).astype(np.float32)
    features = PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))
    found, loss = gradient_of(
        InDoublePrecision().double(),
        features,
        [[one] for one in captions],
        monkeypatch,
        microbatch_size=microbatch_size,
    )
    captioner = InDoublePrecision().double()
    # One token after the other, each behind those before it.
    total, count = torch.zeros((), dtype=torch.float64), 0
    for clip, caption in enumerate(captions):
        state = captioner.audio(torch.tensor(frames[clip]).double().mean(dim=0))
        before = None
        for place, token in enumerate([*map(int, caption.split()), EOS][:4]):
            hidden = torch.tanh(state if before is None else state + captioner.token.weight[before])
            if token != 5 and not (place == 0 and token == 3):
                total, count = total - captioner.vocabulary(hidden).log_softmax(-1)[token], count + 1
            before = token
    (total / count).backward()
    expected = [one.grad for name, one in captioner.named_parameters() if "value_head" not in name]
    torch.testing.assert_close(found, torch.cat([one.flatten() for one in expected]), rtol=1e-10, atol=1e-12)
    assert loss == pytest.approx((total / count).item(), rel=1e-6)
