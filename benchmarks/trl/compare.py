"""Compare rlcap with TRL's online trainers: the same 2-layer policy, tokens and reward, in turns.

    python benchmarks/trl/compare.py --json trl.json

TRL is installed into an environment of its own, `benchmarks/trl/.venv`, which shares torch and transformers with the
one that runs this script: rlcap's. TRL no longer has a PPO trainer; its GRPO and RLOO are held against rlcap's.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import statistics
import subprocess
import sys
import venv
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path

from rlcap.process_settings import GNU_LIBRARIES
from rlcap.stop_signals import interrupt_on_stop_signals

HERE = Path(__file__).resolve().parent
KINDS = ("grpo", "rloo")
OVERLAPPED = 1
"""Bound on the staleness of the second figure of rlcap."""


def main() -> None:
    """Measure, print, and write what `--json` asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each trainer (3)")
    parser.add_argument("--steps", type=int, default=10, help="updates in a turn (10)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each trainer (the cores)")
    parser.add_argument(
        "--venv", type=Path, default=HERE / ".venv", help="where TRL is installed (benchmarks/trl/.venv)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    interrupt_on_stop_signals()  # which ends the trainer that is being measured
    python = install(arguments.venv)
    rows = [measure(kind, python, arguments) for kind in KINDS]
    for row in rows:
        sys.stdout.write(
            f"{row['trainer']}  TRL {row['trl_captions_per_s']:.0f} captions/s   rlcap {row['captions_per_s']:.0f} "
            f"({row['speedup_vs_trl']:.1f} x)   overlapped {row['overlapped_captions_per_s']:.0f} "
            f"({row['overlapped_speedup_vs_trl']:.1f} x)\n"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures(rows, arguments), indent=2) + "\n", encoding="utf-8")


def install(directory: Path) -> Path:
    """Make the environment where it is missing; return its Python."""
    python = directory / "bin" / "python"
    requirements = (HERE / "requirements.txt").read_text(encoding="utf-8")
    done = directory / "installed.txt"
    if done.exists() and done.read_text(encoding="utf-8") == requirements:
        return python
    venv.create(directory, with_pip=True, clear=True)
    (own,) = directory.glob("lib/python*/site-packages")
    # What rlcap's environment holds counts as installed; `--system-site-packages` would show that of the system only.
    # addsitedir, and not the bare path: only then are its own .pth files read, by which an editable rlcap is found.
    shared = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (own / "shared.pth").write_text(shared, encoding="utf-8")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
    done.write_text(requirements, encoding="utf-8")
    return python


def measure(kind: str, trl_python: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Run each side in a process of its own, in turns."""
    common = [kind, str(arguments.steps), str(arguments.threads)]
    commands = (
        [trl_python, HERE / "trl_side.py", *common],
        [sys.executable, HERE / "rlcap_side.py", *common, "0"],
        [sys.executable, HERE / "rlcap_side.py", kind, str(arguments.steps), _half(arguments.threads), str(OVERLAPPED)],
    )
    rounds = [[run(command) for command in commands] for _ in range(arguments.rounds)]
    theirs, ours, overlapped = zip(*rounds, strict=True)
    return {
        "trainer": kind,
        "trl_captions_per_s": _median(theirs),
        "captions_per_s": _median(ours),
        "overlapped_captions_per_s": _median(overlapped),
        "speedup_vs_trl": statistics.median(_ratios(ours, theirs)),
        "overlapped_speedup_vs_trl": statistics.median(_ratios(overlapped, theirs)),
        "trl_tokens_per_caption": theirs[0]["tokens_per_caption"],
        "tokens_per_caption": ours[0]["tokens_per_caption"],
    }


def _half(num_threads: int) -> str:
    """Actor and learner compute at the same time."""
    return str(max(1, num_threads // 2))


def run(command: list[str | Path]) -> dict[str, float]:
    """Return what one side tells."""
    environment = {**GNU_LIBRARIES, **os.environ}  # for both sides
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _median(sides: tuple[dict[str, float], ...]) -> float:
    return statistics.median(side["captions_per_s"] for side in sides)


def _ratios(ours: tuple[dict[str, float], ...], theirs: tuple[dict[str, float], ...]) -> list[float]:
    return [mine["captions_per_s"] / other["captions_per_s"] for mine, other in zip(ours, theirs, strict=True)]


def figures(rows: list[dict[str, object]], arguments: argparse.Namespace) -> dict[str, object]:
    """Put hardware and versions around the rows; `speedup_vs_trl` is the lowest of them."""
    from rlcap.bench.hardware import describe_hardware

    installed = distributions(path=[str(path) for path in arguments.venv.glob("lib/python*/site-packages")])
    versions = {each.metadata["Name"]: each.version for each in installed}
    return {
        "hardware": asdict(describe_hardware()),
        "trl": versions["trl"],
        "num_rounds": arguments.rounds,
        "num_threads": arguments.threads,
        "speeds": rows,
        "speedup_vs_trl": min(float(str(row["speedup_vs_trl"])) for row in rows),
    }


if __name__ == "__main__":
    main()
