"""`rlcap reward`: fit the reward model on preferences, score captions with it, and compare two of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcap.commands import live_reward
from rlcap.commands.parsing import Commands, add_actions, add_command, add_overrides
from rlcap.commands.stages import KEPT, settle_stages
from rlcap.commands.terminal import FAULT, aligned, complain, say

_DETAILS = """\
The reward model, which scores how well a caption fits a clip: a head over CLAP embeddings."""

_MORE = """\
examples:
  rlcap reward fit
  rlcap reward fit data=manifest data.root=recordings reward.preferences=pairs.parquet
  rlcap reward score runs/latest captions.csv scores.csv
  rlcap reward compare runs/cosine runs/mlp captions.csv --out compare.html

`rlcap reward <action> --help` says what an action reads and writes."""

_FIT_DETAILS = f"""\
Fit the reward model on pairwise preferences: a head over CLAP embeddings, by the Bradley-Terry loss. Stages that it
needs (CLAP, and for simulated preferences the baseline) run first where their results are not there yet.

reads:
  the `preference` split of the data, and the pairs over it: those of reward.preferences, or else the votes of
  simulated annotators, who know each clip by its labels
  the `clap` split, and for simulated preferences the `captioned` split: see `rlcap sft`

{KEPT}
  fit.json and fit.html, in a folder of their own whose path is printed: accuracy on held-out pairs, by category and
  beside the agreement of the annotators; calibration; a learning curve, for which the fit is repeated on parts of the
  training clips. A table of it goes to the terminal."""

_FIT_MORE = """\
examples:
  rlcap reward fit
  rlcap reward fit experiment=esc10 data.root=recordings reward.head.num_epochs=20
  rlcap reward fit data=manifest data.root=recordings reward.preferences=pairs.parquet

settings most often changed:
  reward.head.kind=mlp|cosine|text_only          what turns embeddings into a score
  reward.head.finetune_towers=none|projections|all|text_lora
  reward.head.num_members                        heads that are fitted apart and score together
  reward.preferences                             pairs that people have judged (`rlcap prefs import`)
  reward.pairs_per_clip                          pairs that simulated annotators judge on each clip
  reward.fit_report.num_folds                    5: score all clips, each by a model fitted without it
  reward.fit_report.learning_curve               []: no learning curve"""

_TABLE = """\
  MANIFEST   a table (.csv, .tsv, .jsonl, .parquet) with the columns audio and caption; the paths of audio files are
             relative to its folder and may not lead out of it"""

_SCORE_DETAILS = f"""\
Score captions of audio files with a reward model.

reads:
  REWARD     the folder of a reward model, or of a run that has one; a run's limits on the length and level of clips
             hold here too
{_TABLE}

writes, by the ending of OUT:
  .csv, .jsonl, .parquet   the columns audio, caption, score, reward_version and reason

A row whose audio cannot be used has no score, and the reason says why; the exit code is then 1."""

_SCORE_MORE = """\
examples:
  rlcap reward score runs/latest captions.csv scores.csv
  rlcap reward score runs/cache/reward-mlp-0123456789abcdef captions.jsonl scores.parquet"""

_COMPARE_DETAILS = f"""\
Compare two reward models: how far they order the same captions alike, and where they disagree most.

reads:
  A, B       folders of reward models, or of runs that have one
{_TABLE};
             clips with several captions tell most

writes:
  an HTML page with the agreement, and the pairs of captions of a clip that the models put in opposite orders, with
  players. A table of the agreement goes to the terminal. Rows that a model cannot score are left out and counted."""

_COMPARE_MORE = """\
examples:
  rlcap reward compare runs/cosine runs/mlp captions.csv
  rlcap reward compare runs/latest/reward runs/cache/reward-mlp-0123456789abcdef captions.csv --out compare.html"""


def register(commands: Commands) -> None:
    """Add the command and its actions."""
    actions = add_actions(
        commands, "reward", summary="fit the reward model, and score captions with it", details=_DETAILS, more=_MORE
    )
    fit = add_command(
        actions, "fit", _run_fit, summary="fit it on pairwise preferences", details=_FIT_DETAILS, more=_FIT_MORE
    )
    add_overrides(fit)
    score = add_command(
        actions, "score", _run_score, summary="score captions of audio files", details=_SCORE_DETAILS, more=_SCORE_MORE
    )
    score.add_argument("reward", type=Path, metavar="REWARD", help="reward model, or a run directory")
    score.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of audio files and captions")
    score.add_argument("out", type=Path, metavar="OUT", help="file to write")
    compare = add_command(
        actions, "compare", _run_compare, summary="compare two of them", details=_COMPARE_DETAILS, more=_COMPARE_MORE
    )
    compare.add_argument("a", type=Path, metavar="A", help="reward model, or a run directory")
    compare.add_argument("b", type=Path, metavar="B", help="another one")
    compare.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of audio files and captions")
    compare.add_argument("--out", type=Path, default=Path("compare.html"), metavar="PAGE", help="page to write")
    live_reward.register(actions)


def _run_fit(arguments: argparse.Namespace) -> int:
    config = settle_stages(arguments.overrides)
    # Slow to import: faults in the settings come first.
    from rlcap.pipeline.stages import fit_reward

    fitted = fit_reward(config)
    version = json.loads((fitted.reward / "reward.json").read_text(encoding="utf-8"))["version"]
    say(f"{fitted.reward}\n{fitted.figures}\n{fitted.page}\n\nversion {version}\n")
    say(_fit_table(json.loads(fitted.figures.read_text(encoding="utf-8"))))
    return 0


def _run_score(arguments: argparse.Namespace) -> int:
    from rlcap.pipeline.caption_scores import check_out, open_reward, read_captions, score_captions, write_scores
    from rlcap.writable import require_file

    check_out(arguments.out)
    require_file(arguments.out, "OUT")
    listed = read_captions(arguments.manifest)
    scored = score_captions(listed, open_reward(arguments.reward))
    write_scores(listed, scored, arguments.out)
    reasons = [(audio, reason) for audio, reason in zip(listed.audio, scored.reasons, strict=True) if reason]
    say(f"{arguments.out}: {len(listed.audio) - len(reasons)} scores by reward version {scored.version}")
    if not reasons:
        return 0
    audio, reason = reasons[0]
    first = f"{audio}: {reason}" if audio else reason
    complain(f"{len(reasons)} of {len(listed.audio)} rows have no score, the first being {first}")
    return FAULT


def _run_compare(arguments: argparse.Namespace) -> int:
    from rlcap.errors import DataError
    from rlcap.pipeline.reward_comparison import compare_rewards
    from rlcap.writable import require_file

    if arguments.out.suffix.lower() != ".html":
        raise DataError(f"--out must name an .html file, got {arguments.out}")
    require_file(arguments.out, "--out")
    found = compare_rewards(arguments.a, arguments.b, arguments.manifest, arguments.out)
    agreement, same_order = found.agreement, found.agreement.same_order
    rows = [
        ("captions that both score", str(agreement.num_rows)),
        ("rank correlation", "–" if agreement.spearman is None else f"{agreement.spearman:.3f}"),
        ("pairs of captions of a clip", str(same_order.num_samples if same_order else 0)),
    ]
    if same_order:
        rows.append(("in the same order", _percent(same_order.mean)))
        rows.append(("  95 % interval", f"{_percent(same_order.low)} to {_percent(same_order.high)}"))
    say(f"{arguments.out}\n\n{aligned(rows)}")
    if found.num_left_out:
        complain(f"{found.num_left_out} rows are left out (`rlcap reward score` says why)")
        return FAULT
    return 0


def _fit_table(report: Mapping[str, Any]) -> str:
    """The figures of `fit.json` in a few lines."""
    rows = [("", "pairs", "clips", "accuracy", "95 % interval", "agreement"), *_rows("held out", report["heldout"])]
    if report["folds"]:
        rows += _rows(f"all, in {report['folds']['num_folds']} folds", report["folds"]["figures"])
    error = report["heldout"]["calibration"]["expected_error"]
    table = f"{aligned(rows)}\n\nexpected calibration error  {error:.1%}"
    if not report["learning_curve"]:
        return table
    points = [
        (f"{point['share']:.0%} of them", str(point["num_pairs"]), str(point["num_clips"]), *_accuracy(point))
        for point in report["learning_curve"]
    ]
    return f"{table}\n\n{aligned([('trained on', 'pairs', 'clips', 'accuracy', '95 % interval'), *points])}"


def _rows(name: str, figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    lines = [(name, figures["overall"]), *((f"  {each['category']}", each) for each in figures["categories"])]
    return [
        (title, str(each["num_pairs"]), str(each["num_clips"]), *_accuracy(each), _percent(each["agreement"]))
        for title, each in lines
    ]


def _accuracy(figures: Mapping[str, Any]) -> tuple[str, str]:
    accuracy = figures["accuracy"]
    if accuracy is None:
        return "–", "–"
    return _percent(accuracy["mean"]), f"{_percent(accuracy['low'])} to {_percent(accuracy['high'])}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
