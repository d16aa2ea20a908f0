"""A finished run against its baseline, on its own held-out clips or any other labelled recordings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlcap.config.data import SourceKind, Split
from rlcap.config.load import read_config
from rlcap.config.run import RunConfig
from rlcap.errors import DataError
from rlcap.leases import run_lease
from rlcap.pipeline.clips import open_split
from rlcap.pipeline.comparison import compare
from rlcap.pipeline.stage_cache import StageCache
from rlcap.run_directory import RunDirectory
from rlcap.tables.json_values import read_json_object
from rlcap.whole_file import whole_file


def evaluate(run_path: Path, overrides: Sequence[str]) -> Path:
    """Compare the run's captioners again; write `eval.json` with the keys of `summary.json`, and return its path.

    What cannot be measured anew on other clips (reward accuracy, training throughput) is taken over from the run.

    Raises:
        DataError: the run is not finished, or the clips cannot be used.
        RunError: another process drives the run.
    """
    run = RunDirectory(run_path)
    if not run.summary.exists():
        raise DataError(f"{run_path} has no summary.json: finish it with `rlcap train resume=true run_dir={run_path}`")
    summary = read_json_object(run.summary)
    config = read_config(run.config, overrides)
    with run_lease(run_path):
        found = _evaluate(run, config, summary)
        path = run_path / "eval.json"
        with whole_file(path) as fresh:
            fresh.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return path


def _evaluate(run: RunDirectory, config: RunConfig, summary: Mapping[str, object]) -> dict[str, object]:
    start = time.monotonic()
    captioners = {path.name: path for path in sorted(run.captioners.glob("[!.]*")) if path.is_dir()}
    if not captioners:
        raise DataError(f"{run.captioners} holds no captioners: those of a finished run cannot be made anew")
    clips = open_split(config.data, Split.heldout, StageCache(Path(config.cache_dir)))
    comparison = compare(captioners, clips, config.sampling, config.evaluation, seed=config.seed)
    return {
        **summary,
        **comparison.figures,
        "synthetic": config.data.kind is SourceKind.soundscapes,
        "quarantined": len(clips.quarantined) + len(comparison.quarantined),
        "wall_s": {"evaluation": time.monotonic() - start},
    }
