"""Captioners by directory: the family in `config.json` picks the class."""

from __future__ import annotations

from pathlib import Path

import torch

from rlcap.captioners.captioner import Captioner
from rlcap.captioners.checkpoint_files import in_a_sentence
from rlcap.captioners.families import family_of
from rlcap.captioners.master_weights import CPU, hold_masters
from rlcap.captioners.tuned_captioner import TunedCaptioner
from rlcap.captioners.tuned_parts import TunedParts
from rlcap.config.captioner import CaptionerConfig
from rlcap.finite_weights import refuse_loaded


def load_captioner(directory: str | Path, device: torch.device = CPU) -> Captioner:
    """Load a captioner that `save` wrote, or any checkpoint of a family known here, in evaluation mode.

    What is trained of it is in float32, and what is frozen in a precision in which `device` computes; it is not moved
    there yet.

    Raises:
        CheckpointError: the directory is missing, damaged, or of a family or architecture not known here; or it holds
            weights that are not finite.
    """
    directory = Path(directory)
    family = family_of(directory)
    with in_a_sentence(f"the captioner in {directory} cannot be loaded"):
        captioner = family.load(directory).eval()
    refuse_loaded(captioner.state_dict(), f"the captioner in {directory}")
    hold_masters(captioner, device)
    return captioner


def adopt_captioner(
    directory: str | Path, config: CaptionerConfig, *, to_teach: bool = False, device: torch.device = CPU
) -> Captioner:
    """Load a captioner to begin a run with; where its family allows it, `config` says what is tuned of it.

    It is saved whole, whatever adapters it has or gets: it is the baseline of what follows. With `to_teach` it is
    ready to be trained on `device`, its master weights in float32.

    Raises:
        CheckpointError: as for `load_captioner`.
    """
    directory = Path(directory)
    family = family_of(directory)
    with in_a_sentence(f"the captioner in {directory} cannot be loaded"):
        if not issubclass(family, TunedCaptioner):
            captioner: Captioner = family.load(directory)
        else:
            captioner = family.adopt(directory, TunedParts.of(config))
            if to_teach:
                captioner.tune()
    refuse_loaded(captioner.state_dict(), f"the captioner in {directory}")
    if to_teach:
        hold_masters(captioner, device)
    return captioner.eval()


def check_checkpoint(directory: str | Path, config: CaptionerConfig) -> None:
    """Refuse a captioner to begin a run with, as far as that shows without its weights.

    Raises:
        CheckpointError: there is none of a family known here, or it cannot be tuned as `config` says.
    """
    family = family_of(Path(directory))
    if issubclass(family, TunedCaptioner):
        family.check_tuning(TunedParts.of(config))
