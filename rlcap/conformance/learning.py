"""Checks on what training relies on: gradients, the value head, weights that travel, and a reference that stays."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlcap.captioners.captioner import Captioner, PolicyOutput
from rlcap.captioners.weights import load_into, publish
from rlcap.conformance.findings import Finding, check, gaps, judge
from rlcap.conformance.subject import VALUE_HEAD, Subject, hear, score

EXACT = 1e-6
"""For what ought to be the same numbers, computed twice."""
NAMED = 3
"""Parameters that a finding names."""


@check(
    "the critic is a module named value_head",
    expected="trainable parameters below a module named value_head, and others outside of it",
    remedy="call the critic self.value_head: its learning rate is its own, and captioners without one know no ppo",
)
def value_head_named(subject: Subject) -> Finding:
    """Count trainable parameters on both sides."""
    critic, policy = _trainable(subject.captioner)
    return Finding(bool(critic and policy), f"{len(critic)} tensors of a value head, {len(policy)} of a policy")


@check(
    "nothing is dropped at random in evaluation mode",
    expected="the same log-probs and values in two passes, and again after training mode was on and off",
    remedy="drop through nn.Dropout, or functional.dropout with training=self.training; keep frozen parts in eval mode",
)
def no_dropout(subject: Subject) -> Finding:
    """Hear and score all clips three times."""
    first = _whole_pass(subject)
    second = _whole_pass(subject)
    subject.captioner.train()
    subject.captioner.eval()
    third = _whole_pass(subject)
    return judge([*gaps("of two passes", second, first), *gaps("after training mode", third, first)], EXACT)


@check(
    "gradients reach every trainable parameter of the policy",
    expected="a finite gradient of the log-probs in every trainable parameter outside the value head",
    remedy="use it in `encode`, `hidden_states` or `logits`, without no_grad, or freeze it by requires_grad_(False)",
)
def gradients_reach_the_policy(subject: Subject) -> Finding:
    """Go back from the log-probs."""
    _, policy = _trainable(subject.captioner)
    with _gradients_of(subject, "log_probs") as reached:
        missing = sorted(policy.keys() - reached.keys())
        broken = sorted(name for name in policy.keys() & reached.keys() if not reached[name].isfinite().all())
    if broken:
        return Finding(passed=False, got=f"gradients that are not finite in {_some(broken)}")
    return Finding(not missing, f"none in {_some(missing)}" if missing else f"gradients in all {len(policy)} tensors")


@check(
    "the critic's gradient stays in the value head",
    expected="gradients of the values in the value head alone, and none of the log-probs there",
    remedy="detach the hidden states that the value head reads, as Captioner.value does",
)
def critic_apart(subject: Subject) -> Finding:
    """Go back from values and from log-probs."""
    critic, _ = _trainable(subject.captioner)
    with _gradients_of(subject, "values") as reached:
        strays = sorted(reached.keys() - critic.keys())
        missing = sorted(critic.keys() - reached.keys())
    with _gradients_of(subject, "log_probs") as reached:
        bent = sorted(reached.keys() & critic.keys())
    faults = [f"gradients of the values in {_some(strays)}"] * bool(strays)
    faults += [f"none of the values in {_some(missing)}"] * bool(missing)
    faults += [f"gradients of the log-probs in {_some(bent)}"] * bool(bent)
    return Finding(not faults, ", ".join(faults) or f"gradients in the {len(critic)} tensors of the value head")


@check(
    "weights travel from learner to actors",
    expected="the learner's log-probs and values from an actor that has loaded its published weights, to 1e-6",
    remedy="keep every weight in a parameter or buffer, in modules that are attributes, nn.ModuleList or nn.ModuleDict",
)
def weights_travel(subject: Subject) -> Finding:
    """Move the weights, publish them, and load them into a copy that has not moved."""
    actor = _copy_of(subject.captioner)
    with subject.moved():
        expected = _score_by(subject, subject.captioner)
        load_into(actor, publish(subject.captioner, trainable_only=True))
        return judge(gaps("of the actor", _score_by(subject, actor), expected), EXACT)


@check(
    "the frozen reference is the captioner as it was, and stays so",
    expected="the captioner's log-probs, with its adapters off, before and after its trainable weights move",
    remedy="share nothing trainable with the reference: do not override frozen_reference, or copy all that is trained",
)
def reference_stays(subject: Subject) -> Finding:
    """Score by the reference before and after the policy moves."""
    with _adapters_off(subject.captioner):
        expected = _score_by(subject, subject.captioner)
    reference = subject.captioner.frozen_reference()
    trainable = [name for name, parameter in reference.named_parameters() if parameter.requires_grad]
    if trainable:
        return Finding(passed=False, got=f"a reference that can be trained: {_some(trainable)}")
    before = _score_by(subject, reference)
    with subject.moved():
        after = _score_by(subject, reference)
        moved = _score_by(subject, subject.captioner)
    if torch.equal(moved.log_probs, expected.log_probs):
        return Finding(passed=False, got="a policy whose log-probs stay when its trainable weights move")
    return judge([*gaps("at first", before, expected), *gaps("once the policy has moved", after, before)])


@check(
    "it computes in bfloat16 too",
    expected="finite log-probs and values, as actors want them with sampling.precision=bfloat16",
    remedy="in `encode`, bring frames to the dtype of the weights; keep what makes features out of the modules",
)
def computes_in_bfloat16(subject: Subject) -> Finding:
    """Hear and score in the other precision."""
    coarse = copy.deepcopy(subject.captioner).to(torch.bfloat16)
    found = subject.score(captioner=coarse, encoding=subject.encode(coarse.features(subject.clips), coarse))
    if not (found.log_probs.isfinite().all() and found.values.isfinite().all()):
        return Finding(passed=False, got="log-probs or values that are not finite")
    mask = subject.captions.action_mask
    mismatch = (found.log_probs - subject.score().log_probs)[mask].abs().mean()
    return Finding(passed=True, got=f"log-probs lie {float(mismatch):.1e} from those in float32, on average")


LEARNING = (
    value_head_named,
    no_dropout,
    gradients_reach_the_policy,
    critic_apart,
    weights_travel,
    reference_stays,
    computes_in_bfloat16,
)


def _trainable(captioner: Captioner) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return the trainable parameters of the critic, and those of the policy."""
    known = {name: parameter for name, parameter in captioner.named_parameters() if parameter.requires_grad}
    critic = {name: parameter for name, parameter in known.items() if VALUE_HEAD in name.split(".")}
    return critic, {name: parameter for name, parameter in known.items() if name not in critic}


def _whole_pass(subject: Subject) -> PolicyOutput:
    """Hear and score from the waveforms on."""
    return subject.score(encoding=subject.encode(subject.captioner.features(subject.clips)))


def _score_by(subject: Subject, captioner: Captioner) -> PolicyOutput:
    """Score by another captioner, which hears the same features."""
    return subject.score(captioner=captioner, encoding=subject.encode(subject.features, captioner))


@contextmanager
def _gradients_of(subject: Subject, part: str) -> Iterator[dict[str, Tensor]]:
    """Give the gradients that the sum of an output leaves behind, by parameter; none are left afterwards."""
    captioner = subject.captioner
    captioner.zero_grad(set_to_none=True)
    try:
        output = score(captioner, hear(captioner, subject.features, subject.device), subject.captions)
        total = getattr(output, part).sum()
        if total.requires_grad:
            total.backward()
        yield {name: one.grad for name, one in captioner.named_parameters() if one.grad is not None}
    finally:
        captioner.zero_grad(set_to_none=True)


def _copy_of(captioner: Captioner) -> Captioner:
    """Copy what is trained, and share what is frozen."""
    return copy.deepcopy(captioner, {id(one): one for one in captioner.parameters() if not one.requires_grad})


@contextmanager
def _adapters_off(captioner: Captioner) -> Iterator[None]:
    adapted = [module for module in captioner.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for module in adapted:
            module.enable_adapters(enabled=False)
        yield
    finally:
        for module in adapted:
            module.enable_adapters(enabled=True)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
