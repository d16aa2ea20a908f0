"""`rlcap sft`, `rlcap clap` and `rlcap reward fit`: single stages of the job."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from rlcap.commands import live_reward
from rlcap.commands.parsing import Commands, HelpFormatter, add_command, add_overrides
from rlcap.commands.terminal import say

_KEPT = """\
writes:
  the result, in a folder of runs/cache whose path is printed. Nothing is done twice: the same settings and data find
  it there, and so does `rlcap train`."""

_SFT_DETAILS = f"""\
Train the baseline captioner on clips with captions: what PPO starts from, and what win rates are against.

reads:
  the `captioned` split of the data: clips with captions, or with labels from which captions are made
  the `clap` split, of the same kind: the small CLAP (see `rlcap clap`) is trained first where it is not there yet,
  since the captioner starts from its audio tower
  where captioner.checkpoint names a captioner, that one alone: it is copied

{_KEPT}"""

_SFT_MORE = """\
examples:
  rlcap sft
  rlcap sft experiment=esc10 data.root=recordings sft.num_epochs=40

settings most often changed:
  sft.num_epochs, sft.learning_rate
  sft.text_epochs                                passes over the captions of the `clap` split, without their audio
  captioner.width, captioner.num_layers          size of the language model"""

_CLAP_DETAILS = f"""\
Train the small CLAP: an audio and a text tower whose embeddings agree on clips and their captions.

reads:
  the `clap` split of the data: clips with captions, or with labels from which captions are made

{_KEPT}"""

_CLAP_MORE = """\
examples:
  rlcap clap
  rlcap clap experiment=esc10 data.root=recordings reward.clap.num_epochs=40

settings most often changed:
  reward.clap.num_epochs, reward.clap.learning_rate
  reward.clap.embedding_dim, reward.clap.audio_channels"""

_REWARD_DETAILS = f"""\
Fit the reward model on pairwise preferences: a head over CLAP embeddings, by the Bradley-Terry loss. Stages that it
needs (CLAP, and for simulated preferences the baseline) run first where their results are not there yet.

reads:
  the `preference` split of the data, and the pairs over it: those of reward.preferences, or else the votes of
  simulated annotators, who know each clip by its labels
  the `clap` split, and for simulated preferences the `captioned` split: see `rlcap sft`

{_KEPT}"""

_REWARD_MORE = """\
examples:
  rlcap reward fit
  rlcap reward fit experiment=esc10 data.root=recordings reward.head.num_epochs=20
  rlcap reward fit data=manifest data.root=recordings reward.preferences=pairs.parquet

settings most often changed:
  reward.head.kind=mlp|cosine|text_only          what turns embeddings into a score
  reward.head.finetune_towers=none|projections|all
  reward.preferences                             pairs that people have judged (`rlcap prefs import`)
  reward.pairs_per_clip                          pairs that simulated annotators judge on each clip"""


def register(commands: Commands) -> None:
    """Add the three commands."""
    sft = add_command(
        commands, "sft", stage_runner("sft"), summary="train the baseline", details=_SFT_DETAILS, more=_SFT_MORE
    )
    add_overrides(sft)
    clap = add_command(
        commands, "clap", stage_runner("clap"), summary="train the small CLAP", details=_CLAP_DETAILS, more=_CLAP_MORE
    )
    add_overrides(clap)
    reward = commands.add_parser(
        "reward", help="fit the reward model", description=_REWARD_DETAILS, epilog=_REWARD_MORE,
        formatter_class=HelpFormatter,
    )  # fmt: skip
    actions = reward.add_subparsers(title="actions", metavar="<action>", required=True)
    fit = add_command(
        actions,
        "fit",
        stage_runner("reward"),
        summary="fit it on pairwise preferences",
        details=_REWARD_DETAILS,
        more=_REWARD_MORE,
    )
    add_overrides(fit)
    live_reward.register(actions)


def stage_runner(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that runs one stage and says where its result is."""

    def run(arguments: argparse.Namespace) -> int:
        return _run_stage(name, arguments.overrides)

    return run


def _run_stage(name: str, overrides: Sequence[str]) -> int:
    from rlcap.config.load import load_config

    config = load_config(overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.pipeline.stages import run_stage

    say(str(run_stage(config, name)))
    return 0
