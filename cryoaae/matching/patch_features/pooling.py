"""What is kept of the response to a filter, wherever in the patch it was."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the power of a patch of unit variance: keeps the root differentiable where nothing responds.
SILENCE = 1e-8


def loudness_and_sparseness(response: Tensor) -> Tensor:
    """Root mean square and mean modulus of responses (b, f, z, y, x), (b, 2 f).

    Their ratio tells few loud places from many quiet ones of the same power: 0.8 for Gaussian density, less for
    structure.
    """
    power = response.square().mean(dim=(-3, -2, -1))
    modulus = response.abs().mean(dim=(-3, -2, -1))
    return torch.cat([(power + SILENCE).sqrt(), modulus], dim=1)
