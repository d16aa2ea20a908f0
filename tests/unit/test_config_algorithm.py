import re
from dataclasses import fields
from pathlib import Path

import pytest

from rlcap.config.algorithm import AlgorithmKind, PPOConfig


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
        ("learning_rate", float("nan"), "learning_rate must be 0 or more, got nan"),
        ("max_importance_weight", 0.5, r"max_importance_weight must be 1 or more, got 0\.5"),
        ("reward_clip", -1.0, "reward_clip must be 0 or more"),
        ("dual_clip", 0.9, r"dual_clip must be above 1, or 0 for none, got 0\.9"),
        ("dual_clip", -3.0, "dual_clip must be above 1"),
        ("advantage_clip", -1.0, "advantage_clip must be 0 or more"),
        ("kl_target", -1.0, "kl_target must be 0 or more"),
        ("kl_horizon", 0.0, "kl_horizon must be above 0"),
        ("kl_target", 60.0, r"max_kl must be above kl_target \(60\.0\), got 50\.0"),
        ("microbatch_size", -1, "microbatch_size must be 0 or more"),
        ("critic_warmup_updates", -1, "critic_warmup_updates must be 0 or more"),
        ("max_kl", -1.0, "max_kl must be 0 or more"),
        ("min_entropy", float("nan"), "min_entropy must be 0 or more, got nan"),
    ],
)
def test_a_value_out_of_range_is_named(name, value, fault):
    (found,) = PPOConfig(**{name: value}).faults()
    assert re.search(fault, found)


def test_settings_that_exclude_each_other_are_named():
    (found,) = PPOConfig(kl_target=6.0, kl_coef=0.0).faults()
    assert found.startswith("kl_coef must be above 0 where kl_target is")
    (found,) = PPOConfig(kind=AlgorithmKind.grpo, critic_warmup_updates=1).faults()
    assert found == "critic_warmup_updates must be 0 where kind is grpo: there is no critic to warm up"


def test_the_page_on_algorithms_names_every_setting_and_every_word():
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
    words = [field.name for field in fields(PPOConfig) if field.name != "kind"]
    words += [kind.name for kind in AlgorithmKind]
    assert [word for word in words if f"`{word}`" not in page] == []
