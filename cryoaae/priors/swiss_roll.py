"""Swiss roll in the plane."""

from __future__ import annotations

import cmath
import math

import torch
from torch import Tensor

from cryoaae.priors import PRIORS
from cryoaae.priors.labels import chosen

# Points that stand for the roll: far below the width of a decile, and a multiple of ten, so that the
# borders of deciles lie half way between two of them.
NODES = 2000
BLOCK_ROWS = 4096


@PRIORS.register("swiss_roll")
class SwissRoll:
    """Spiral that is filled evenly in u, the square of the distance along its radius.

    Parameters
    ----------
    radius : float
        Distance of its end from the origin.
    turns : float
        Turns from the origin to the end.
    noise : float
        Standard deviation of Gaussian noise added to each coordinate.

    Notes
    -----
    For u uniform in [0, 1): ``r = radius sqrt(u)``, ``angle = 2 pi turns sqrt(u)``; with the standard values
    3 sqrt(u) and 4 pi sqrt(u) (Makhzani et al. 2016, section 2.3, as sampled in public implementations). The
    label is the decile of u. The law has no density without noise, and none in closed form with it.
    """

    dim = 2
    classes = 10

    def __init__(self, radius: float = 3.0, turns: float = 2.0, noise: float = 0.0) -> None:
        if radius <= 0 or turns <= 0 or noise < 0:
            raise ValueError(f"a roll of radius {radius}, {turns} turns and noise {noise} does not exist")
        self.radius, self.turns, self.noise = radius, turns, noise
        # E|z|^2 = radius^2 E u, and E z = radius E s exp(iws), where s = sqrt(u) has the density 2s.
        iw = 2j * math.pi * turns
        mean = 2 * radius * (cmath.exp(iw) * (1 / iw - 2 / iw**2 + 2 / iw**3) - 2 / iw**3)
        self.scale = math.sqrt((radius**2 / 2 - abs(mean) ** 2) / 2 + noise**2)

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, 2); a label is the decile of u."""
        device = generator.device
        drawn = torch.randint(self.classes, (n,), generator=generator, device=device)
        within = torch.rand(n, generator=generator, device=device, dtype=dtype)
        z = self._at((chosen(labels, drawn, self.classes) + within) / self.classes)
        if self.noise:
            z = z + self.noise * torch.randn(n, 2, generator=generator, device=device, dtype=dtype)
        return z

    def log_density(self, z: Tensor) -> Tensor:
        """Refuse: there is none in closed form."""
        raise NotImplementedError("a Swiss roll has no density in closed form")

    def decile(self, z: Tensor) -> Tensor:
        """Label of the nearest point on the roll, (..., 2) -> (...) int64."""
        u = (torch.arange(NODES, device=z.device, dtype=z.dtype) + 0.5) / NODES
        roll = self._at(u)
        # Without matrix products: their cancellation is as large as the distance between two nodes.
        nearest = [
            torch.cdist(rows, roll, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=-1)
            for rows in z.reshape(-1, 2).split(BLOCK_ROWS)
        ]
        return torch.cat(nearest).reshape(z.shape[:-1]) * self.classes // NODES

    def _at(self, u: Tensor) -> Tensor:
        s = u.sqrt()
        angle = 2 * math.pi * self.turns * s
        return self.radius * torch.stack([s * angle.cos(), s * angle.sin()], dim=-1)
