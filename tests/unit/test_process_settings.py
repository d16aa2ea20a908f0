"""What a process tells OpenMP and malloc, and that all ways to start one tell the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlcap.process_settings import GNU_LIBRARIES

ROOT = Path(__file__).resolve().parents[2]
FAULTS_OF_ONE_SIZE = """
import resource
from rlcap.process_settings import settle_process
{settle}
block = 16 * 1024**2
bytearray(block)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run_python(code, **settings):
    environment = {name: value for name, value in os.environ.items() if name not in GNU_LIBRARIES}
    environment |= {"PYTHONPATH": str(ROOT), **settings}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring other libraries")
def test_a_process_that_has_settled_is_given_the_same_memory_again_and_again():
    (settled,) = run_python(FAULTS_OF_ONE_SIZE.format(settle="settle_process()"))
    (started_so,) = run_python(FAULTS_OF_ONE_SIZE.format(settle=""), **GNU_LIBRARIES)
    # With a threshold of glibc's own every block is mapped, and each of its pages asked for: 4,096 pages ten times.
    (unsettled,) = run_python(FAULTS_OF_ONE_SIZE.format(settle=""), MALLOC_MMAP_THRESHOLD_=str(128 * 1024))
    assert int(settled) < 4_096 < 40_000 < int(unsettled)
    assert int(started_so) < 4_096


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring other libraries")
def test_what_the_user_has_set_stays():
    code = "import os; from rlcap.process_settings import settle_process as s; s(); "
    names = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MALLOC_TRIM_THRESHOLD_"]
    code += f"print(*(os.environ[name] for name in {names}))"
    found = run_python(code, OMP_WAIT_POLICY="passive", MALLOC_TRIM_THRESHOLD_="1000000")
    assert found == ["passive", "1000", "1000000"]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Makefile", r"^export ([A-Z_]+) := (\S+)$"),
        ("cluster/Dockerfile", r"(?<= )([A-Z_]+)=(\S+)(?=.*$)"),
        ("cluster/slurm/rlcap.sbatch", r"(?<= )([A-Z_]+)=(\S+)(?=.*$)"),
        ("docs/scaling-out.md", r"(?<= )([A-Z_]+)=(\S+)(?=.*$)"),
    ],
)
def test_whatever_starts_processes_settles_them_alike(file, pattern):
    found = dict(re.findall(pattern, (ROOT / file).read_text(), flags=re.MULTILINE))
    assert {name: value for name, value in found.items() if name in GNU_LIBRARIES} == GNU_LIBRARIES
