"""Every command of docs/reward-models.md, as it stands there and in that order, in one shell."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

PAGE = Path(__file__).parents[2] / "docs/reward-models.md"
ENDS_WITHIN_S = 540
"""Far above what it takes, less than three minutes on two cores: they may be shared."""
FILE = re.compile(r"`([\w.-]+)`:\n\n```\w+\n([\s\S]*?)^```$", re.MULTILINE)
"""A file of the page: its name in front of a fence."""
STEP = re.compile(r"(?P<shell>(?:^    .+\n)+)|^```python\n(?P<python>[\s\S]*?)^```$", re.MULTILINE)
"""What a reader enters: an indented block for the shell, or a fenced one for Python."""


def files(page: str) -> dict[str, str]:
    return dict(FILE.findall(page))


def script(page: str) -> str:
    """The steps of a page as one script that stops at the first that fails, and says what it does, and when."""
    lines = ["set -eu -o pipefail", "PS4='+ after $SECONDS s: '", "set -x"]
    for step in STEP.finditer(FILE.sub("", page)):
        if step["shell"]:
            lines.append(step["shell"].replace("\n    ", "\n").removeprefix("    ").rstrip())
        else:
            lines.append(f"python - <<'END'\n{step['python']}END")
    return "\n".join(lines) + "\n"


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, but for what the page says a reader has."""
    for name, content in files(PAGE.read_text()).items():
        (tmp_path / name).write_text(content)
    install(tmp_path)
    write_clap(tmp_path / "clap-htsat-unfused")
    return tmp_path


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
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


@pytest.mark.timeout(ENDS_WITHIN_S + 20)
def test_every_command_runs_in_the_order_of_the_page(folder: Path) -> None:
    commands = script(PAGE.read_text())
    assert commands.count("\nrlcap ") >= 20
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
    measured = json.loads((folder / "reward.json").read_text())
    assert f"share of bare model     {measured['share_of_bare_model']:.1%}" in said
    assert {row["hit_rate"] for row in measured["sweep"]} == {0.0, 0.5, 1.0}
    assert all(row["scores_per_s"] > 0 and row["num_failed"] == 0 for row in measured["sweep"])
    swapped = json.loads((folder / "swap.json").read_text())
    assert swapped["num_swaps"] == 4 * swapped["num_refused"] > 0
    assert (swapped["num_embedded_anew"], swapped["num_failed"]) == (0, 0)
    assert f"the last checkpoint is {folder}/runs/live/checkpoints/" in (folder / "live.log").read_text()
