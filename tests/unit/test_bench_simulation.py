"""Ideal and measured rates against figures by hand, and the words for what holds a simulated run up."""

import subprocess
import sys
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

from rlcap.bench.simulation.limits import Usage, name_bottleneck
from rlcap.bench.simulation.sleeping_actor import Doing, TimeSheet
from rlcap.bench.simulation.speeds import Shape, Speeds, ideal_rate
from rlcap.bench.simulation.steady_rate import Making, Training, steady_rate
from rlcap.commands.bench.simulate import spelt_out
from rlcap.errors import ConfigError

SHAPE = Shape(num_actors=4, num_shards=2, batches_per_update=8, clips_per_batch=8, samples_per_clip=4, max_staleness=2)
SPEEDS = Speeds(actor_s=1.9, reward_s=0.2, learner_s=0.5)
BUSY = Usage(
    actors_sampling=0.95,
    actors_scoring=0.05,
    actors_idle=0.0,
    shards_idle=0.5,
    learner_idle=0.5,
    driver=0.1,
    machine=0.3,
)


def test_overlapped_the_slowest_part_decides():
    ideal = ideal_rate(SPEEDS, SHAPE)
    assert ideal.actors_alone == pytest.approx(4 * 32 / 2.0)  # 1.9 s and half of 0.2 s, by two shards
    assert ideal.shards_alone == pytest.approx(2 * 32 / 0.2)
    assert ideal.learner_alone == pytest.approx(8 * 32 / 0.5)
    assert (ideal.captions_per_s, ideal.limit) == (ideal.actors_alone, "actors")
    assert ideal_rate(replace(SPEEDS, learner_s=16), SHAPE).limit == "learner"
    assert ideal_rate(replace(SPEEDS, reward_s=4), SHAPE).limit == "shards"


def test_in_synchronous_mode_actors_and_learner_add_up():
    # 8 batches by 4 actors are two rounds of 2 s, then 0.5 s; 5 actors need two rounds as well
    for num_actors in (4, 5):
        ideal = ideal_rate(SPEEDS, replace(SHAPE, max_staleness=0, num_actors=num_actors))
        assert ideal.captions_per_s == pytest.approx(8 * 32 / 4.5)
        assert ideal.limit == "in turns"


def test_a_slow_actor_takes_part_at_its_own_pace():
    # three actors of 2 s and one of 3 * 1.9 + 0.1 s
    ideal = ideal_rate(replace(SPEEDS, num_slow=1), SHAPE)
    assert ideal.captions_per_s == pytest.approx(32 * (3 / 2 + 1 / 5.8))
    # the slow one makes one of 8 batches in 5.8 s; the others 6 in 4 s and a seventh by 6 s
    turns = ideal_rate(replace(SPEEDS, num_slow=1), replace(SHAPE, max_staleness=0))
    assert turns.captions_per_s == pytest.approx(8 * 32 / (6.0 + 0.5))


def test_jitter_depends_on_the_batch_alone_and_keeps_the_mean():
    speeds = replace(SPEEDS, jitter=0.5)
    durations = [speeds.sampling_s(3, seed) for seed in range(2000)]
    assert durations[7] == speeds.sampling_s(2, 7)
    assert 0.95 <= min(durations) < max(durations) <= 2.85
    assert sum(durations) / len(durations) == pytest.approx(1.9, rel=0.02)


def test_speeds_that_cannot_be_are_all_named():
    with pytest.raises(ConfigError) as fault:
        replace(SPEEDS, actor_s=0, jitter=1, num_slow=5).check(num_actors=4)
    assert "--actor-seconds must be above 0" in str(fault.value)
    assert "--jitter must lie in [0, 1)" in str(fault.value)
    assert "--slow-actors must lie in [0, 4]" in str(fault.value)


@pytest.mark.parametrize(
    ("share", "usage", "culprit"),
    [
        (0.99, BUSY, "the actors"),
        (0.5, replace(BUSY, machine=0.97), "this machine"),
        (0.5, replace(BUSY, driver=0.95), "the driver"),
        (0.5, replace(BUSY, actors_idle=0.4), "the bound on staleness"),
        (0.5, replace(BUSY, actors_idle=0.4, learner_idle=0.0), "the actors"),
    ],
)
def test_what_holds_a_run_up_is_named(share, usage, culprit):
    assert name_bottleneck(share, usage, ideal_rate(SPEEDS, SHAPE))[0] == culprit


def training_in_order(makings, learner_s):
    """When a learner ends its updates on 8 batches of the stream each, and begins them."""
    ready_s = [
        max(making.ended_at_s for making in makings[first : first + 8]) for first in range(0, len(makings) - 7, 8)
    ]
    ends_s = list(accumulate(ready_s, lambda end_s, ready_s: max(end_s, ready_s) + learner_s, initial=0.0))[1:]
    return ends_s, [end_s - learner_s for end_s in ends_s]


def measured(makings, learner_s, first, last):
    """What is measured from the end of one update to that of another."""
    ends_s, begins_s = training_in_order(makings, learner_s)
    waited_s = sum(begins_s[update] - ends_s[update - 1] for update in range(first + 1, last + 1))
    num_captions = (last - first) * 8 * 32
    training = Training(ends_s[first], ends_s[last], num_captions, waited_s)
    return steady_rate(training, makings), num_captions / training.duration_s


def test_updates_that_come_in_lumps_spoil_no_rate():
    """Twelve actors, eleven of them nearly in step, at a batch of 32 captions for 2 s each: 192 captions a second."""
    begun_s = sorted(2.0 * number + offset_s for number in range(60) for offset_s in (1.1, *np.linspace(0, 0.3, 11)))
    makings = [Making(begin_s, begin_s + 2.0, 32) for begin_s in begun_s]
    # Batches change places in the stream: what is late holds its update back.
    makings = [makings[place ^ 5] for place in range(len(makings))]
    found = [measured(makings, 0.1, first, first + number) for first in range(3, 9) for number in (3, 5, 8)]
    rates, by_updates_alone = zip(*found, strict=True)
    assert rates == pytest.approx([192] * len(rates), rel=1e-6)
    assert max(by_updates_alone) > 1.1 * min(by_updates_alone)


def test_captions_that_only_pile_up_before_the_learner_are_no_rate():
    """Actors make 128 captions a second; the learner takes 4 s for 256."""
    makings = [Making(2.0 * number, 2.0 * number + 2.0, 32) for number in range(40) for _ in range(8)]
    assert measured(makings, 4.0, 1, 9)[0] == pytest.approx(64, rel=1e-6)


def test_a_time_sheet_counts_what_is_under_way():
    sheet = TimeSheet()
    sheet.turn_to(Doing.sampling)
    first, later = sheet.spent_s(), sheet.spent_s()
    assert later[Doing.sampling] > first[Doing.sampling]
    assert later[Doing.idling] == first[Doing.idling]


def test_the_spelling_with_dashes_is_the_action():
    assert spelt_out(["bench", "--simulate", "--jitter", "0"]) == ["bench", "simulate", "--jitter", "0"]
    assert spelt_out(["bench", "reward"]) == ["bench", "reward"]


def test_a_sleeping_actor_and_whatever_comes_to_it_need_no_torch():
    """64 of them must fit on a small machine; Ray imports a shard's module wherever a handle to it goes."""
    modules = "rlcap.bench.simulation.sleeping_actor", "reward_server.client", "reward_server.shard_actor"
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules or 'ray.rllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
