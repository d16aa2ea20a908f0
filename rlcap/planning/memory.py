"""What each process holds in memory, by part.

Weights, gradients, optimiser and caches are counted exactly as the code keeps them, logits as if it kept those of all
tokens at once. Activations follow Korthikanti et al. (2022, eq. 2): 34 bytes a position, layer and unit of width in 16
bits, without the attention matrix, which fused kernels never write; twice that in 32 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlcap.config.captioner import DecoderTuning
from rlcap.config.cluster import ClusterConfig
from rlcap.config.precision import Precision
from rlcap.config.run import RunConfig
from rlcap.planning.model_size import CaptionerSize
from rlcap.planning.processes import Kind

FLOAT32, BFLOAT16, INT64 = 4, 2, 8
ADAM_MOMENTS = 2
ACTIVATION_BYTES = 17
"""A position, layer and unit of width, in units of the size of a number."""
LOGITS_COPIES_LEARNER, LOGITS_COPIES_ACTOR = 4, 2
"""Of the logits in float32 at once, at most: as such, their (log-)softmax, the product in the entropy, the gradient."""
PROCESS_BYTES = 600_000_000
"""Of Python and its libraries in main memory; of CUDA and its libraries on a GPU."""
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Sequences:
    """How long things are, beside what the settings say."""

    context_tokens: int
    """Positions that the decoder reads before a caption: prompt and audio."""
    feature_bytes: int
    """Of one clip's features, as they travel with its rollouts."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process by part: on its GPU where it has one, else in main memory."""

    parts: dict[str, int]
    host_bytes: int
    """In main memory in any case."""

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    @property
    def largest_part(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda part: self.parts[part])


def memory_of(kind: Kind, config: RunConfig, size: CaptionerSize, sequences: Sequences, reward_bytes: int) -> Memory:
    """Return what a process of this kind holds at its peak."""
    if kind is Kind.learner:
        return Memory(_learner(config, size, sequences), PROCESS_BYTES)
    if kind is Kind.actor:
        return Memory(_actor(config, size, sequences), PROCESS_BYTES)
    parts = {"reward towers": reward_bytes, "libraries": PROCESS_BYTES}
    return Memory(parts, PROCESS_BYTES + int(config.reward.cache_mb * MB))


def weight_versions(cluster: ClusterConfig) -> int:
    """How many versions of the trained weights lie in Ray's object store at most."""
    # Those of requests under way, the newest, and the one that is put.
    in_flight = cluster.max_staleness + 2
    # A learner with a process of its own answers with weights, and for a checkpoint with weights and optimiser.
    answers = 2 + ADAM_MOMENTS if cluster.num_learners else 0
    return in_flight + answers


def object_store_bytes(config: RunConfig, size: CaptionerSize, sequences: Sequences) -> dict[str, int]:
    """Return what lies in Ray's object store at most, over all nodes, by part."""
    num_batches = (config.cluster.max_staleness + 1) * config.training.batches_per_update
    captions = _captions_per_batch(config)
    token_bytes = INT64 + 1 + 3 * FLOAT32  # tokens, mask, log-probs, those of the reference, values
    rollouts = (
        captions * config.sampling.max_new_tokens * token_bytes + _clips_per_batch(config) * sequences.feature_bytes
    )
    weights = size.trainable(config.captioner.decoder, config.captioner.lora_rank)
    return {"rollouts": num_batches * rollouts, "weights": weight_versions(config.cluster) * weights * FLOAT32}


def _learner(config: RunConfig, size: CaptionerSize, sequences: Sequences) -> dict[str, int]:
    """Weights and optimiser, and activations and logits of the rows that go through at once."""
    algorithm, training = config.algorithm, config.training
    trainable = size.trainable(config.captioner.decoder, config.captioner.lora_rank)
    minibatch = min(algorithm.minibatch_size, training.clips_per_batch * training.samples_per_clip)
    share = math.ceil(minibatch / max(1, config.cluster.num_learners))
    captions = min(share, algorithm.microbatch_size or share)
    clips = math.ceil(captions / training.samples_per_clip)
    tokens = captions * config.sampling.max_new_tokens
    number = BFLOAT16 if algorithm.precision is Precision.bfloat16 else FLOAT32
    unit = (clips * sequences.context_tokens + tokens) * size.width * number
    if config.captioner.gradient_checkpointing:
        activations = unit * (size.layers + ACTIVATION_BYTES)  # the input of each layer, and one layer whole
    else:
        activations = unit * size.layers * ACTIVATION_BYTES
    return {
        "weights": _learner_weights(config, size),
        "gradients": trainable * FLOAT32,
        "optimiser": trainable * FLOAT32 * ADAM_MOMENTS,
        "activations": activations,
        "logits": tokens * size.vocabulary * (number + LOGITS_COPIES_LEARNER * FLOAT32),
        "libraries": PROCESS_BYTES,
    }


def _actor(config: RunConfig, size: CaptionerSize, sequences: Sequences) -> dict[str, int]:
    """Policy, what the reference does not share with it, and the cache of one batch of captions."""
    precision = config.sampling.precision.on(gpu=config.cluster.actor_gpus > 0)
    number = BFLOAT16 if precision is Precision.bfloat16 else FLOAT32
    trainable = size.trainable(config.captioner.decoder, config.captioner.lora_rank)
    captions, tokens = _captions_per_batch(config), config.sampling.max_new_tokens
    # The prefix is read once a clip, then copied into the row of every caption.
    positions = captions * (sequences.context_tokens + tokens) + _clips_per_batch(config) * sequences.context_tokens
    return {
        "weights": (size.parameters + _adapters(config, size)) * number,
        "reference": trainable * number,
        "KV cache": 2 * size.layers * size.kv_width * positions * number,
        "logits": captions * tokens * size.vocabulary * (number + LOGITS_COPIES_ACTOR * FLOAT32),
        "libraries": PROCESS_BYTES,
    }


def _learner_weights(config: RunConfig, size: CaptionerSize) -> int:
    """Master weights in float32 of what is trained; beside adapters, what is frozen as the device computes in it."""
    adapters = _adapters(config, size)
    frozen_bytes = size.frozen_bytes(on_gpu=config.cluster.learner_gpus > 0) if adapters else FLOAT32
    return size.parameters * frozen_bytes + adapters * FLOAT32


def _adapters(config: RunConfig, size: CaptionerSize) -> int:
    adapted = config.captioner.decoder is DecoderTuning.lora
    return size.trainable(DecoderTuning.lora, config.captioner.lora_rank) if adapted else 0


def _clips_per_batch(config: RunConfig) -> int:
    return config.training.clips_per_batch // config.training.batches_per_update


def _captions_per_batch(config: RunConfig) -> int:
    return _clips_per_batch(config) * config.training.samples_per_clip
