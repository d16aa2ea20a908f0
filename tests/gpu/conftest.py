"""Where the tests of this folder compute."""

import os

import pytest
import torch

DRY_RUN = "RLCAP_GPU_DRY_RUN"
"""Set, the tests run on the CPU: it shows that they themselves are right, and nothing about GPUs."""


@pytest.fixture(scope="session")
def device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get(DRY_RUN):
        return torch.device("cpu")
    pytest.skip("there is no GPU here")
