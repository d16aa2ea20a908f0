"""Real architectures with random weights pass every check, whatever is tuned of them."""

import pytest
import tiny_models

from rlcap.captioners.loading import adopt_captioner, load_captioner
from rlcap.config.captioner import CaptionerConfig, DecoderTuning
from rlcap.conformance.check_captioner import check_captioner


@pytest.mark.parametrize("settings", [{}, {"freeze_encoder": False, "decoder": DecoderTuning.lora}], ids=str)
@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_a_checkpoint_of_transformers_passes_every_check(architecture, settings, tmp_path, make_clips):
    baseline = tiny_models.save_tiny_model(architecture, tmp_path / "baseline")
    adopt_captioner(baseline, CaptionerConfig(**settings)).save(tmp_path / "adopted")
    results = check_captioner(load_captioner(tmp_path / "adopted"), make_clips(0.6, 0.1, 1.3))
    assert [(result.name, result.got) for result in results if not result.passed] == []


def test_a_prefix_captioner_passes_every_check(make_captioner, make_clips):
    results = check_captioner(make_captioner(freeze_encoder=False), make_clips(0.6, 0.1, 1.3))
    assert [(result.name, result.got) for result in results if not result.passed] == []
