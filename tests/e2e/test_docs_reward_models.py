"""Every command of docs/reward-models.md, as it stands there and in that order, in one shell."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

PAGE = Path(__file__).parents[2] / "docs/reward-models.md"
BENCHMARKS = "How fast it is here"
ENDS_WITHIN_S = 540
"""Far above what it takes, less than three minutes on two cores: they may be shared."""
FILE = re.compile(r"`([\w.-]+)`:\n\n```\w+\n([\s\S]*?)^```$", re.MULTILINE)
"""A file of the page: its name in front of a fence."""
STEP = re.compile(r"(?P<shell>(?:^    .+\n)+)|^```python\n(?P<python>[\s\S]*?)^```$", re.MULTILINE)
"""What a reader enters: an indented block for the shell, or a fenced one for Python."""


def files(page: str) -> dict[str, str]:
    return dict(FILE.findall(page))


def script(page: str) -> str:
    """The steps of a page as one script that stops at the first that fails, and says which."""
    lines = ["set -eu -o pipefail", """trap 'echo "failed: $BASH_COMMAND" >&2' ERR"""]
    for step in STEP.finditer(FILE.sub("", page)):
        if step["shell"]:
            lines.append(step["shell"].replace("\n    ", "\n").removeprefix("    ").rstrip())
        else:
            lines.append(f"python - <<'END'\n{step['python']}END")
    return "\n".join(lines) + "\n"


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def write_clap(folder: Path) -> None:
    """A CLAP of random weights, in the layout that the page asks for."""
    text = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 1}
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClapModel(ClapConfig(text_config=text, audio_config={**audio, "num_hidden_layers": 2}))
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "dog", "barks", "rain", "falls"]
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    for part in (model, tokenizer, ClapFeatureExtractor(truncation="rand_trunc")):
        part.save_pretrained(folder)


def install(folder: Path) -> None:
    """Do what `pip install` does for the package of the page, below a folder of the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    ((group, names),) = project["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in names.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, but for what the page says a reader has."""
    folder = tmp_path_factory.mktemp("reader")
    for name, content in files(PAGE.read_text()).items():
        (folder / name).write_text(content)
    install(folder)
    write_clap(folder / "clap-htsat-unfused")
    return folder


def start(commands: str, folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    python_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    with log.open("wb") as out:
        return subprocess.Popen(
            ["bash", "-c", commands],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """Take whatever is left of a shell, so that a test that failed leaves no run behind."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def benchmarks(folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """The benchmarks take their time rather than the processor's: they run beside the rest of the page."""
    log = folder / "benchmarks.log"
    process = start(script(sections(PAGE.read_text())[BENCHMARKS]), folder, log)
    yield process, log
    end(process)


def test_every_command_runs_in_the_order_of_the_page(
    folder: Path, benchmarks: tuple["subprocess.Popen[bytes]", Path]
) -> None:
    page = PAGE.read_text()
    commands = script(page.replace(sections(page)[BENCHMARKS], ""))
    assert commands.count("\nrlcap ") > 20
    log = folder / "page.log"
    process = start(commands, folder, log)
    try:
        assert process.wait(timeout=ENDS_WITHIN_S) == 0, log.read_text()[-4000:]
    finally:
        end(process)
    said = log.read_text()
    assert "Traceback" not in said
    assert "is a shadow: " in said
    assert "scores again, from update" in said
    assert (folder / "compare.html").stat().st_size > 10_000
    assert "the last checkpoint is runs/live/checkpoints/" in (folder / "live.log").read_text()


def test_the_benchmarks_run(folder: Path, benchmarks: tuple["subprocess.Popen[bytes]", Path]) -> None:
    process, log = benchmarks
    assert process.wait(timeout=ENDS_WITHIN_S) == 0, log.read_text()[-4000:]
    assert (folder / "reward.json").exists()
    assert (folder / "swap.json").exists()
