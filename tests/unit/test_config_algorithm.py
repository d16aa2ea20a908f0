import re

import pytest

from rlcap.config.algorithm import PPOConfig


def test_the_defaults_have_no_faults():
    assert list(PPOConfig().faults()) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("clip_range", 1.0, r"clip_range must lie in \(0, 1\), got 1\.0"),
        ("gamma", 1.5, r"gamma must lie in \[0, 1\], got 1\.5"),
        ("gae_lambda", -0.1, r"gae_lambda must lie in \[0, 1\]"),
        ("kl_coef", -1.0, "kl_coef must be 0 or more"),
        ("num_epochs", 0, "num_epochs must be above 0"),
        ("minibatch_size", 0, "minibatch_size must be above 0"),
        ("learning_rate", float("nan"), "learning_rate must be above 0, got nan"),
        ("max_importance_weight", 0.5, r"max_importance_weight must be 1 or more, got 0\.5"),
        ("reward_clip", -1.0, "reward_clip must be 0 or more"),
    ],
)
def test_a_value_out_of_range_is_named(name, value, fault):
    (found,) = PPOConfig(**{name: value}).faults()
    assert re.search(fault, found)
