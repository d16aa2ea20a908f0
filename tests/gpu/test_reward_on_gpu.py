"""A reward model on a GPU scores as on the CPU."""

import numpy as np
import pytest

from reward_server.heads import MlpHead
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig
from rlcap.types import Clip

pytestmark = pytest.mark.gpu
CAPTIONS = ["a dog barks", "rain falls", "a cat meows"]


def test_scores_on_a_gpu_are_those_of_the_cpu(device):
    model = ClapReward(SmallClap.for_captions(ClapConfig(), CAPTIONS, LogMelConfig(), seed=0), MlpHead(512, [512, 128]))
    rng = np.random.default_rng(0)
    clips = [Clip(f"clip-{i}", rng.standard_normal(16_000 * (i + 1)).astype(np.float32) / 9, 16_000) for i in range(3)]
    index = np.arange(3)
    here = model.score(model.embed_audio(clips), CAPTIONS, index)
    model.to(device)
    np.testing.assert_allclose(model.score(model.embed_audio(clips), CAPTIONS, index), here, rtol=1e-3, atol=1e-3)
