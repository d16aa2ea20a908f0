"""Copies of captioner directories: adapters that are saved alone name their base by its place relative to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rlcap.captioners.adapters import holds_adapters, link_adapters


def copy_captioner(source: Path, target: Path, baseline: Path) -> None:
    """Copy a captioner, over what is there; adapters saved alone become linked to `baseline`, which they belong to."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for directory in (target, *(path for path in target.iterdir() if path.is_dir())):
        if holds_adapters(directory):
            base = baseline / directory.relative_to(target)
            link_adapters(directory, os.path.relpath(base.resolve(), directory.resolve()))
