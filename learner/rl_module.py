"""The captioner as RLlib sees it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from learner.batching import Captions
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.loading import load_captioner
from rlcap.captioners.weights import FlatWeights, load_into, publish

CHECKPOINT = "checkpoint"
DEVICE = "device"
CAPTIONS = "captions"
WEIGHTS = "weights"


class CaptionRLModule(TorchRLModule):
    """A captioner from the directory that `model_config["checkpoint"]` names.

    RLlib's action distributions, catalogs and connectors have no part: a caption is one action sequence, and the
    captioner scores it itself.
    """

    captioner: Captioner

    def setup(self) -> None:
        """Load the captioner."""
        self.captioner = self.load(self.model_config[CHECKPOINT], torch.device(self.model_config[DEVICE]))

    def load(self, checkpoint: str, device: torch.device) -> Captioner:
        """Return the captioner of a checkpoint directory, which will compute on a device of this kind."""
        return load_captioner(checkpoint, device)

    def _forward_train(self, batch: dict[str, Captions], **_: object) -> dict[str, Any]:
        """Score `batch["captions"]`: log-probs, values and entropy `[batch, token]`."""
        captions = batch[CAPTIONS]
        # RLlib turned dropout on before this call.
        self.captioner.eval()
        encoding = self.captioner.encode(captions.frames, captions.frame_mask)
        output = self.captioner.log_probs(
            encoding,
            captions.clip_index,
            captions.tokens,
            captions.action_mask,
            captions.temperature,
            captions.support_sizes,
        )
        return {"log_probs": output.log_probs, "values": output.values, "entropy": output.entropy}

    def get_state(self, *_: object, **__: object) -> dict[str, FlatWeights]:
        """Return all weights, in their own dtypes: RLlib's version raises on bfloat16."""
        return {WEIGHTS: publish(self.captioner)}

    def set_state(self, state: dict[str, FlatWeights]) -> None:
        """Take over weights of the same architecture."""
        load_into(self.captioner, state[WEIGHTS])


def captioner_module_spec(
    checkpoint: str, module_class: type[CaptionRLModule] = CaptionRLModule, *, on_gpu: bool = False
) -> RLModuleSpec:
    """Return what RLlib needs to build the module; the spaces are stand-ins that nothing reads."""
    return RLModuleSpec(
        module_class=module_class,
        observation_space=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
        action_space=gymnasium.spaces.Discrete(1),
        model_config={CHECKPOINT: checkpoint, DEVICE: "cuda" if on_gpu else "cpu"},
    )
