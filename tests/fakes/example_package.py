"""The package of examples/dcase_captioner: put on the path as an installer would, and captioners of its class."""

import sys
import tomllib
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples/dcase_captioner"
if str(EXAMPLE) not in sys.path:
    sys.path.append(str(EXAMPLE))

from dcase_captioner.captioner import DcaseCaptioner  # noqa: E402
from dcase_captioner.network import DcaseConfig  # noqa: E402

from rlcap.captioners.tokenizer import build_word_tokenizer  # noqa: E402


def install(site):
    """Write what `pip install` leaves of the package's entry points below a folder of the path."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    information = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    ((group, names),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (information / "entry_points.txt").write_text("\n".join([*lines, ""]))


def tiny_captioner(of=DcaseCaptioner):
    """A captioner of random weights, large enough for captions that differ from clip to clip."""
    tokenizer = build_word_tokenizer(["a dog barks", "rain falls on a roof", "birds sing and an engine stops"])
    sizes = {"num_mels": 16, "channels": (2, 4), "width": 16, "num_layers": 2, "num_heads": 2, "max_tokens": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        captioner = of(DcaseConfig(vocab_size=len(tokenizer), **sizes), tokenizer)
        with torch.no_grad():
            for parameter in captioner.network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return captioner.eval()
