"""Log-probs and captions of every architecture, against plain transformers one caption at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_captioner import PlainCaptioner
from tiny_captioners import PROMPTS, adopt, heard, sample, scored, written
from tiny_models import ARCHITECTURES, AUDIO_LLMS, ENCODER_DECODERS

CLOSE = {"rtol": 0, "atol": 1e-4}
DURATIONS_S = (1.0, 0.3, 2.0, 1.4)
GROUPS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3])
CHECKED = (0, 2, 4, 5, 7, 9, 12, 14)
"""Rows of all clips."""
TRUNCATIONS = ({}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 12, "top_p": 0.9})

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def never_written(plain, captioner):
    """Tokens that may not be written: anywhere, and at the start."""
    settings = plain.model.generation_config
    anywhere = set(settings.suppress_tokens or ())
    if captioner.family == "audio_llm":
        anywhere.add(plain.processor.audio_token_id)
    return anywhere, anywhere | set(settings.begin_suppress_tokens or ())


def slow_scores(logits, tokens, temperature, forbidden, *, top_k=0, top_p=1.0):
    """Log-probs of tokens and the entropy of each, by sorting whole vocabularies in plain Python floats."""
    log_probs, entropies = [], []
    for place, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        row = row.clone()
        row[list(forbidden[place == 0])] = -math.inf
        probabilities = (row / temperature).softmax(-1).tolist()
        order = sorted(range(len(probabilities)), key=lambda one: -probabilities[one])[: top_k or None]
        candidates, kept, mass = sum(probabilities[one] for one in order), [], 0.0
        for one in order:
            if mass >= top_p * candidates:
                break
            kept.append(one)
            mass += probabilities[one]
        assert token in kept
        log_probs.append(math.log(probabilities[token] / mass))
        shares = [probabilities[one] / mass for one in kept]
        entropies.append(-sum(share * math.log(share) for share in shares if share))
    return torch.tensor(log_probs), torch.tensor(entropies)


@every_architecture
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampled_log_probs_are_the_teacher_forced_ones_and_those_of_the_plain_model(
    tiny_checkpoint, make_clips, architecture, temperature
):
    directory, clips = tiny_checkpoint(architecture), make_clips(*DURATIONS_S)
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    forbidden = never_written(plain, captioner)
    encoding = heard(captioner, clips)
    for truncation in TRUNCATIONS:
        sampled = sample(captioner, encoding, GROUPS, temperature=temperature, seed=3, **truncation)
        lengths = sampled.action_mask.sum(dim=1)
        forced = scored(captioner, encoding, GROUPS, sampled)
        torch.testing.assert_close(sampled.log_probs, forced.log_probs, **CLOSE)
        torch.testing.assert_close(sampled.values, forced.values, **CLOSE)
        for row in CHECKED if not truncation else CHECKED[::4]:
            tokens = sampled.tokens[row, : lengths[row]]
            logits = plain.logits(clips[GROUPS[row]].waveform, tokens)
            log_probs, entropy = slow_scores(logits, tokens.tolist(), temperature, forbidden, **truncation)
            torch.testing.assert_close(forced.log_probs[row, : lengths[row]], log_probs, **CLOSE)
            torch.testing.assert_close(forced.entropy[row, : lengths[row]], entropy, **CLOSE)
        if not truncation:
            assert lengths.min() <= 4, "an early end"
            assert ((lengths >= 6) & ~sampled.truncated).any(), "a late end"
            assert sampled.truncated.any(), "no end"


@every_architecture
def test_greedy_captions_are_those_that_the_library_generates(tiny_checkpoint, make_clips, architecture):
    directory, clips = tiny_checkpoint(architecture), make_clips(*DURATIONS_S)
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    # rlcap draws from the model's own distribution, and never writes the placeholder of the audio.
    settings = {"repetition_penalty": 1.0}
    if architecture in AUDIO_LLMS:
        settings["suppress_tokens"] = [plain.processor.audio_token_id]
    expected = [plain.greedy(clip.waveform, max_new_tokens=10, **settings)[0] for clip in clips]
    index = torch.tensor([2, 0, 1, 3])  # as many captions as clips, in another order
    found = written(captioner, sample(captioner, heard(captioner, clips), index))
    assert found == [expected[clip] for clip in index]
    assert len({tuple(caption) for caption in found}) > 1, "clips that sound different"


@every_architecture
def test_rows_that_stay_behind_go_on_reading_their_own_clip(tiny_checkpoint, make_clips, architecture, monkeypatch):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    encoding = heard(captioner, make_clips(*DURATIONS_S))
    index = torch.tensor([3, 3, 3, 2, 0, 0, 1, 1])
    state, hidden = captioner.begin(encoding, index, 8)
    tokens = torch.arange(8)[:, None] + torch.arange(6, 12)  # [B, 6], any
    steps = []
    rows = torch.arange(8)
    for t, kept in enumerate(([0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 5, 7], [0, 1, 2, 4], [1, 2], [0])):
        state.select_rows(torch.tensor(kept))
        rows, hidden = rows[kept], hidden[kept]
        steps.append((rows, hidden))
        hidden = captioner.step(state, tokens[rows, t])
    mask = torch.ones(8, 6, dtype=torch.bool)
    with torch.no_grad():
        expected = captioner.hidden_states(encoding, index, tokens, mask).view(8, 6, -1)
    for t, (rows, hidden) in enumerate(steps):
        torch.testing.assert_close(hidden, expected[rows, t], **CLOSE)


@every_architecture
@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_a_clip_is_scored_alike_whatever_else_is_in_the_batch(
    tiny_checkpoint, make_clips, architecture, freeze_encoder
):
    captioner = adopt(architecture, tiny_checkpoint(architecture), freeze_encoder=freeze_encoder)
    clips = make_clips(*DURATIONS_S)
    encoding = heard(captioner, clips)
    sampled = sample(captioner, encoding, GROUPS, seed=1)
    together = scored(captioner, encoding, GROUPS, sampled)
    for row in (0, 5, 11, 13):
        length = int(sampled.action_mask[row].sum())
        alone = heard(captioner, clips[GROUPS[row] : GROUPS[row] + 1])
        mask, tokens = sampled.action_mask[row : row + 1, :length], sampled.tokens[row : row + 1, :length]
        with torch.no_grad():
            found = captioner.log_probs(alone, torch.tensor([0]), tokens, mask, 1.0)
        for name in ("log_probs", "values", "entropy"):
            torch.testing.assert_close(getattr(together, name)[row, :length], getattr(found, name)[0], **CLOSE)


@pytest.mark.parametrize(
    ("architecture", "freeze_encoder"),
    [*((one, True) for one in ARCHITECTURES), *((one, False) for one in ENCODER_DECODERS)],
)
def test_padding_of_audio_and_captions_changes_nothing(tiny_checkpoint, make_clips, architecture, freeze_encoder):
    captioner = adopt(architecture, tiny_checkpoint(architecture), freeze_encoder=freeze_encoder)
    clips = make_clips(0.3, 1.0)
    features, index = captioner.features(clips), torch.tensor([0, 1, 1])
    sampled = sample(captioner, heard(captioner, clips), index, seed=1)
    expected = scored(captioner, heard(captioner, clips), index, sampled).log_probs
    # What a frozen encoder has heard may be padded on either side.
    for left, right in ((0, 1), (0, 64), *(((3, 0), (7, 9)) if freeze_encoder else ())):
        frames = np.pad(features.frames, ((0, 0), (left, right), (0, 0)), constant_values=7.0)
        mask = np.pad(features.frame_mask, ((0, 0), (left, right)))
        tokens = torch.nn.functional.pad(sampled.tokens, (0, right), value=5)
        action_mask = torch.nn.functional.pad(sampled.action_mask, (0, right))
        with torch.no_grad():
            encoding = captioner.encode(torch.from_numpy(frames), torch.from_numpy(mask))
            found = captioner.log_probs(encoding, index, tokens, action_mask, 1.0).log_probs
        torch.testing.assert_close(found[:, : expected.shape[1]], expected, **CLOSE)
        assert not found[:, expected.shape[1] :].any()


@pytest.mark.parametrize("architecture", AUDIO_LLMS)
def test_the_library_pads_prompts_on_the_left_and_writes_the_same(tiny_checkpoint, make_clips, architecture):
    directory, clips = tiny_checkpoint(architecture), make_clips(*DURATIONS_S)
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    plain.processor.tokenizer.padding_side = "left"
    settings = {"repetition_penalty": 1.0, "suppress_tokens": [plain.processor.audio_token_id]}
    expected = plain.greedy(*(clip.waveform for clip in clips), max_new_tokens=10, **settings)
    assert written(captioner, sample(captioner, heard(captioner, clips), torch.arange(4))) == expected


@every_architecture
def test_values_and_rankings_never_see_the_temperature(tiny_checkpoint, make_clips, architecture):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    encoding = heard(captioner, make_clips(*DURATIONS_S))
    cold, hot = (sample(captioner, encoding, GROUPS, temperature=temperature) for temperature in (0.7, 1.3))
    assert torch.equal(cold.tokens, hot.tokens)
    assert torch.equal(cold.values, hot.values)
    assert not torch.equal(cold.log_probs, hot.log_probs)
    forced = [scored(captioner, encoding, GROUPS, replace(cold, temperature=temperature)) for temperature in (0.7, 1.3)]
    assert torch.equal(forced[0].values, forced[1].values)


@every_architecture
def test_dropout_acts_in_training_mode_alone_and_never_on_a_frozen_encoder(tiny_checkpoint, make_clips, architecture):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    assert not any(module.training for module in captioner.modules())
    captioner.train()
    assert captioner.decoder_stack.training
    frozen = set(captioner.encoder.modules())
    assert not any(module.training for module in captioner.modules() if module in frozen)
    captioner.eval()
    assert not any(module.training for module in captioner.modules())
