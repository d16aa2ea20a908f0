"""Every command, in an environment that has something against it: a sentence and an exit code, never a traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlcap.commands import main
from rlcap.commands.faults import sentence_of, sentence_of_unforeseen
from rlcap.commands.main import run
from rlcap.config.run import RunConfig
from rlcap.preferences.pairs import PreferencePair, write_pairs
from rlcap.run_directory import create_run_directory

UNWRITABLE = "/proc/nobody-writes-here"
DEEP = "[" * 100_000

SIZES = ["--parameters", "1e6", "--layers", "2", "--width", "8", "--vocabulary", "9"]
READS = {
    "prefs import": ["prefs", "import", "{file}", "out.parquet"],
    "prefs stats": ["prefs", "stats", "{file}"],
    "reward score": ["reward", "score", "{file}", "captions.csv", "out.csv"],
    "reward score manifest": ["reward", "score", "nowhere", "{file}", "out.csv"],
    "reward compare": ["reward", "compare", "{file}", "{file}", "captions.csv"],
    "reward status": ["reward", "status", "{file}"],
    "reward rollback": ["reward", "rollback", "{file}"],
    "actors scale": ["actors", "scale", "{file}", "--add", "1"],
    "check-captioner": ["check-captioner", "{file}"],
    "eval": ["eval", "{file}"],
    "report": ["report", "{file}"],
    "ledger": ["ledger", "{file}"],
    "caption": ["caption", "{file}", "a.wav"],
    "plan": ["plan", "captioner.checkpoint={file}"],
    "plan --bench": ["plan", *SIZES, "--bench", "{file}"],
    "data check": ["data", "check", "data.kind=folder", "data.root={file}"],
    "data check of a table": ["data", "check", "data.kind=manifest", "data.root=.", "data.manifest={file}"],
    "train resume": ["train", "resume=true", "run_dir={file}"],
    "sft": ["sft", "experiment=smoke", "captioner.checkpoint={file}"],
    "bench sampler": ["bench", "sampler", "--compare", "{file}"],
}
"""Every command that reads something that is named to it."""
PLACES = ("missing", "folder", "circle", "name too long", "not utf-8")


@pytest.fixture(autouse=True)
def _in_a_folder_of_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", 0.3 * np.sin(np.arange(8_000) / 20), 16_000)
    Path("captions.csv").write_text("audio,caption\na.wav,a tone\n", encoding="utf-8")


def place(kind: str) -> str:
    if kind == "folder":
        Path("there").mkdir()
    elif kind == "circle":
        Path("there").symlink_to("there")
    elif kind == "not utf-8":
        Path("there").write_bytes(b"\xff\xfe\x00a\xe9,\x80\n\x00\x01")
    return "x" * 300 if kind == "name too long" else "there"


def told(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command, and return its exit code and last words; a traceback would be an exception here."""
    try:
        code = run(arguments)
    except SystemExit as left:  # argparse
        code = int(left.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("command", READS)
def test_what_cannot_be_read_is_told_in_a_sentence(command: str, kind: str, capsys: pytest.CaptureFixture[str]):
    file = place(kind)
    code, words = told([part.format(file=file) for part in READS[command]], capsys)
    assert code in (1, 2), words
    assert "rlcap" in words
    assert file in words or command == "data check of a table"


@pytest.mark.parametrize(
    ("command", "name"),
    [("prefs import", "votes.json"), ("plan --bench", "bench.json"), ("bench sampler", "bench.json")],
)
def test_json_without_end_is_told_in_a_sentence(command: str, name: str, capsys: pytest.CaptureFixture[str]):
    Path(name).write_text(DEEP, encoding="utf-8")
    code, words = told([part.format(file=name) for part in READS[command]], capsys)
    assert code in (1, 2)
    assert name in words


def test_settings_without_end_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str]):
    config = create_run_directory(RunConfig(run_dir="run")).config
    config.write_text(DEEP, encoding="utf-8")
    assert told(["train", "resume=true", "run_dir=run"], capsys)[0] == 2


WRITES = {
    "prefs import": ["prefs", "import", "votes.csv", "{file}.parquet"],
    "prefs import --quarantine": ["prefs", "import", "votes.csv", "out.parquet", "--quarantine", "{file}"],
    "reward score": ["reward", "score", "nowhere", "captions.csv", "{file}.csv"],
    "reward compare": ["reward", "compare", "nowhere", "nowhere", "captions.csv", "--out", "{file}.html"],
    "check-captioner": ["check-captioner", "nowhere", "--json", "{file}"],
    "data check": ["data", "check", "data.kind=folder", "data.root=.", "--quarantine", "{file}"],
    "bench --json": ["bench", "sampler", "--json", "{file}"],
    "bench --html": ["bench", "sampler", "--html", "{file}"],
    "sft": ["sft", "experiment=smoke", "cache_dir={file}"],
    "clap": ["clap", "experiment=smoke", "cache_dir={file}"],
    "prefs simulate": ["prefs", "simulate", "experiment=smoke", "cache_dir={file}"],
    "reward fit": ["reward", "fit", "experiment=smoke", "cache_dir={file}"],
    "train": ["train", "experiment=smoke", "run_dir={file}", "cache_dir=cache"],
    "train's cache": ["train", "experiment=smoke", "run_dir=run", "cache_dir={file}"],
}
"""Every command that writes where it is told to."""


@pytest.mark.parametrize("place", [UNWRITABLE, "a.wav/below"])
@pytest.mark.parametrize("command", WRITES)
def test_what_cannot_be_written_is_told_before_anything_is_computed(
    command: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    Path("votes.csv").write_text("clip_id,caption_a,caption_b,votes\na.wav,a,b,1\n", encoding="utf-8")
    monkeypatch.setattr("rlcap.audio.inspection.inspect", _not_yet)
    monkeypatch.setattr("rlcap.preferences.importing.import_pairs", _not_yet)
    code, words = told([part.format(file=place) for part in WRITES[command]], capsys)
    assert code in (1, 2), words
    assert place in words or Path(place).parent.as_posix() in words
    assert not Path("cache").exists()
    assert not Path("run").exists()


def _not_yet(*_: object) -> None:
    raise AssertionError("computed before it was known that the result can be written")


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "within your quota"),
        (errno.EACCES, "see who may use it"),
        (errno.EROFS, "give a place that can be written to"),
        (errno.EIO, "does not answer"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_whatever_the_system_refuses_becomes_a_sentence_with_a_way_out(
    number: int, way_out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/there/file")

    monkeypatch.setattr("rlcap.run_directory.find_run_directory", refuse)
    code, words = told(["ledger", "run"], capsys)
    assert code == 1
    assert words.startswith(f"rlcap: /there/file: {os.strerror(number)}; ")
    assert way_out in words


def test_a_fault_of_a_library_names_no_file_and_is_told_all_the_same():
    assert sentence_of(OSError("Failed to open local file 'x'\nDetail: more")) == "Failed to open local file 'x'"
    assert sentence_of(OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")).startswith("a and b: Invalid")
    assert sentence_of(OSError()) == "OSError"


def test_what_nobody_foresaw_is_a_sentence_and_a_file_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    def fail(_: object) -> int:
        raise KeyError("bark")

    monkeypatch.setattr(main, "run", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as left:
        main.main(["report"])
    assert left.value.code == 1
    words = capsys.readouterr().err
    (kept,) = tmp_path.glob("rlcap-*.log")
    assert "KeyError: 'bark': nobody foresaw this" in words
    assert str(kept) in words
    assert "Traceback" not in words
    assert 'raise KeyError("bark")' in kept.read_text(encoding="utf-8")


def test_a_traceback_that_can_be_kept_nowhere_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert "ValueError: x: nobody foresaw this, and its traceback could be written nowhere" in sentence_of_unforeseen(
        ValueError("x")
    )


def started(command: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run `rlcap` as users do, in a shell."""
    rlcap = f"{sys.executable} -c 'from rlcap.commands.main import main; main()'"
    script = f'rlcap() {{ {rlcap} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, check=False, env={**os.environ, **more})


CHECK = "rlcap data check data.kind=folder data.root=."


@pytest.mark.parametrize(
    ("output", "code"), [("| true", 1), (">/dev/full", 1), (">&- 2>&-", 0)], ids=["reader left", "full disk", "closed"]
)
def test_output_that_nobody_takes_ends_in_order(output: str, code: int):
    ended = started(f"{CHECK} {output}; exit ${{PIPESTATUS[0]}}")
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    assert ended.returncode == code or (ended.returncode == 0 and output == "| true"), "it may have been faster"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_letter_can_be_written_to_any_terminal(encoding: str):
    write_pairs([PreferencePair("录音/höhe.wav", "a", "b", (1,), category="狗")], Path("pairs.parquet"))
    ended = started("rlcap prefs stats pairs.parquet", PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.decode(encoding)


def test_a_file_whose_name_is_no_unicode_can_be_named():
    name = os.fsdecode(b"caf\xe9.wav")
    Path("a.wav").rename(name)
    ended = started(f"{CHECK} data.max_duration_s=0.2")
    assert b"Traceback" not in ended.stderr
    assert b"caf" in ended.stderr
