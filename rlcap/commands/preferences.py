"""`rlcap prefs`: preference pairs from simulated annotators, from files of other layouts, and what they hold."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlcap.commands.parsing import Commands, add_actions, add_command, add_overrides
from rlcap.commands.stages import stage_runner
from rlcap.commands.terminal import aligned, complain_of, say

_DETAILS = """\
Preference pairs: two captions of one clip, and the votes on them. The reward model is fitted on them."""

_MORE = """\
examples:
  rlcap prefs simulate
  rlcap prefs import audiocaps_eval.json pairs.parquet
  rlcap prefs stats pairs.parquet

`rlcap prefs <action> --help` says what an action reads and writes."""

_SIMULATE_DETAILS = """\
Sample pairs of captions from the baseline, and let simulated annotators vote on them.

reads:
  the `preference` split of the data: clips with labels, by which the annotators know them
  what `rlcap sft` reads, where the baseline captioner is not there yet: it is trained first

writes:
  the result, in a folder of runs/cache whose path is printed. Nothing is done twice: the same settings and data find
  it there, and so does `rlcap train`."""

_SIMULATE_MORE = """\
examples:
  rlcap prefs simulate
  rlcap prefs simulate reward.pairs_per_clip=10

settings most often changed:
  reward.pairs_per_clip         pairs asked of each clip
  data.soundscapes.preference   clips that are asked about"""

_IMPORT_DETAILS = """\
Turn human preferences of another layout into the pairs that rlcap reads.

reads, by the ending of FILE:
  .csv, .tsv, .jsonl, .parquet   a table with the columns clip_id, caption_a, caption_b and either
                                 votes (1 for A, -1 for B, 0 for neither; "1 -1 1" or a list) or
                                 preferred (a, b or tie; one row an annotator);
                                 source_a, source_b and category are kept where they are there;
                                 chosen and rejected may stand for caption_a and caption_b,
                                 as text or as the messages of TRL; or CSV of Label Studio
  .json                          the layout of FENSE (Zhou et al., 2022), pairwise labels of
                                 Label Studio (JSON, JSON-MIN), or a list of such rows

writes:
  OUT                            Parquet, one row a pair; A and B change places at random
                                 (seeded), since files tend to name the better caption first
  with --quarantine FILE         row and reason of what cannot be used, as CSV; the rest is
                                 imported

`rlcap reward fit` and `rlcap train` fit the reward model on it: reward.preferences=OUT"""

_IMPORT_MORE = """\
examples:
  rlcap prefs import votes.csv pairs.parquet
  rlcap prefs import audiocaps_eval.json pairs.parquet
  rlcap reward fit data=manifest data.root=recordings reward.preferences=pairs.parquet"""

_STATS_DETAILS = """\
Say what a set of preference pairs holds: how many, how decided, and how far its annotators agree with each other,
which is the most that a reward model can reach.

reads:
  FILE   pairs that `rlcap prefs import` or `rlcap prefs simulate` wrote

writes:
  nothing but a table on the terminal"""

_STATS_MORE = """\
examples:
  rlcap prefs stats pairs.parquet"""


def register(commands: Commands) -> None:
    """Add the command and its actions."""
    actions = add_actions(
        commands, "prefs", summary="simulate, import and inspect preference pairs", details=_DETAILS, more=_MORE
    )
    simulate = add_command(
        actions,
        "simulate",
        stage_runner("prefs"),
        summary="let simulated annotators judge captions of the baseline",
        details=_SIMULATE_DETAILS,
        more=_SIMULATE_MORE,
    )
    add_overrides(simulate)
    importing = add_command(
        actions,
        "import",
        _run_import,
        summary="turn human preferences of another layout into pairs",
        details=_IMPORT_DETAILS,
        more=_IMPORT_MORE,
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="preferences to read")
    importing.add_argument("out", type=Path, metavar="OUT", help="Parquet file to write")
    importing.add_argument("--quarantine", type=Path, metavar="FILE", help="CSV file for rows that cannot be used")
    stats = add_command(
        actions, "stats", _run_stats, summary="say what pairs hold", details=_STATS_DETAILS, more=_STATS_MORE
    )
    stats.add_argument("file", type=Path, metavar="FILE", help="pairs to read")


def _run_import(arguments: argparse.Namespace) -> int:
    from rlcap.audio.quarantine import QuarantineList
    from rlcap.errors import DataError
    from rlcap.preferences.importing import import_pairs
    from rlcap.preferences.pairs import randomise_order, write_pairs
    from rlcap.writable import require_file

    if arguments.out.exists():
        raise DataError(f"{arguments.out} is there already; give another name, or move it away")
    require_file(arguments.out, "OUT")
    if arguments.quarantine:
        require_file(arguments.quarantine, "--quarantine")
    found = import_pairs(arguments.file)
    write_pairs(randomise_order(found.pairs, seed=0), arguments.out)
    if arguments.quarantine:
        QuarantineList(found.quarantined).save(arguments.quarantine)
    say(f"{arguments.out}: {len(found.pairs)} pairs of {len({pair.clip_id for pair in found.pairs})} clips")
    if found.passed_over:
        say("Passed over: " + ", ".join(f"{what} ({count})" for what, count in found.passed_over.items()) + ".")
    if found.quarantined:
        say(f"Left out: {len(found.quarantined)} rows that cannot be used.")
        complain_of(found.quarantined)
    return 0


def _run_stats(arguments: argparse.Namespace) -> int:
    from rlcap.preferences.agreement import summarise_pairs
    from rlcap.preferences.pairs import sift_pairs

    stored = sift_pairs(arguments.file)
    pairs = stored.pairs
    complain_of(stored.quarantined)
    if not pairs:
        say(f"{arguments.file} holds no pairs")
        return 0
    by_category = {"all": pairs}
    for pair in pairs:
        if pair.category:
            by_category.setdefault(pair.category, []).append(pair)
    rows: list[tuple[str, ...]] = [("", "pairs", "clips", "votes", "undecided", "A wins", "agreement")]
    for category, members in by_category.items():
        found = summarise_pairs(members)
        counts = (str(found.num_pairs), str(found.num_clips), str(found.num_votes))
        shares = (found.share_undecided, found.share_first, found.agreement)
        rows.append((category, *counts, *("–" if share is None else f"{share:.1%}" for share in shares)))
    say(aligned(rows))
    return 0
