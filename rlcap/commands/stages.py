"""`rlcap sft` and `rlcap clap`: single stages of the job."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlcap.commands.parsing import Commands, add_command, add_overrides
from rlcap.commands.terminal import say

if TYPE_CHECKING:
    from rlcap.config.run import RunConfig

KEPT = """\
writes:
  the result, in a folder of runs/cache whose path is printed. Nothing is done twice: the same settings and data find
  it there, and so does `rlcap train`."""
"""Where a stage leaves its result."""

_SFT_DETAILS = f"""\
Train the baseline captioner on clips with captions: what PPO starts from, and what win rates are against. Any family
can be trained: a new prefix captioner, or the one in captioner.checkpoint, of which captioner.decoder and
captioner.freeze_encoder say what learns.

reads:
  the `captioned` split of the data: clips with captions, or with labels from which captions are made
  the `clap` split, of the same kind, for a new captioner without captioner.audio_encoder: the small CLAP (see
  `rlcap clap`) is trained first where it is not there yet, since the captioner starts from its audio tower
  the directories that captioner.checkpoint, or captioner.language_model and captioner.audio_encoder, name

{KEPT}
The last: for a checkpoint, with captioner.supervise=true, since `rlcap train` alone starts from it as it is."""

_SFT_MORE = """\
examples:
  rlcap sft
  rlcap sft experiment=esc10 data.root=recordings sft.num_epochs=40
  rlcap sft captioner.checkpoint=whisper captioner.decoder=lora
  rlcap sft captioner.checkpoint=whisper sft.microbatch_size=4 sft.precision=bfloat16
  rlcap sft captioner.language_model=gpt2 captioner.audio_encoder=clap captioner.mapper=transformer \\
      captioner.decoder=frozen

settings most often changed:
  sft.num_epochs, sft.learning_rate              0, the default rate, goes by what is trained (see docs/captioners.md)
  sft.microbatch_size, sft.precision             less memory, and more speed on a GPU
  sft.text_epochs                                passes over the captions of the `clap` split, without their audio
  captioner.checkpoint                           a captioner to train further
  captioner.decoder=full|lora|frozen             what learns of a checkpoint's decoder, or a given language model
  captioner.language_model, captioner.audio_encoder, captioner.mapper
                                                 what a new captioner is made of
  captioner.width, captioner.num_layers          size of a new language model"""

_CLAP_DETAILS = f"""\
Train the small CLAP: an audio and a text tower whose embeddings agree on clips and their captions.

reads:
  the `clap` split of the data: clips with captions, or with labels from which captions are made

{KEPT}"""

_CLAP_MORE = """\
examples:
  rlcap clap
  rlcap clap experiment=esc10 data.root=recordings reward.clap.num_epochs=40

settings most often changed:
  reward.clap.num_epochs, reward.clap.learning_rate
  reward.clap.embedding_dim, reward.clap.audio_channels"""


def register(commands: Commands) -> None:
    """Add the two commands."""
    sft = add_command(
        commands, "sft", stage_runner("sft"), summary="train the baseline", details=_SFT_DETAILS, more=_SFT_MORE
    )
    add_overrides(sft)
    clap = add_command(
        commands, "clap", stage_runner("clap"), summary="train the small CLAP", details=_CLAP_DETAILS, more=_CLAP_MORE
    )
    add_overrides(clap)


def stage_runner(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that runs one stage and says where its result is."""

    def run(arguments: argparse.Namespace) -> int:
        return _run_stage(name, arguments.overrides)

    return run


def _run_stage(name: str, overrides: Sequence[str]) -> int:
    config = settle_stages(overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.pipeline.stages import run_stage

    say(str(run_stage(config, name)))
    return 0


def settle_stages(overrides: Sequence[str]) -> RunConfig:
    """Load the settings of stages, whose results can be kept.

    Raises:
        ConfigError: the settings have faults, or `cache_dir` cannot be written to.
    """
    from rlcap.config.load import load_config
    from rlcap.writable import require_folder

    config = load_config(overrides)
    require_folder(Path(config.cache_dir), "cache_dir")
    return config
