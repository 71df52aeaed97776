"""Isotropic Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoaae.priors import PRIORS


@PRIORS.register("gaussian")
class Gaussian:
    """N(0, std^2 I).

    Parameters
    ----------
    dim : int
        Length of a code.
    std : float
        Standard deviation of every coordinate.
    """

    classes = 0

    def __init__(self, dim: int = 2, std: float = 1.0) -> None:
        if not isinstance(dim, int) or dim < 1 or std <= 0:
            raise ValueError(f"a Gaussian of {dim} dimensions and standard deviation {std} does not exist")
        self.dim, self.std, self.scale = dim, std, std

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, dim); it has no parts that labels could choose."""
        if labels is not None:
            raise ValueError("a Gaussian has no classes to condition on")
        return self.std * torch.randn(n, self.dim, generator=generator, device=generator.device, dtype=dtype)

    def log_density(self, z: Tensor) -> Tensor:
        """-|z|^2 / (2 std^2) - dim / 2 log(2 pi std^2), (..., dim) -> (...)."""
        return -0.5 * (z / self.std).square().sum(dim=-1) - self.dim * (
            math.log(self.std) + 0.5 * math.log(2 * math.pi)
        )
