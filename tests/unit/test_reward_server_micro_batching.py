import threading
import time

import pytest

from reward_server.micro_batching import MicroBatcher


def batcher_of(run, **changes):
    limits = {"max_size": 6, "max_wait_s": 0.1, "max_queued": 1000} | changes
    return MicroBatcher(run, len, **limits)


def submit_all(batcher, jobs):
    """Submit each job from a thread of its own; return the threads, and where outcomes come in."""
    outcomes = {}

    def submit(job):
        try:
            outcomes[job] = batcher.submit(job)
        except ValueError as error:
            outcomes[job] = str(error)

    threads = [threading.Thread(target=submit, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    return threads, outcomes


def join(threads):
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_error_in_a_merged_batch_reaches_every_waiting_thread_and_the_next_batch_runs():
    def run(jobs):
        if "bad" in jobs:
            raise ValueError("bad batch")
        return [job.upper() for job in jobs]

    batcher = batcher_of(run, max_wait_s=0.2)
    threads, outcomes = submit_all(batcher, ["bad", "abc"])
    join(threads)
    assert outcomes == {"bad": "bad batch", "abc": "bad batch"}
    assert batcher.submit("fine") == "FINE"


def test_a_full_batch_does_not_wait():
    start = time.monotonic()
    assert batcher_of(lambda jobs: jobs, max_size=3, max_wait_s=30).submit("abcdef") == "abcdef"
    assert time.monotonic() - start < 5


def test_without_merging_every_job_is_a_batch_of_its_own():
    sizes = []

    def run(jobs):
        sizes.append(len(jobs))
        return jobs

    threads, _ = submit_all(batcher_of(run, merge=False), ["a", "b", "c", "d"])
    join(threads)
    assert sizes == [1, 1, 1, 1]


def test_a_full_queue_holds_callers_back_and_says_so():
    gate = threading.Event()

    def run(jobs):
        assert gate.wait(timeout=60)
        return jobs

    batcher = batcher_of(run, max_queued=5, merge=False)
    first, _ = submit_all(batcher, ["abc"])  # taken out of the queue at once, and stuck in the model
    wait_until(lambda: batcher.counts().num_batches == 1)
    second, _ = submit_all(batcher, ["def"])
    wait_until(lambda: batcher.counts().queued_size == 3)
    third, outcomes = submit_all(batcher, ["ghi"])
    wait_until(lambda: batcher.counts().num_held_back == 1)
    assert batcher.counts().queued_size == 3
    gate.set()
    join([*first, *second, *third])
    assert outcomes == {"ghi": "ghi"}
    counts = batcher.counts()
    assert (counts.num_batches, counts.total_size, counts.queued_size) == (3, 9, 0)
    assert counts.held_back_s > 0


def test_a_job_larger_than_the_queue_is_taken_once_the_queue_is_empty():
    assert batcher_of(lambda jobs: jobs, max_queued=2).submit("abcdef") == "abcdef"


def test_a_thread_gets_its_answer_though_others_keep_coming():
    batcher = batcher_of(lambda jobs: jobs, max_wait_s=0.0)
    stop = threading.Event()

    def keep_coming():
        while not stop.is_set():
            batcher.submit("other")

    others = [threading.Thread(target=keep_coming) for _ in range(3)]
    for thread in others:
        thread.start()
    threads, outcomes = submit_all(batcher, ["mine"])
    join(threads)
    stop.set()
    join(others)
    assert outcomes == {"mine": "mine"}


@pytest.mark.parametrize("size", [1, 4])
def test_counts_begin_at_nothing(size):
    counts = batcher_of(lambda jobs: jobs, max_size=size).counts()
    assert (counts.num_batches, counts.total_size, counts.queued_size, counts.num_held_back) == (0, 0, 0, 0)
