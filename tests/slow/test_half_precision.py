"""One update and a resumed run of every family in every precision, tuned in every way."""

import pytest
from half_precision import DTYPES, FAMILIES, LORA, PPO, TUNINGS, Checkpoints, check_an_update, check_resume


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("precisions"))


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_of_any_checkpoint_is_that_of_its_float32_twin(checkpoints, make_clips, family, dtype, tuning):
    check_an_update(checkpoints, make_clips(1.0, 0.5), family, dtype, tuning)


@pytest.mark.parametrize("tuning", [PPO, LORA])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_learner_goes_on_from_its_checkpoint_to_the_bit(checkpoints, make_clips, tmp_path, family, dtype, tuning):
    check_resume(checkpoints, make_clips(1.0, 0.5), tmp_path, family, dtype, tuning)
