"""Figures by hand: a captioner of 7 billion weights, 32 layers of 4096, and captions of 24 tokens behind 780."""

from dataclasses import replace

import pytest

from rlcap.config.load import load_config
from rlcap.planning.memory import Sequences, memory_of, object_store_bytes
from rlcap.planning.model_size import CaptionerSize
from rlcap.planning.processes import Kind

SIZE = CaptionerSize(7_000_000_000, layers=32, width=4096, kv_width=1024, vocabulary=150_000)
HALF_SIZE = replace(SIZE, parameter_bytes=2)
SEQUENCES = Sequences(context_tokens=780, feature_bytes=1_000_000)
SETTINGS = (
    "captioner.checkpoint=a-model",
    "training.clips_per_batch=8",
    "training.batches_per_update=2",
    "training.samples_per_clip=4",
    "algorithm.minibatch_size=32",
    "algorithm.microbatch_size=8",
    "sampling.max_new_tokens=24",
)
LIBRARIES = 600_000_000


def memory(kind, *overrides, size=SIZE, reward_bytes=600_000_000):
    return memory_of(kind, load_config([*SETTINGS, *overrides]), size, SEQUENCES, reward_bytes)


def test_a_learner_that_tunes_all_holds_weights_gradients_and_two_moments_in_float32():
    parts = memory(Kind.learner).parts
    assert parts["weights"] == parts["gradients"] == 28_000_000_000
    assert parts["optimiser"] == 56_000_000_000
    # 8 captions of 2 clips: 2 * 780 + 8 * 24 positions, 17 numbers of 4 bytes each a layer and unit of width
    assert parts["activations"] == 1752 * 4096 * 32 * 17 * 4
    # as the model gives them, and four copies in float32
    assert parts["logits"] == 8 * 24 * 150_000 * (4 + 16)


def test_a_checkpoint_in_sixteen_bits_is_trained_on_masters_of_twice_that():
    assert memory(Kind.learner, size=HALF_SIZE) == memory(Kind.learner)


@pytest.mark.parametrize(("gpus", "bytes_each"), [(0, 4), (1, 2)])
def test_frozen_weights_in_float16_are_kept_in_float32_by_cpus_alone(gpus, bytes_each):
    settings = ("captioner.decoder=lora", f"cluster.learner_gpus={gpus}")
    half, float16 = (memory(Kind.learner, *settings, size=replace(HALF_SIZE, is_float16=one)) for one in (False, True))
    assert float16.parts["weights"] - half.parts["weights"] == 7e9 * (bytes_each - 2)


@pytest.mark.parametrize(("gpus", "bytes_each"), [(0, 4), (1, 2)])
def test_actors_compute_in_bfloat16_on_gpus_where_nothing_else_is_asked_for(gpus, bytes_each):
    assert memory(Kind.actor, f"cluster.actor_gpus={gpus}").parts["weights"] == 7e9 * bytes_each


def test_adapters_leave_gradients_and_optimiser_to_themselves():
    parts = memory(Kind.learner, "captioner.decoder=lora", "captioner.lora_rank=8", size=HALF_SIZE).parts
    # a layer: four matrices of 4096 + 4096 ends, three of 4096 + 16384, times the rank
    adapters = 32 * 8 * (4 * 8192 + 3 * 20480)
    assert adapters == 24_117_248
    assert parts["weights"] == 14_000_000_000 + 4 * adapters
    assert parts["gradients"] == 4 * adapters
    assert parts["optimiser"] == 8 * adapters


def test_gradient_checkpointing_keeps_the_inputs_of_layers_and_one_layer_whole():
    parts = memory(Kind.learner, "captioner.gradient_checkpointing=true", "algorithm.precision=bfloat16").parts
    assert parts["activations"] == 1752 * 4096 * 2 * (32 + 17)


def test_learners_share_a_minibatch_and_not_the_weights():
    one, four = (memory(Kind.learner, "algorithm.microbatch_size=0", f"cluster.num_learners={n}").parts for n in (1, 4))
    assert one["logits"] == 4 * four["logits"]
    assert one["weights"] == four["weights"]


def test_an_actor_holds_its_policy_a_reference_and_a_cache_with_the_prefix_of_every_caption():
    parts = memory(Kind.actor, "sampling.precision=bfloat16").parts
    assert parts["weights"] == parts["reference"] == 14_000_000_000
    # 4 clips of 4 captions: each caption's 804 positions, and each clip's prefix once more
    assert parts["KV cache"] == 2 * 32 * 1024 * (16 * 804 + 4 * 780) * 2
    assert parts["logits"] == 16 * 24 * 150_000 * (2 + 8)


def test_with_adapters_the_reference_costs_next_to_nothing():
    parts = memory(Kind.actor, "captioner.decoder=lora", "sampling.precision=bfloat16").parts
    assert parts["reference"] == 2 * 24_117_248


def test_a_shard_holds_its_towers_and_in_main_memory_its_cache():
    found = memory(Kind.shard, "reward.cache_mb=512")
    assert found.parts == {"reward towers": 600_000_000, "libraries": LIBRARIES}
    assert found.host_bytes == LIBRARIES + 512_000_000


@pytest.mark.parametrize("staleness", [0, 3])
def test_the_object_store_holds_what_may_be_under_way(staleness):
    config = load_config([*SETTINGS, f"cluster.max_staleness={staleness}"])
    # tokens of 8 bytes, a mask of 1, three numbers of 4, and the features of 4 clips
    batch = 16 * 24 * 21 + 4 * 1_000_000
    assert object_store_bytes(config, SIZE, SEQUENCES) == {
        "rollouts": 2 * batch * (staleness + 1),
        "weights": 28_000_000_000 * (staleness + 2),
    }
