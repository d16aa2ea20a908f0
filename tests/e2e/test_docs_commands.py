"""Every command of rlcap that README and docs name exists, with these arguments and settings."""

import re
import shlex
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest

from rlcap.commands.main import command_line, spelt_out
from rlcap.config.load import load_config

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])
BLOCK = re.compile(r"(?:^    .+\n?)+", re.MULTILINE)
BEFORE, BEHIND = {"until"}, {"|", "&", ">", "2>"}
"""What the shell reads around a command, beside variables that it sets."""
TAKES_OTHER_SETTINGS = ("resume=true", "$")
"""A resumed run reads its settings from its folder; and variables are the shell's."""


def commands(page: Path) -> list[list[str]]:
    """The words behind each `rlcap` in the page's indented blocks, up to whatever the shell takes for itself."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if "rlcap " in line else []
            own = list(dropwhile(lambda word: word in BEFORE or "=" in word, words))
            if own[:1] == ["rlcap"]:
                found.append(list(takewhile(lambda word: word not in BEHIND, own[1:])))
    return found


CASES = [pytest.param(words, id=f"{page.name}: {' '.join(words)}") for page in PAGES for words in commands(page)]


def test_the_pages_name_commands():
    assert len(CASES) > 80


@pytest.mark.parametrize("words", CASES)
def test_a_command_of_the_docs_is_taken_as_it_stands(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.json").write_text('{"hardware": {}}')  # of a benchmark that was run before
    arguments = command_line().parse_args(spelt_out(words))
    settings = getattr(arguments, "overrides", [])
    if not any(setting.startswith(TAKES_OTHER_SETTINGS) for setting in settings):
        load_config([setting for setting in settings if "$" not in setting])
