import json
from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.audio_cursor import MAX_SHUFFLED, AudioCursor, CursorState
from rlcap.errors import CheckpointError
from rlcap.soundscapes.stream import ENDLESS

NUM_CLIPS, BATCH_SIZES, SEEDS = st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**64)


@settings(deadline=None)
@given(num_clips=NUM_CLIPS, batch_size=BATCH_SIZES, seed=SEEDS, cut=st.integers(0, 30))
def test_resuming_at_any_cut_gives_the_same_stream(num_clips, batch_size, seed, cut):
    whole = AudioCursor(num_clips, batch_size, seed)
    expected = [whole.next() for _ in range(cut + 8)]
    before = AudioCursor(num_clips, batch_size, seed)
    for _ in range(cut):
        before.next()
    state: CursorState = json.loads(json.dumps(before.state_dict()))
    after = AudioCursor(num_clips, batch_size, seed)
    after.load_state_dict(state)
    assert [after.next() for _ in range(8)] == expected[cut:]


@settings(deadline=None)
@given(num_clips=NUM_CLIPS, batch_size=BATCH_SIZES, seed=SEEDS)
def test_each_epoch_holds_each_clip_exactly_once_whatever_the_batch_size(num_clips, batch_size, seed):
    cursor = AudioCursor(num_clips, batch_size, seed)
    num_batches = -(-3 * num_clips // batch_size)
    stream = list(chain.from_iterable(cursor.next().positions for _ in range(num_batches)))
    for epoch in range(3):
        assert sorted(stream[epoch * num_clips : (epoch + 1) * num_clips]) == list(range(num_clips))


@settings(deadline=None)
@given(num_clips=NUM_CLIPS, seed=SEEDS, sizes=st.tuples(BATCH_SIZES, BATCH_SIZES))
def test_the_order_of_clips_does_not_depend_on_the_batch_size(num_clips, seed, sizes):
    streams = []
    for size in sizes:
        cursor = AudioCursor(num_clips, size, seed)
        streams.append(list(chain.from_iterable(cursor.next().positions for _ in range(200 // size + 1)))[:200])
    assert streams[0] == streams[1]


def test_batches_know_their_number_and_the_epoch_of_their_first_clip():
    cursor = AudioCursor(num_clips=10, batch_size=4, seed=0)
    batches = [cursor.next() for _ in range(5)]
    assert [batch.batch_index for batch in batches] == [0, 1, 2, 3, 4]
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1]
    assert all(len(batch.positions) == 4 for batch in batches)


def test_any_batch_can_be_made_again_without_moving():
    cursor = AudioCursor(num_clips=10, batch_size=4, seed=0)
    batches = [cursor.next() for _ in range(20)]
    assert [cursor.batch(index) for index in (17, 3, 17, 0)] == [batches[index] for index in (17, 3, 17, 0)]
    assert cursor.next().batch_index == 20


def test_orders_and_sampling_seeds_differ_between_epochs_batches_and_runs():
    cursor, other = AudioCursor(50, 50, seed=1), AudioCursor(50, 50, seed=2)
    batches = [cursor.next() for _ in range(20)] + [other.next() for _ in range(20)]
    assert len({batch.positions for batch in batches}) == 40
    assert len({batch.seed for batch in batches}) == 40
    for batch in batches:
        assert 0 <= batch.seed < 2**63
        torch.Generator().manual_seed(batch.seed)


def test_every_order_of_a_small_source_is_as_likely():
    orders = Counter(AudioCursor(3, 3, seed).next().positions for seed in range(1_200))
    assert len(orders) == 6
    assert all(140 < count < 260 for count in orders.values())


@pytest.mark.parametrize("num_clips", [ENDLESS, 2**41, MAX_SHUFFLED + 1])
def test_endless_sources_are_heard_in_order_and_cost_no_memory(num_clips):
    cursor = AudioCursor(num_clips, batch_size=3, seed=5)
    assert [cursor.next().positions for _ in range(2)] == [(0, 1, 2), (3, 4, 5)]
    cursor.load_state_dict({**cursor.state_dict(), "next_batch": 2**38})
    assert cursor.next().positions[0] == 3 * 2**38 % num_clips


def test_a_cursor_refuses_the_position_in_another_stream():
    state = AudioCursor(10, 4, seed=0).state_dict()
    for other in (AudioCursor(11, 4, 0), AudioCursor(10, 5, 0), AudioCursor(10, 4, 1)):
        with pytest.raises(CheckpointError, match=r"was (10|4|0) and is now (11|5|1)"):
            other.load_state_dict(state)


@pytest.mark.parametrize("sizes", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="must be 1 or more"):
        AudioCursor(*sizes)
