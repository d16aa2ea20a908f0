"""That each term of the objective gets the tensors that belong to it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batching import Captions, Experience, Targets
from learner.objective import AVERAGES, ppo_objective, switched_off
from rlcap.captioners.captioner import PolicyOutput
from rlcap.config.algorithm import AlgorithmKind, KLEstimator, KLPlace, LossAggregation, PPOConfig

MASK = torch.tensor([[True, True, False], [True, False, False]])
CONFIG = PPOConfig(
    clip_range=0.2,
    value_clip_range=0.3,
    max_importance_weight=1.1,
    entropy_coef=0.1,
    value_coef=0.7,
    kl_coef=0.4,
    kl_in=KLPlace.loss,
    kl_estimator=KLEstimator.k2,
)


def make_case(seed):
    rng = np.random.default_rng(seed)

    def numbers():
        return torch.where(MASK, torch.tensor(rng.normal(scale=0.5, size=MASK.shape)), math.nan)

    captions = Captions(
        torch.zeros(1, 1, 1),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(MASK.shape, dtype=torch.int64),
        MASK,
        1.0,
    )
    targets = Targets(**{name: numbers() for name in Targets.__dataclass_fields__})
    return PolicyOutput(numbers(), numbers(), numbers()), Experience(captions, targets)


def slow_terms(output, targets, aggregation=LossAggregation.token_mean, dual_clip=math.inf):
    """Each term averaged over tokens, or over the means of captions, in plain Python floats."""
    lengths = MASK.sum(dim=1).tolist()
    if aggregation is LossAggregation.token_mean:
        shares = [1 / sum(lengths)] * sum(lengths)
    else:
        shares = [1 / (length * len(lengths)) for length in lengths for _ in range(length)]
    columns = [output.log_probs, output.values, output.entropy]
    columns += [getattr(targets, name) for name in Targets.__dataclass_fields__]
    terms = dict.fromkeys(AVERAGES, 0.0)
    for share, new, value, entropy, behaviour, proximal, ref, old_value, advantage, target in zip(
        shares, *(column[MASK].tolist() for column in columns), strict=True
    ):
        ratio, weight = math.exp(new - proximal), min(math.exp(proximal - behaviour), 1.1)
        near = old_value + min(max(value - old_value, -0.3), 0.3)
        surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        surrogate = max(surrogate, dual_clip * advantage) if advantage < 0 else surrogate
        terms["policy_loss"] -= share * weight * surrogate
        terms["value_loss"] += share * 0.5 * max((value - target) ** 2, (near - target) ** 2)
        terms["kl_loss"] += share * min(math.exp(new - behaviour), 1.1) * 0.5 * (new - ref) ** 2
        terms["entropy"] += share * entropy
        terms["approx_kl"] += share * (ratio - 1 - math.log(ratio))
        terms["clip_fraction"] += share * (not 0.8 <= ratio <= 1.2)
        terms["value_clip_fraction"] += share * (abs(value - old_value) > 0.3)
        terms["behaviour_kl"] += share * (math.exp(new - behaviour) - 1 - (new - behaviour))
        terms["importance_weight"] += share * weight
    terms["loss"] = terms["policy_loss"] + 0.7 * terms["value_loss"] - 0.1 * terms["entropy"] + 0.4 * terms["kl_loss"]
    return [terms[name] for name in AVERAGES]


@pytest.mark.parametrize("aggregation", LossAggregation)
@pytest.mark.parametrize("dual_clip", [0.0, 1.05])
@pytest.mark.parametrize("seed", range(8))
def test_every_term_matches_the_slow_oracle(seed, dual_clip, aggregation):
    output, experience = make_case(seed)
    config = replace(CONFIG, dual_clip=dual_clip, loss_aggregation=aggregation)
    objective = ppo_objective(output, experience, config)
    expected = slow_terms(output, experience.targets, aggregation, dual_clip or math.inf)
    assert objective.averages.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(objective.loss) == pytest.approx(expected[AVERAGES.index("loss")])


def test_terms_that_are_switched_off_are_zero_and_named():
    output, experience = make_case(0)
    config = PPOConfig(kind=AlgorithmKind.rloo, kl_in=KLPlace.reward)
    averages = dict(zip(AVERAGES, ppo_objective(output, experience, config).averages.tolist(), strict=True))
    assert switched_off(config) == {"value_loss", "value_clip_fraction", "value_grad_norm", "kl_loss"}
    assert all(averages[name] == 0 for name in averages.keys() & switched_off(config))
    assert averages["loss"] == pytest.approx(averages["policy_loss"])
    assert switched_off(CONFIG) == frozenset()
