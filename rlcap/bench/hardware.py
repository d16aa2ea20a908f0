"""What a benchmark ran on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "ray", "transformers", "numpy")


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine and the versions that matter for speed."""

    processor: str
    num_cores: int
    memory_gb: float
    gpu: str
    """Name of the first GPU; empty where there is none."""
    python: str
    packages: dict[str, str]


def describe_hardware() -> Hardware:
    """Look at this machine."""
    return Hardware(
        processor=_processor(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
