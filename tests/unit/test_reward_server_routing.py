from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.cache import EmbeddingCache
from reward_server.controls import derangement, hear_other_clips
from reward_server.routing import owner
from rlcap.types import Clip, RewardRequest

NAMES = st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True)
CLIPS = st.lists(st.text(), min_size=1, max_size=50)
ROW = np.zeros(4, dtype=np.float32)


@given(NAMES, CLIPS, st.data())
def test_losing_a_shard_moves_only_its_clips(names, clip_ids, data):
    lost = data.draw(st.sampled_from(names))
    left = [name for name in names if name != lost]
    for clip_id in clip_ids:
        if owner(clip_id, names) != lost:
            assert owner(clip_id, left) == owner(clip_id, names)


@given(NAMES, CLIPS, st.randoms())
def test_the_order_in_which_shards_are_named_does_not_matter(names, clip_ids, random):
    shuffled = random.sample(names, len(names))
    assert [owner(clip_id, names) for clip_id in clip_ids] == [owner(clip_id, shuffled) for clip_id in clip_ids]


@pytest.mark.parametrize("num_shards", [2, 3, 8])
def test_clips_are_spread_evenly(num_shards):
    names = [f"shard-{number}" for number in range(num_shards)]
    counts = Counter(owner(f"clip-{number}", names) for number in range(4000))
    assert all(abs(counts[name] - 4000 / num_shards) < 5 * (4000 / num_shards) ** 0.5 for name in names)


def test_routing_is_the_same_in_every_release():
    names = ["shard-0", "shard-1", "shard-2"]
    assert [owner(clip_id, names) for clip_id in ("a", "b", "soundscape-0-1")] == ["shard-0", "shard-0", "shard-1"]


def test_clips_need_shards():
    with pytest.raises(ValueError, match="without shards"):
        owner("a", [])


@given(st.lists(st.text(), min_size=2, max_size=30))
def test_a_derangement_moves_every_clip_and_uses_each_once(clip_ids):
    other = derangement(clip_ids)
    assert sorted(other) == list(range(len(clip_ids)))
    assert all(other != np.arange(len(clip_ids)))


def test_the_control_exchanges_clips_whatever_their_order_in_the_request():
    clips = [Clip(name, ROW, 16_000) for name in ("x", "y", "z")]
    request = RewardRequest(tuple(clips), ("1", "2", "3"), np.arange(3))
    backwards = RewardRequest(tuple(clips[::-1]), ("3", "2", "1"), np.arange(3))
    one, other = hear_other_clips(request), hear_other_clips(backwards)
    heard = {caption: clips[i].clip_id for caption, i in zip(one.captions, one.clip_index, strict=True)}
    assert heard == {c: clips[::-1][i].clip_id for c, i in zip(other.captions, other.clip_index, strict=True)}
    with pytest.raises(ValueError, match="at least 2 clips"):
        hear_other_clips(RewardRequest((clips[0],), ("1",), np.zeros(1, dtype=np.int64)))


def test_the_least_recently_used_embedding_goes_first():
    cache = EmbeddingCache(max_bytes=2 * ROW.nbytes)
    for clip_id in "ab":
        cache.put(("e", clip_id), ROW)
    assert cache.get(("e", "a")) is not None
    cache.put(("e", "c"), ROW)
    assert cache.get(("e", "b")) is None
    assert cache.get(("e", "a")) is not None
    counts = cache.counts()
    assert (counts.num_hits, counts.num_misses, counts.num_evicted) == (2, 1, 1)
    assert (counts.num_entries, counts.num_bytes) == (2, 2 * ROW.nbytes)


def test_embeddings_of_another_encoder_are_not_mixed_up():
    cache = EmbeddingCache(1000)
    cache.put(("e", "a"), ROW)
    assert cache.get(("f", "a")) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=60), st.integers(0, 200))
def test_the_cache_never_holds_more_than_its_bound(puts, max_bytes):
    cache = EmbeddingCache(max_bytes)
    for clip, size in puts:
        cache.put(("e", str(clip)), np.full(size, clip, dtype=np.float32))
        assert cache.counts().num_bytes <= max_bytes
    for clip in range(10):
        found = cache.get(("e", str(clip)))
        assert found is None or (found == clip).all()


def test_the_cache_keeps_copies():
    cache, row = EmbeddingCache(1000), ROW.copy()
    cache.put(("e", "a"), row)
    row[:] = 1
    assert (cache.get(("e", "a")) == 0).all()
