"""Checks on `begin`, `step`, `hidden_states` and `log_probs`: what is sampled is what is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from actors.sampler import SampledCaptions, sample_captions, score_as_drawn
from rlcap.captioners.captioner import PolicyOutput
from rlcap.conformance.findings import Finding, Gap, check, gap, gaps, judge
from rlcap.conformance.subject import MAX_NEW_TOKENS, Subject

TEMPERATURES = (0.7, 1.0, 1.3)
TRUNCATIONS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", from the top k and p": {"top_k": 5, "top_p": 0.9},
}
ROUNDING = 1e-5
"""How far a log-prob may lie above 0."""


@check(
    "scores have the shape of the captions",
    expected="log-probs of at most 0, values, and entropies of at least 0, all finite, and 0 outside the action mask",
    remedy="return one hidden state for each True of the action mask from `hidden_states`, in its order",
)
def well_formed_scores(subject: Subject) -> Finding:
    """Look at what scoring returns."""
    output, mask = subject.score(), subject.captions.action_mask
    parts = {"log-probs": output.log_probs, "values": output.values, "entropies": output.entropy}
    faults = [f"{name} of shape {list(part.shape)}" for name, part in parts.items() if part.shape != mask.shape]
    if not faults:
        faults += [f"{name} that are not finite" for name, part in parts.items() if not part.isfinite().all()]
        faults += [f"{name} behind the end" for name, part in parts.items() if part[~mask].any()]
    faults += ["log-probs above 0"] * bool((output.log_probs > ROUNDING).any())
    faults += ["entropies below 0"] * bool((output.entropy < -ROUNDING).any())
    return Finding(not faults, ", ".join(faults) or f"{list(mask.shape)}, {int(mask.sum())} of them tokens")


@check(
    "a token is predicted from those before it alone",
    expected="the same log-probs and values of all tokens before the last, and the same value there, whatever it is",
    remedy="in `hidden_states`, mask the future, and predict token t from a state that has read tokens 0 to t - 1",
)
def causality(subject: Subject) -> Finding:
    """Replace the last token of every caption."""
    captions = subject.captions
    last = captions.action_mask.sum(dim=1) - 1
    rows = torch.arange(len(last), device=last.device)
    others = captions.tokens.clone()
    others[rows, last] = captions.tokens[rows.flip(0), 0]
    one = subject.score()
    other = subject.score(captions=replace(captions, tokens=others))
    before = captions.action_mask.clone()
    before[rows, last] = False
    return judge(
        [
            gap("in the log-probs", other.log_probs[before], one.log_probs[before]),
            gap("in the values", other.values, one.values),
        ]
    )


@check(
    "captions grow token by token as they are scored",
    expected="log-probs and values of `begin` and `step` as of `hidden_states`, while rows end and leave, to 1e-4",
    remedy="let `step` see all tokens so far at their own positions, and select_rows keep all that belongs to a row",
)
def growth(subject: Subject) -> Finding:
    """Write given captions by `begin`, `step` and `select_rows`: early ends, late ends, and none."""
    return judge(gaps("of begin and step", _grown(subject), subject.score()))


@check(
    "sampled log-probs and values are the teacher-forced ones",
    expected="equal to 1e-4 at temperatures 0.7, 1 and 1.3, drawn from all tokens and from the top k and p",
    remedy="let `log_probs` score what the sampler draws from: `next_token_logits` of the same hidden states",
)
def sampled_log_probs(subject: Subject) -> Finding:
    """Sample ragged groups, and score them."""

    def measured() -> Iterator[Gap]:
        for temperature in TEMPERATURES:
            for truncated, settings in TRUNCATIONS.items():
                found = _sample(subject, temperature, seed=0, **settings)
                with torch.no_grad():
                    forced = score_as_drawn(subject.captioner, subject.encoding, subject.clip_index, found)
                sampled = PolicyOutput(found.log_probs, found.values, forced.entropy)
                yield from gaps(f"at temperature {temperature:g}{truncated}", sampled, forced)

    return judge(measured())


@check(
    "greedy captions are repeatable",
    expected="the same tokens and log-probs twice",
    remedy="draw nothing at random in `begin`, `step` and `logits`",
)
def greedy_twice(subject: Subject) -> Finding:
    """Decode greedily twice."""
    one, other = _sample(subject, 1.0), _sample(subject, 1.0)
    names = ("tokens", "log_probs")
    return judge(gap(f"in the {name}", getattr(other, name), getattr(one, name)) for name in names)


@check(
    "greedy tokens are the most probable ones when scored",
    expected="no token of larger logit in teacher forcing than the one written, by more than 1e-4",
    remedy="compare `step` with `hidden_states`: positions, masks, and what each reads before the first token",
)
def greedy_is_argmax(subject: Subject) -> Finding:
    """Look for tokens that teacher forcing prefers."""
    written = _sample(subject, 1.0)
    mask = written.action_mask
    is_first = torch.zeros_like(mask)
    is_first[:, 0] = True
    with torch.no_grad():
        hidden = subject.captioner.hidden_states(subject.encoding, subject.clip_index, written.tokens, mask)
        logits = subject.captioner.next_token_logits(hidden, is_first[mask])
    chosen = logits.gather(-1, written.tokens[mask][:, None]).squeeze(-1)
    return judge([gap("in the logits", chosen, logits.amax(dim=-1))])


@check(
    "values do not see the temperature",
    expected="the same values at temperatures 0.5 and 2, scored and sampled",
    remedy="compute values from hidden states, before any temperature",
)
def values_without_temperature(subject: Subject) -> Finding:
    """Compare values at two temperatures."""
    cold, hot = (subject.score(temperature=temperature).values for temperature in (0.5, 2.0))
    written = [_sample(subject, temperature).values for temperature in (0.5, 2.0)]  # greedy: the same tokens
    return judge([gap("where captions are scored", hot, cold), gap("where they are sampled", *written)])


WRITING = (
    well_formed_scores,
    causality,
    growth,
    sampled_log_probs,
    greedy_twice,
    greedy_is_argmax,
    values_without_temperature,
)


def _sample(subject: Subject, temperature: float, seed: int | None = None, **truncation: Any) -> SampledCaptions:  # noqa: ANN401
    return sample_captions(
        subject.captioner,
        subject.encoding,
        subject.clip_index,
        temperature=temperature,
        max_new_tokens=MAX_NEW_TOKENS,
        generator=None if seed is None else torch.Generator(subject.device).manual_seed(seed),
        **truncation,
    )


@torch.no_grad()
def _grown(subject: Subject) -> PolicyOutput:
    """Score the given captions by a step a token; rows leave once they have ended."""
    captioner, captions = subject.captioner, subject.captions
    lengths = captions.action_mask.sum(dim=1)
    log_probs = torch.zeros(captions.tokens.shape, device=subject.device)
    values = torch.zeros_like(log_probs)
    rows = torch.arange(len(lengths), device=subject.device)
    state, hidden = captioner.begin(subject.encoding, captions.clip_index, captions.tokens.shape[1])
    for t in range(captions.tokens.shape[1]):
        tokens = captions.tokens[rows, t]
        logits = captioner.next_token_logits(hidden, torch.full_like(rows, t == 0, dtype=torch.bool))
        log_probs[rows, t] = logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
        values[rows, t] = captioner.value(hidden).float()
        kept = (lengths[rows] > t + 1).nonzero().squeeze(-1)
        if not len(kept):
            break
        if state.can_shrink and len(kept) < len(rows):
            state.select_rows(kept)
            rows, tokens = rows[kept], tokens[kept]
        hidden = captioner.step(state, tokens)
    ended = ~captions.action_mask
    return PolicyOutput(log_probs.masked_fill(ended, 0.0), values.masked_fill(ended, 0.0), torch.zeros_like(values))
