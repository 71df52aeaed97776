"""What a first variation is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Witness(Protocol):
    """First variation of a divergence; an `nn.Module` made as ``Name(dim, capacity)``, whose buffers are its state."""

    def solve(self, again: Tensor, real: Tensor, *, generator: torch.Generator) -> Tensor:
        """Take up two clouds, (n, dim) and (m, dim), each of at most `capacity` points; return their divergence."""
        ...

    def __call__(self, points: Tensor) -> Tensor:
        """First variation at points (b, dim), (b,), differentiable; on the mean over the real cloud it is zero."""
        ...

    def between(self, one: Tensor, other: Tensor, *, generator: torch.Generator) -> Tensor:
        """The divergence itself of two clouds, a scalar."""
        ...


def checked(again: Tensor, real: Tensor, dim: int, capacity: int) -> None:
    """Refuse clouds that are empty, too large or of another dimension.

    Raises
    ------
    ValueError
    """
    for cloud in (again, real):
        if cloud.dim() != 2 or cloud.shape[1] != dim or not 0 < len(cloud) <= capacity:
            raise ValueError(f"a cloud {tuple(cloud.shape)} is not (n, {dim}) with 1 to {capacity} points")
