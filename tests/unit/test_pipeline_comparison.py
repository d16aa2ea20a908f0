"""How far the tuned captioner lies from its baseline."""

import pytest
import torch
from half_precision import EndlessClips

from rlcap.captioners.loading import load_captioner
from rlcap.config.captioner import SamplingConfig
from rlcap.config.data import Split
from rlcap.pipeline.clips import SplitClips
from rlcap.pipeline.comparison import BASELINE, TUNED, mean_kl
from rlcap.soundscapes.lexicon import Lexicon

TRUNCATIONS = [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.8}]


@pytest.fixture
def heldout(make_clips):
    clips = make_clips(1.0, 0.5, 2.0)
    ids = tuple(clip.clip_id for clip in clips)
    return SplitClips(
        Split.heldout, EndlessClips(clips), ids, (None,) * 3, ((),) * 3, Lexicon.for_labels(["rain"]), "", ""
    )


def distance(one, other, heldout, seed=0, **sampling):
    return mean_kl({TUNED: one, BASELINE: other}, heldout, SamplingConfig(max_new_tokens=10, **sampling), seed=seed)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_a_captioner_lies_no_distance_from_itself(tmp_path, make_captioner, heldout, temperature, truncation):
    make_captioner(seed=1).save(tmp_path)
    settings = {"temperature": temperature, **truncation}
    assert distance(tmp_path, tmp_path, heldout, **settings) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_a_captioner_that_was_tuned_lies_at_a_distance_from_its_baseline(tmp_path, make_captioner, heldout, truncation):
    baseline, tuned = tmp_path / "baseline", tmp_path / "tuned"
    make_captioner(seed=1).save(baseline)
    captioner = load_captioner(baseline)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in captioner.language_model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    captioner.save(tuned)
    found = [distance(tuned, baseline, heldout, seed=seed, **truncation) for seed in range(20)]
    assert 0.1 < sum(found) / len(found) < 50
