"""Low-rank adapters: W + alpha / r * B A, with only A and B trained (Hu et al., 2022, LoRA)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rlcap.errors import ConfigError


class AdaptedLinear(nn.Module):
    """A linear layer and a low-rank change to it, which is zero at first."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.scale = alpha / rank
        deviation = linear.in_features**-0.5
        self.down = nn.Parameter(deviation * torch.randn(rank, linear.in_features, generator=generator))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, rows: Float[Tensor, "... in_features"]) -> Float[Tensor, "... out_features"]:
        """Apply the layer and the change."""
        change = functional.linear(functional.linear(rows, self.down), self.up)
        changed: Tensor = self.linear(rows) + self.scale * change
        return changed

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The layer itself, with the change added to its weights."""
        self.linear.weight += self.scale * self.up @ self.down
        return self.linear


def add_adapters(module: nn.Module, rank: int, alpha: float, *, seed: int) -> None:
    """Adapt every linear layer below `module`; the parameters of the adapters alone are left to be trained.

    Raises:
        ConfigError: there is no linear layer.
    """
    module.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    # Kinds of their own, such as those in torch's MultiheadAttention, have weights that others read past the layer.
    found = [(parent, name, child) for parent, name, child in _children(module) if type(child) is nn.Linear]
    if not found:
        raise ConfigError(
            "reward.head.finetune_towers=text_lora changes linear layers of the text tower, and this one has none; "
            "use another text tower, or another value"
        )
    for parent, name, linear in found:
        setattr(parent, name, AdaptedLinear(linear, rank, alpha, generator))


def merge_adapters(module: nn.Module) -> None:
    """Put ordinary linear layers back, with what was learnt in their weights."""
    for parent, name, child in _children(module):
        if isinstance(child, AdaptedLinear):
            setattr(parent, name, child.merged())


def _children(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
