"""What a divergence is, and what it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cryoaae.draws import Draws


@dataclass(frozen=True)
class Codes:
    """A cloud of codes.

    Parameters
    ----------
    samples : (*stack, n, d)
    mean, log_std : (*stack, n, d), optional
        Law of each code, for divergences that are taken per sample (KL).
    told : (*stack, n, classes + 1), optional
        One-hot labels that a discriminator is shown beside each code; the last column means "unlabelled".
    """

    samples: Tensor
    mean: Tensor | None = None
    log_std: Tensor | None = None
    told: Tensor | None = None


class Divergence(Protocol):
    """Compares codes q with a sample p of their prior; an `nn.Module` made as `Name(prior, stack=(), ...)`."""

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """What the encoder descends, (*stack,)."""
        ...

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor | None:
        """What the divergence's own parameters descend, (*stack,), or None where it has none."""
        ...
