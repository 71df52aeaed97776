"""Uniform cube."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoaae.priors import PRIORS


@PRIORS.register("uniform")
class Uniform:
    """Even law on the cube [-half_width, half_width]^dim.

    Parameters
    ----------
    dim : int
        Length of a code.
    half_width : float
        Half of the cube's side.
    """

    classes = 0

    def __init__(self, dim: int = 2, half_width: float = 1.0) -> None:
        if not isinstance(dim, int) or dim < 1 or half_width <= 0:
            raise ValueError(f"a cube of {dim} dimensions and half width {half_width} does not exist")
        self.dim, self.half_width, self.scale = dim, half_width, half_width / math.sqrt(3)

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, dim); it has no parts that labels could choose."""
        if labels is not None:
            raise ValueError("a cube has no classes to condition on")
        return self.half_width * (
            2 * torch.rand(n, self.dim, generator=generator, device=generator.device, dtype=dtype) - 1
        )

    def log_density(self, z: Tensor) -> Tensor:
        """-dim log(2 half_width) in the cube, -inf outside, (..., dim) -> (...)."""
        inside = (z.abs() <= self.half_width).all(dim=-1)
        return torch.where(inside, -self.dim * math.log(2 * self.half_width), -math.inf).to(z.dtype)
