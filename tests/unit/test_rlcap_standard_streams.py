"""A terminal that is closed, and a pipe whose reader has left, under a real process."""

import os
import pty
import subprocess
import sys

SPEAKER = """
import logging, pathlib, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from rlcap.standard_streams import outlive_terminal, write_error
outlive_terminal()
from rlcap.commands.terminal import complain, say
from rlcap.pipeline.live_view import Standing, live_view
from rlcap.pipeline.progress import announce, progress_bar
logging.basicConfig(stream=sys.stderr)
standing = Standing({"time/captions_per_s": 1.0}, "a dog barks", 0)
with live_view("PPO", 3) as show:
    show(standing)
    pathlib.Path(sys.argv[1]).touch()
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.02)
    show(standing)
with progress_bar("stage", 1) as advance:
    advance("")
announce("announced")
logging.warning("logged")
write_error(b"written")
complain("complained")
say("said")
"""


def run_until_its_reader_is_gone(tmp_path, close, **streams):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    spoken, gone = tmp_path / "spoken", tmp_path / "gone"
    command = [sys.executable, "-W", "error", "-c", SPEAKER, str(spoken), str(gone)]
    process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    try:
        while not spoken.exists():
            assert process.poll() is None
        close()
        gone.touch()
        return process.wait(timeout=60)
    finally:
        process.kill()


def test_a_process_whose_terminal_is_closed_goes_on_and_ends_well(tmp_path):
    ours, theirs = pty.openpty()

    def close():
        os.close(ours)

    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        code = run_until_its_reader_is_gone(tmp_path, close, stdin=terminal, stdout=terminal, stderr=terminal)
    assert code == 0


def test_a_process_whose_complaints_nobody_reads_any_more_goes_on_and_ends_well(tmp_path):
    ours, theirs = os.pipe()
    code = run_until_its_reader_is_gone(tmp_path, lambda: os.close(ours), stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    assert code == 0


def test_a_command_whose_results_nobody_reads_still_learns_of_it():
    code = """
from rlcap.standard_streams import outlive_terminal
outlive_terminal()
from rlcap.commands.terminal import say
import sys, os
try:
    say("said")
except BrokenPipeError:
    os._exit(7)
"""
    ours, theirs = os.pipe()
    os.close(ours)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=theirs, check=False)
    os.close(theirs)
    assert done.returncode == 7
