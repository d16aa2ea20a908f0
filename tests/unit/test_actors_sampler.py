import pytest
import torch

from actors import sampler
from actors.sampler import sample_captions, score_as_drawn
from rlcap.captioners.distribution import DrawnTokens

CLOSE = {"rtol": 0, "atol": 1e-4}
MAX_NEW_TOKENS = 12
DURATIONS_S = (1.0, 0.1, 2.5, 6.0)
GROUPS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3])


def encoded(captioner, clips):
    features = captioner.features(clips)
    with torch.no_grad():
        return captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))


def sample(
    captioner, encoding, clip_index=GROUPS, *, temperature=1.0, seed=None, max_new_tokens=MAX_NEW_TOKENS, **truncation
):
    return sample_captions(
        captioner,
        encoding,
        clip_index,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        **truncation,
    )


def slow_greedy(captioner, encoding, clip):
    """Read the whole caption again for each token, by the plain language model."""
    prefix = encoding.states[clip : clip + 1]
    tokens = []
    while len(tokens) < MAX_NEW_TOKENS and captioner.eos_token_ids[0] not in tokens:
        words = captioner.language_model.get_input_embeddings()(torch.tensor([tokens], dtype=torch.long))
        with torch.no_grad():
            logits = captioner.language_model(inputs_embeds=torch.cat([prefix, words], dim=1)).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


def written(sampled):
    return [row[mask].tolist() for row, mask in zip(sampled.tokens, sampled.action_mask, strict=True)]


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("truncation", [{}, {"top_k": 4}, {"top_p": 0.8}, {"top_k": 6, "top_p": 0.9}])
def test_sampled_log_probs_and_values_are_the_teacher_forced_ones(
    make_captioner, make_clips, freeze_encoder, temperature, truncation, llama
):
    captioner = make_captioner(seed=1, freeze_encoder=freeze_encoder, llama=llama)
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    sampled = sample(captioner, encoding, temperature=temperature, seed=5, **truncation)
    lengths = sampled.action_mask.sum(dim=1)
    if not truncation:
        assert lengths.min() <= 3, "an early end"
        assert ((lengths > 5) & ~sampled.truncated).any(), "a late end"
        assert sampled.truncated.any(), "no end"
    with torch.no_grad():
        forced = score_as_drawn(captioner, encoding, GROUPS, sampled)
    torch.testing.assert_close(sampled.log_probs, forced.log_probs, **CLOSE)
    torch.testing.assert_close(sampled.values, forced.values, **CLOSE)


def test_masks_end_with_the_end_of_the_caption(make_captioner, make_clips):
    captioner = make_captioner(seed=1)
    sampled = sample(captioner, encoded(captioner, make_clips(*DURATIONS_S)), seed=3)
    for row, tokens in enumerate(written(sampled)):
        ended = captioner.eos_token_ids[0] in tokens
        assert ended is not bool(sampled.truncated[row])
        assert tokens.index(captioner.eos_token_ids[0]) == len(tokens) - 1 if ended else len(tokens) == MAX_NEW_TOKENS
    for value in (sampled.log_probs, sampled.values):
        assert not value[~sampled.action_mask].any()
    assert (sampled.tokens[~sampled.action_mask] == captioner.pad_token_id).all()


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_captions_are_those_of_a_slow_loop(make_captioner, make_clips, freeze_encoder, seed, llama):
    captioner = make_captioner(seed=seed, freeze_encoder=freeze_encoder, llama=llama)
    encoding = encoded(captioner, make_clips(*DURATIONS_S, seed=seed))
    index = torch.tensor([2, 0, 1, 3])
    found = written(sample(captioner, encoding, index))
    assert found == [slow_greedy(captioner, encoding, clip) for clip in index.tolist()]


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_a_clip_is_captioned_alike_whatever_else_is_in_the_batch(make_captioner, make_clips, freeze_encoder):
    captioner, clips = make_captioner(freeze_encoder=freeze_encoder), make_clips(*DURATIONS_S)
    together = sample(captioner, encoded(captioner, clips), torch.arange(4))
    for clip in range(4):
        alone = sample(captioner, encoded(captioner, clips[clip : clip + 1]), torch.tensor([0]))
        length = alone.tokens.shape[1]
        assert written(alone)[0] == written(together)[clip]
        torch.testing.assert_close(together.log_probs[clip, :length], alone.log_probs[0], **CLOSE)
        torch.testing.assert_close(together.values[clip, :length], alone.values[0], **CLOSE)


class ScriptedDraws:
    """Draws by the clock alone, so that captions do not depend on which rows are still there."""

    def __init__(self, lengths, eos):
        self.lengths, self.eos, self.growing, self.t = lengths, eos, torch.arange(len(lengths)), 0

    def keep(self, rows):
        self.growing = self.growing[rows]

    def __call__(self, logits, **_):
        self.t += 1
        tokens = torch.where(self.lengths[self.growing] == self.t, self.eos, 3 + (self.growing + self.t) % 5)
        return DrawnTokens(tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1), None)


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("compact_below", [0.0, 0.4, 0.75, 1.0])
def test_compaction_changes_no_result(make_captioner, make_clips, monkeypatch, compact_below, llama):
    captioner = make_captioner(llama=llama)
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    lengths = torch.tensor([1, 5, 3, 9, 2, 2, 7, 99, 4, 1, 11, 6, 3, 8, 12, 2])
    results = []
    for share in (0.0, compact_below):
        draws = ScriptedDraws(lengths, captioner.eos_token_ids[0])
        begin = captioner.begin

        def begin_and_follow(*arguments, begin=begin, draws=draws):
            state, hidden = begin(*arguments)
            select_rows = state.cache.select_rows
            state.cache.select_rows = lambda rows: (draws.keep(rows), select_rows(rows))
            return state, hidden

        with monkeypatch.context() as patch:
            patch.setattr(captioner, "begin", begin_and_follow)
            patch.setattr(sampler, "draw", draws)
            patch.setattr(sampler, "COMPACT_BELOW", share)
            results.append(sample(captioner, encoding))
    whole, compacted = results
    assert whole.action_mask.sum(dim=1).tolist() == lengths.clamp(max=MAX_NEW_TOKENS).tolist()
    assert torch.equal(whole.tokens, compacted.tokens)
    assert torch.equal(whole.truncated, compacted.truncated)
    torch.testing.assert_close(whole.log_probs, compacted.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.values, compacted.values, rtol=0, atol=1e-5)


def test_the_seed_decides_what_is_drawn(make_captioner, make_clips):
    captioner = make_captioner()
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    one, again, other = (sample(captioner, encoding, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.log_probs, again.log_probs)
    assert written(one) != written(other)


def test_tokens_are_drawn_as_often_as_their_probability_says(make_captioner, make_clips):
    captioner = make_captioner()
    encoding = encoded(captioner, make_clips(1.0))
    index = torch.zeros(4000, dtype=torch.long)
    drawn = sample(captioner, encoding, index, temperature=1.3, seed=0, max_new_tokens=1)
    _, hidden = captioner.begin(encoding, index[:1], 1)
    expected = (captioner.logits(hidden)[0] / 1.3).softmax(-1)
    found = torch.bincount(drawn.tokens[:, 0], minlength=len(expected)) / len(index)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_values_never_see_the_temperature(make_captioner, make_clips):
    captioner = make_captioner()
    encoding = encoded(captioner, make_clips(*DURATIONS_S))
    cold, hot = (sample(captioner, encoding, temperature=temperature) for temperature in (0.5, 2.0))
    assert torch.equal(cold.tokens, hot.tokens)  # greedy: the order of the scores stays
    assert torch.equal(cold.values, hot.values)
    assert not torch.equal(cold.log_probs, hot.log_probs)
