"""The pipeline over actors that answer in an order the test decides, and die when it says so."""

import time
from collections import Counter
from types import SimpleNamespace

import pytest
import ray.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.audio_cursor import AudioCursor
from rlcap.algorithm import attendance, in_flight, paces, rollout_pipeline
from rlcap.algorithm.batch_counts import BatchCounts
from rlcap.algorithm.rollout_pipeline import MAX_ATTEMPTS, RolloutPipeline
from rlcap.errors import ActorLostError, DataError, RewardError, RunError
from rlcap.types import Quarantined

BATCHES_PER_UPDATE = 3
NUM_CLIPS = 20
ANSWERS, DIES, RAISES = "answers", "dies", "raises"


class FakeRay:
    """Stands in for the `ray` module: requests wait in order, and `choose` says whose answer comes next, and which."""

    def __init__(self, choose):
        self.choose = choose
        self.open = []
        self.asked = []
        self.killed = []
        self.failed = {}
        self.bad_positions = set()
        self.durations_s = {}
        """What actors say they took for a batch; otherwise a second."""
        self.now = 0.0
        self.calls = []
        self.returns_after = 1
        """How many calls an actor that was lost leaves without an answer, and one more that it answers."""

    def actor(self, actor_id):
        def remote(batch, version, weights, reward, upcoming):
            request = SimpleNamespace(
                actor_id=actor_id, batch=batch, version=version, weights=weights, reward=reward, upcoming=upcoming
            )
            self.asked.append(request)
            self.open.append(request)
            return f"rollouts-{batch.batch_index}-{len(self.asked)}", id(request)

        def ping():
            self.calls.append(f"call {len(self.calls)}")
            return self.calls[-1]

        caption = SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=remote))
        return SimpleNamespace(caption=caption, ping=SimpleNamespace(remote=ping), actor_id=actor_id)

    def wait(self, refs, num_returns, timeout):
        calls = [ref for ref in refs if isinstance(ref, str)]
        assert sorted(set(refs) - set(calls)) == sorted(id(request) for request in self.open)
        if calls:
            return calls, []
        chosen, outcome = self.choose(self.open)
        if chosen is None:
            self.sleep(timeout)
            return [], refs
        lost = [other for other in self.open if outcome == DIES and other.actor_id == chosen.actor_id] or [chosen]
        for request in lost:
            self.open.remove(request)
            self.failed[id(request)] = outcome, request
        return [id(request) for request in lost], []

    def get(self, ref):
        if isinstance(ref, str):
            if int(ref.split()[1]) % (self.returns_after + 1) < self.returns_after:
                raise ray.exceptions.ActorUnavailableError("restarting", None)
            return "pong"
        outcome, request = self.failed[ref]
        if outcome == DIES:
            raise ray.exceptions.RayActorError
        if outcome == RAISES:
            raise ray.exceptions.RayTaskError("caption", "", RewardError("no score could be had"))
        bad = [position for position in request.batch.positions if position in self.bad_positions]
        num_good = len(request.batch.positions) - len(bad)
        quarantined = tuple(Quarantined(f"{position}.wav", "silent") for position in bad)
        return SimpleNamespace(
            request=request,
            policy_version=request.version,
            reward_version=request.reward,
            num_captions=num_good,
            quarantined=quarantined,
            wall_s=self.durations_s.get(request.actor_id, 1.0),
        )

    def sleep(self, duration_s):
        self.now += duration_s

    def kill(self, actor, *, no_restart):
        assert not no_restart
        self.killed.append(actor.actor_id)


def start(
    fake,
    monkeypatch,
    *,
    num_actors=2,
    max_staleness=0,
    timeout_s=100.0,
    check_interrupt=lambda: None,
    next_batch=0,
    first_update=0,
):
    cursor = AudioCursor(NUM_CLIPS, batch_size=2, seed=0)
    cursor.load_state_dict({**cursor.state_dict(), "next_batch": next_batch})
    for module in (rollout_pipeline, attendance, in_flight):
        monkeypatch.setattr(module, "ray", SimpleNamespace(wait=fake.wait, get=fake.get, kill=fake.kill))
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: fake.now, sleep=fake.sleep))
    monkeypatch.setattr(paces, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return RolloutPipeline(
        {actor_id: fake.actor(actor_id) for actor_id in range(1, num_actors + 1)},
        cursor,
        "reward 0",
        batches_per_update=BATCHES_PER_UPDATE,
        max_staleness=max_staleness,
        timeout_s=timeout_s,
        check_interrupt=check_interrupt,
        first_update=first_update,
        counts=BatchCounts(),
    )


def run(pipeline, num_updates, first=0):
    collected = []
    for update in range(first, first + num_updates):
        pipeline.publish(update, f"weights-{update}")
        collected.append(pipeline.collect(update))
    return collected


def in_order(requests):
    return requests[0], ANSWERS


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_actors=st.integers(1, 4), max_staleness=st.integers(0, 3))
def test_whatever_the_order_and_whoever_dies_each_batch_is_handed_out_once_and_never_too_stale(
    data, num_actors, max_staleness
):
    deaths = Counter()

    def choose(requests):
        chosen = data.draw(st.sampled_from(range(len(requests))))
        outcome = data.draw(st.sampled_from([ANSWERS, ANSWERS, DIES]))
        actor_id = requests[chosen].actor_id
        mine = [request.batch.batch_index for request in requests if request.actor_id == actor_id]
        if outcome == DIES and any(deaths[index] + 1 >= MAX_ATTEMPTS for index in mine):
            outcome = ANSWERS
        if outcome == DIES:
            deaths.update(mine)
        return requests[chosen], outcome

    fake = FakeRay(choose)
    fake.durations_s = {actor_id: data.draw(st.sampled_from([1.0, 4.0])) for actor_id in range(1, num_actors + 1)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        pipeline = start(fake, monkeypatch, num_actors=num_actors, max_staleness=max_staleness)
        collected = run(pipeline, 6)
    cursor = AudioCursor(NUM_CLIPS, batch_size=2, seed=0)
    for update, batches in enumerate(collected):
        expected = range(update * BATCHES_PER_UPDATE, (update + 1) * BATCHES_PER_UPDATE)
        requests = [batch.info.request for batch in batches]
        assert [request.batch for request in requests] == [cursor.batch(index) for index in expected]
        for batch, request in zip(batches, requests, strict=True):
            assert batch.rollouts.startswith(f"rollouts-{request.batch.batch_index}-")
            assert request.weights == f"weights-{request.version}"
            assert 0 <= update - request.version <= max_staleness
    assert pipeline.counts.lost == sum(deaths.values())


def batches_of(collected):
    return [[batch.info.request.batch.batch_index for batch in update] for update in collected]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_actors=st.integers(1, 4), max_staleness=st.integers(0, 3))
def test_batches_without_a_usable_clip_are_skipped_and_the_next_ones_move_up_whatever_the_order(
    data, num_actors, max_staleness
):
    bad = data.draw(st.sets(st.integers(0, NUM_CLIPS - 1), max_size=NUM_CLIPS - 2))
    fake = FakeRay(lambda requests: (data.draw(st.sampled_from(requests)), ANSWERS))
    fake.bad_positions = bad
    with pytest.MonkeyPatch.context() as monkeypatch:
        pipeline = start(fake, monkeypatch, num_actors=num_actors, max_staleness=max_staleness)
        collected = run(pipeline, 4)
    cursor = AudioCursor(NUM_CLIPS, batch_size=2, seed=0)
    usable = [index for index in range(1000) if not bad.issuperset(cursor.batch(index).positions)]
    assert batches_of(collected) == [usable[first : first + 3] for first in range(0, 12, 3)]
    assert pipeline.next_batch == usable[11] + 1
    for update, batches in enumerate(collected):
        assert all(0 <= update - batch.info.request.version <= max_staleness for batch in batches)
    skipped = {index for index in range(usable[11]) if index not in usable}
    assert pipeline.counts.skipped >= len(skipped)
    quarantined = {item.path for item in pipeline.take_quarantined()}
    assert quarantined >= {f"{position}.wav" for index in skipped for position in cursor.batch(index).positions}
    assert pipeline.take_quarantined() == []


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_actors=st.integers(1, 4), max_staleness=st.integers(0, 3))
def test_an_update_is_scored_by_one_reward_model_and_none_is_lost_however_often_it_is_swapped(
    data, num_actors, max_staleness
):
    bad = data.draw(st.sets(st.integers(0, NUM_CLIPS - 1), max_size=NUM_CLIPS - 2))
    swaps = []

    def choose(requests):
        if data.draw(st.booleans()):
            swaps.append(pipeline.use_reward(f"reward {len(swaps) + 1}"))
        return data.draw(st.sampled_from(requests)), ANSWERS

    fake = FakeRay(choose)
    fake.bad_positions = bad
    with pytest.MonkeyPatch.context() as monkeypatch:
        pipeline = start(fake, monkeypatch, num_actors=num_actors, max_staleness=max_staleness)
        collected = run(pipeline, 5)
    cursor = AudioCursor(NUM_CLIPS, batch_size=2, seed=0)
    usable = [index for index in range(1000) if not bad.issuperset(cursor.batch(index).positions)]
    assert batches_of(collected) == [usable[first : first + 3] for first in range(0, 15, 3)]
    rewards = [{batch.info.reward_version for batch in update} for update in collected]
    assert all(len(versions) == 1 for versions in rewards)
    numbers = [int(version.split()[1]) for (version,) in rewards]
    assert numbers == sorted(numbers)
    if not bad:  # a skipped batch lets others move up, and a swap with them
        for update, number in enumerate(numbers):
            assert number == sum(first <= update for first in swaps)


def test_a_synchronous_run_that_skips_can_be_resumed_where_it_stopped(monkeypatch):
    bad = {position for index in (0, 4, 6) for position in AudioCursor(NUM_CLIPS, 2, seed=0).batch(index).positions}
    whole, before, after = FakeRay(in_order), FakeRay(in_order), FakeRay(lambda requests: (requests[-1], ANSWERS))
    whole.bad_positions = before.bad_positions = after.bad_positions = bad
    expected = batches_of(run(start(whole, monkeypatch), 4))
    assert expected[:2] == [[1, 2, 3], [5, 7, 8]]
    stopped = start(before, monkeypatch)
    found = batches_of(run(stopped, 2))
    resumed = start(after, monkeypatch, num_actors=3, next_batch=stopped.next_batch)
    assert found + batches_of(run(resumed, 2, first=2)) == expected
    assert [request.version for request in after.asked] == sorted(request.version for request in after.asked)


def test_a_run_that_goes_on_counts_on_and_names_its_own_updates(monkeypatch):
    pipeline = start(FakeRay(in_order), monkeypatch, next_batch=9, first_update=3)
    assert pipeline.use_reward("reward 1") == 3, "the first that is collected from here on"
    (collected,) = run(pipeline, 1, first=3)
    assert {batch.info.reward_version for batch in collected} == {"reward 1"}
    counts = BatchCounts(lost=2, skipped=3, rescored=4, doubled=5)
    assert BatchCounts.from_metrics(counts.metrics()) == counts
    assert BatchCounts.from_metrics({}) == BatchCounts()


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_source_without_a_usable_clip_ends_the_run_after_one_pass(monkeypatch, max_staleness):
    fake = FakeRay(in_order)
    fake.bad_positions = set(range(NUM_CLIPS))
    with pytest.raises(DataError, match=r"none of the 20 clips that PPO hears can be used; .* \d+\.wav: silent"):
        run(start(fake, monkeypatch, max_staleness=max_staleness), 1)
    assert NUM_CLIPS / 2 <= len(fake.asked) <= NUM_CLIPS / 2 + 2 * BATCHES_PER_UPDATE


def test_one_usable_clip_is_enough(monkeypatch):
    fake = FakeRay(in_order)
    fake.bad_positions = set(range(NUM_CLIPS - 1))
    for update in run(start(fake, monkeypatch), 2):
        assert all(NUM_CLIPS - 1 in batch.info.request.batch.positions for batch in update)


def test_synchronous_runs_ask_for_nothing_that_the_next_weights_should_answer(monkeypatch):
    fake = FakeRay(in_order)
    pipeline = start(fake, monkeypatch, num_actors=4)
    for update in range(3):
        pipeline.publish(update, f"weights-{update}")
        assert {batch.info.request.version for batch in pipeline.collect(update)} == {update}
        assert len(fake.asked) == (update + 1) * BATCHES_PER_UPDATE
        assert not fake.open


def test_overlapped_runs_are_already_captioning_while_the_learner_works(monkeypatch):
    fake = FakeRay(in_order)
    pipeline = start(fake, monkeypatch, max_staleness=1)
    run(pipeline, 1)
    assert fake.open
    assert {request.version for request in fake.open} == {0}


def test_actors_are_fed_while_the_learner_works_as_far_as_the_bound_on_staleness_goes(monkeypatch):
    fake = FakeRay(in_order)
    pipeline = start(fake, monkeypatch, max_staleness=2)
    run(pipeline, 1)
    asked_before = len(fake.asked)
    all_that_is_allowed = 3 * BATCHES_PER_UPDATE
    with pipeline.feeding():
        deadline = time.monotonic() + 10
        while len(fake.asked) < all_that_is_allowed or fake.open:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert asked_before < len(fake.asked) == all_that_is_allowed
    assert {request.version for request in fake.asked} == {0}


def test_what_goes_wrong_while_the_learner_works_is_raised_afterwards(monkeypatch):
    learning = []
    fake = FakeRay(lambda requests: (requests[0], RAISES if learning else ANSWERS))
    pipeline = start(fake, monkeypatch, max_staleness=1)
    run(pipeline, 1)

    def learn():
        learning.append("begun")
        with pipeline.feeding():
            while len(fake.open) == num_open:
                time.sleep(0.001)
            learning.append("ended")

    num_open = len(fake.open)
    with pytest.raises(RewardError, match="no score could be had"):
        learn()
    assert learning == ["begun", "ended"]


def test_work_is_spread_evenly(monkeypatch):
    fake = FakeRay(in_order)
    run(start(fake, monkeypatch, num_actors=3, max_staleness=2), 4)
    shares = Counter(request.actor_id for request in fake.asked)
    assert set(shares) == {1, 2, 3}
    assert max(shares.values()) - min(shares.values()) <= 3


def test_a_batch_that_is_lost_again_and_again_ends_the_run_by_name(monkeypatch):
    def choose(requests):
        bad = [request for request in requests if request.batch.batch_index == 1]
        return (bad[0], DIES) if bad else in_order(requests)

    fake = FakeRay(choose)
    with pytest.raises(ActorLostError, match=f"batch 1 lost its caption actor {MAX_ATTEMPTS} times"):
        run(start(fake, monkeypatch), 1)
    assert sum(request.batch.batch_index == 1 for request in fake.asked) == MAX_ATTEMPTS


def test_what_an_actor_raised_is_raised_here_as_it_was(monkeypatch):
    with pytest.raises(RewardError, match="no score could be had"):
        run(start(FakeRay(lambda requests: (requests[0], RAISES)), monkeypatch), 1)


def test_an_actor_that_takes_long_to_come_back_costs_one_attempt(monkeypatch):
    def choose(requests):
        return requests[0], (DIES if len(fake.asked) == 1 else ANSWERS)

    fake = FakeRay(choose)
    fake.returns_after = 30
    pipeline = start(fake, monkeypatch, num_actors=1)
    (batches,) = run(pipeline, 1)
    assert [batch.info.request.batch.batch_index for batch in batches] == [0, 1, 2]
    assert len(fake.calls) == 31
    assert pipeline.counts.lost == 1


def test_a_run_whose_actors_all_stay_away_ends_in_a_sentence(monkeypatch):
    fake = FakeRay(lambda requests: (requests[0], DIES))
    fake.returns_after = 10**6
    with pytest.raises(ActorLostError, match="no caption actor came back within 100 s"):
        run(start(fake, monkeypatch), 1)
    assert 100 < fake.now < 102


def test_the_others_go_on_while_an_actor_is_away(monkeypatch):
    def choose(requests):
        dying = [request for request in requests if request.actor_id == 1]
        return (dying[0], DIES) if dying else in_order(requests)

    fake = FakeRay(choose)
    fake.returns_after = 10**6
    pipeline = start(fake, monkeypatch, num_actors=3, max_staleness=1)
    for update, batches in enumerate(run(pipeline, 4)):
        assert {batch.info.request.actor_id for batch in batches} <= {2, 3}
        assert len(batches) == BATCHES_PER_UPDATE, update
    assert pipeline.counts.lost == 2


def test_a_silent_actor_is_restarted_once_and_its_batch_is_asked_for_again(monkeypatch):
    def choose(requests):
        if not fake.killed or fake.now < killed_until:
            return None, None
        return requests[0], (DIES if len(fake.asked) < 2 else ANSWERS)

    fake, killed_until = FakeRay(choose), 60.0
    pipeline = start(fake, monkeypatch, num_actors=1, timeout_s=50.0)
    (batches,) = run(pipeline, 1)
    assert [batch.info.request.batch.batch_index for batch in batches] == [0, 1, 2]
    assert fake.killed == [1], "one silence, one restart"
    assert pipeline.counts.lost == 1


def test_what_a_silent_actor_holds_back_is_asked_of_another_long_before_it_is_restarted(monkeypatch):
    def choose(requests):
        others = [request for request in requests if request.actor_id != 1]
        return (others[0], ANSWERS) if others else (None, None)

    fake = FakeRay(choose)
    pipeline = start(fake, monkeypatch, timeout_s=50.0)
    assert batches_of(run(pipeline, 2)) == [[0, 1, 2], [3, 4, 5]]
    assert pipeline.counts.doubled == 1, "the silent actor has had nothing else to do since"
    assert fake.killed == []
    assert fake.now < 2


class Paced:
    """Answers that take each actor its own time, one request after another."""

    def __init__(self, fake, durations_s):
        self.fake, self.free_at = fake, {}
        fake.durations_s = durations_s

    def __call__(self, requests):
        for request in requests:
            if not hasattr(request, "done_at"):
                begins = max(self.fake.now, self.free_at.get(request.actor_id, 0.0))
                request.done_at = self.free_at[request.actor_id] = begins + self.fake.durations_s[request.actor_id]
        first = min(requests, key=lambda request: request.done_at)
        if first.done_at > self.fake.now + rollout_pipeline.POLL_S:
            return None, None
        self.fake.now = max(self.fake.now, first.done_at)
        return first, ANSWERS


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_slow_actor_does_not_hold_back_the_fast_ones(monkeypatch, max_staleness):
    fake = FakeRay(None)
    fake.choose = Paced(fake, {1: 1.0, 2: 1.0, 3: 30.0})
    pipeline = start(fake, monkeypatch, num_actors=3, max_staleness=max_staleness)
    num_updates = 40
    collected = run(pipeline, num_updates)
    assert batches_of(collected) == [list(range(first, first + 3)) for first in range(0, 3 * num_updates, 3)]
    # Synchronous updates of three batches by two actors take two rounds; overlapped ones need no rounds.
    by_the_fast_ones_s = num_updates * (2.0 if max_staleness == 0 else 1.5)
    assert fake.now < 1.2 * by_the_fast_ones_s
    assert pipeline.counts.doubled > 0


def duration_of_updates(fake, monkeypatch, durations_s, *, max_staleness, skipped=60, num_updates=60):
    """How long updates take with actors of these speeds, the first of them not counted."""
    fake.choose = Paced(fake, durations_s)
    pipeline = start(fake, monkeypatch, num_actors=len(durations_s), max_staleness=max_staleness)
    run(pipeline, skipped)
    began = fake.now
    run(pipeline, num_updates, first=skipped)
    return fake.now - began


def test_where_little_may_run_ahead_a_slow_actor_costs_the_others_nothing(monkeypatch):
    # It has hardly begun when all that may run ahead, 12 batches, is done by the others.
    fast_s = dict.fromkeys(range(1, 10), 1.0)
    alone_s = duration_of_updates(FakeRay(None), monkeypatch, fast_s, max_staleness=3, num_updates=200)
    beside_s = duration_of_updates(FakeRay(None), monkeypatch, {**fast_s, 10: 3.0}, max_staleness=3, num_updates=200)
    assert beside_s <= 1.02 * alone_s


def test_where_much_may_run_ahead_a_slow_actor_does_its_part(monkeypatch):
    took_s = duration_of_updates(FakeRay(None), monkeypatch, {1: 3.0, 2: 1.0, 3: 1.0}, max_staleness=4)
    assert took_s <= 1.03 * 60 * BATCHES_PER_UPDATE / (2 + 1 / 3)


@pytest.mark.parametrize("slow_s", [3.0, 20.0])
def test_an_actor_that_was_slow_is_asked_again_as_the_others_are(monkeypatch, slow_s):
    fake = FakeRay(None)
    fake.choose = Paced(fake, {1: slow_s, 2: 1.0, 3: 1.0})
    pipeline = start(fake, monkeypatch, num_actors=3, max_staleness=1)
    run(pipeline, 60)
    fake.durations_s[1] = 1.0
    run(pipeline, 200, first=60)
    asked = [request.actor_id for request in fake.asked[-90:]]
    assert 25 <= asked.count(1) <= 35


def test_actors_begin_with_new_weights_before_their_rollouts_are_waited_for(monkeypatch):
    fake = FakeRay(in_order)
    pipeline = start(fake, monkeypatch, num_actors=1)
    run(pipeline, 1)
    num_asked = len(fake.asked)
    pipeline.ask_ahead()
    assert len(fake.asked) == num_asked, "nothing may be asked for by weights that are too old"
    pipeline.publish(1, "weights-1")
    pipeline.ask_ahead()
    assert [request.weights for request in fake.asked[num_asked:]] == ["weights-1"]


def test_an_actor_is_told_what_it_will_be_asked_for_next(monkeypatch):
    for max_staleness in (0, 1):
        fake = FakeRay(None)
        fake.choose = Paced(fake, {1: 1.0, 2: 1.1, 3: 1.2})
        run(start(fake, monkeypatch, num_actors=3, max_staleness=max_staleness), 10)
        told, right = {}, 0
        for request in fake.asked:
            right += told.get(request.actor_id) == request.batch
            told[request.actor_id] = request.upcoming
        assert right >= 0.8 * (len(fake.asked) - 3)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), max_staleness=st.integers(0, 2))
def test_actors_come_and_go_and_each_batch_is_handed_out_once_all_the_same(data, max_staleness):
    newcomers = iter(range(10, 100))

    def choose(requests):
        change = data.draw(st.sampled_from(["", "", "", "join", "leave"]))
        if change == "join":
            newcomer = next(newcomers)
            pipeline.add_actors({newcomer: fake.actor(newcomer)})
        if change == "leave" and len(pipeline.present) > 1:
            gone = pipeline.remove_actors(1)
            assert not set(gone) & set(pipeline.present)
            fake.open = [request for request in fake.open if request.actor_id not in gone]
            return None, None
        return data.draw(st.sampled_from(requests)), data.draw(st.sampled_from([ANSWERS, ANSWERS, DIES]))

    fake = FakeRay(choose)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(rollout_pipeline, "MAX_ATTEMPTS", 1000)
        pipeline = start(fake, monkeypatch, num_actors=2, max_staleness=max_staleness)
        collected = run(pipeline, 4)
    assert batches_of(collected) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    heard = [position for batches in collected for batch in batches for position in batch.batch.positions]
    assert sorted(heard[:NUM_CLIPS]) == list(range(NUM_CLIPS)), "an epoch holds each clip once"
    for update, batches in enumerate(collected):
        assert all(0 <= update - batch.info.request.version <= max_staleness for batch in batches)


def test_an_actor_that_joins_is_asked_for_nothing_before_it_answers_and_the_last_one_may_not_leave(monkeypatch):
    fake = FakeRay(in_order)
    fake.returns_after = 10**6
    pipeline = start(fake, monkeypatch, num_actors=1)
    pipeline.add_actors({2: fake.actor(2)})
    run(pipeline, 2)
    assert {request.actor_id for request in fake.asked} == {1}
    assert fake.calls, "it was called"
    assert pipeline.remove_actors(1) == [2], "one that is away goes first"
    with pytest.raises(RunError, match="has 1 caption actors and cannot do without the last"):
        pipeline.remove_actors(1)


def test_rollouts_that_were_lost_after_they_were_handed_out_are_sampled_again_and_the_others_are_kept(monkeypatch):
    fake = FakeRay(in_order)
    pipeline = start(fake, monkeypatch, max_staleness=1)
    (batches,) = run(pipeline, 1)
    pipeline.take_back(batches, lost={1})
    again = pipeline.collect(0)
    assert [batch.rollouts for batch in again][::2] == [batch.rollouts for batch in batches][::2]
    assert again[1].batch == batches[1].batch
    assert again[1].rollouts != batches[1].rollouts
    pipeline.publish(1, "weights-1")
    assert batches_of([pipeline.collect(1)]) == [[3, 4, 5]]
    assert pipeline.counts.lost == 1


def test_an_interrupt_is_noticed_while_waiting(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    pipeline = start(FakeRay(lambda _: (None, None)), monkeypatch, check_interrupt=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, 1)
