"""What an autoencoder of patches learns first: the linear estimate, which a U-Net begins with.

    min  pair loss + a |f(y) - W y|^2 / |W y|^2,     a falls from 1 to 0

The targets of the pair loss are mostly noise, and a decoder that is silent learns next to nothing from them in
hundreds of steps (measured); of the linear estimate all is signal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Steps after which it is left behind.
STEPS = 200


class LinearStart(nn.Module):
    """A term that draws an estimate to the linear one, and fades; how far it has is part of the state."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(0))

    def forward(self, prediction: Tensor, linear: Tensor) -> dict[str, Tensor]:
        """The term by name, a scalar; nothing once it has faded."""
        share = 1 - int(self.step) / STEPS
        self.step += 1
        if share <= 0:
            return {}
        return {"linear": share * (prediction - linear).square().mean() / linear.square().mean().clamp(min=1e-12)}
