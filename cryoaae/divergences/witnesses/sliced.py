"""First variation of the sliced Wasserstein distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.divergences.sliced import wasserstein2
from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.divergences.witnesses.witness import checked


@WITNESSES.register("sliced")
class SlicedWitness(nn.Module):
    """Mean over directions u of the Kantorovich potential of u.q to u.p.

    Parameters
    ----------
    dim : int
        Length of a point.
    capacity : int
        Points a cloud may have.
    directions : int
        Lines, drawn anew when clouds are taken up.

    Notes
    -----
    On a line the optimal map T is that of quantiles, and the potential has the slope ``2 (t - T(t))`` (Santambrogio
    2015, section 2.2; Bonneel et al. 2015). T is taken at the points of q, the mean of the quantiles of p that each
    is coupled to, is linear between them and constant beyond.
    """

    lines: Tensor
    knots: Tensor
    shifts: Tensor
    heights: Tensor
    count: Tensor
    zero: Tensor

    def __init__(self, dim: int, capacity: int, *, directions: int = 128) -> None:
        super().__init__()
        self.dim, self.capacity, self.directions = dim, capacity, directions
        self.register_buffer("lines", torch.zeros(dim, directions))
        for name in ("knots", "shifts", "heights"):  # t, t - T(t), potential
            self.register_buffer(name, torch.zeros(directions, capacity))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("zero", torch.tensor(0.0))

    def solve(self, again: Tensor, real: Tensor, *, generator: torch.Generator) -> Tensor:
        """Take up two clouds and return their distance; draws the lines."""
        checked(again, real, self.dim, self.capacity)
        self.lines.copy_(self._lines(again, generator))
        x, y = again @ self.lines, real @ self.lines
        knots = x.T.sort(dim=1).values
        shifts = knots - _coupled(y.T.sort(dim=1).values, len(again))
        rise = (shifts[:, 1:] + shifts[:, :-1]) * knots.diff(dim=1)
        self.count.fill_(len(again))
        self.knots[:, : len(again)], self.shifts[:, : len(again)] = knots, shifts
        self.heights[:, : len(again)] = nn.functional.pad(rise.cumsum(dim=1), (1, 0))
        self.zero.zero_()
        self.zero.copy_(self(real).mean())
        return wasserstein2(x, y).mean()

    def forward(self, points: Tensor) -> Tensor:
        """Mean potential at points (b, dim), (b,)."""
        count = int(self.count)
        knots, shifts, heights = (part[:, :count].contiguous() for part in (self.knots, self.shifts, self.heights))
        at = (points @ self.lines).T.contiguous()  # (directions, b)
        left = (torch.searchsorted(knots, at.detach()) - 1).clamp(0, max(count - 2, 0))
        right = (left + 1).clamp(max=count - 1)
        low, high = knots.gather(1, left), knots.gather(1, right)
        inside = at.clamp(low, high)
        slope = (shifts.gather(1, right) - shifts.gather(1, left)) / (high - low).clamp(min=torch.finfo(at.dtype).tiny)
        step = inside - low
        height = heights.gather(1, left) + 2 * shifts.gather(1, left) * step + slope * step.square()
        # Beyond the ends T is that of the end.
        beyond = at - inside
        end = torch.where(at.detach() > high, shifts.gather(1, right), shifts.gather(1, left))
        return (height + 2 * end * beyond + beyond.square()).mean(dim=0) - self.zero

    def between(self, one: Tensor, other: Tensor, *, generator: torch.Generator) -> Tensor:
        """Sliced distance of clouds (n, dim) and (m, dim)."""
        lines = self._lines(one, generator)
        return wasserstein2(one @ lines, other @ lines).mean()

    def _lines(self, like: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(self.dim, self.directions, generator=generator, device=generator.device)
        return nn.functional.normalize(drawn.to(like), dim=0)


def _coupled(quantiles: Tensor, count: int) -> Tensor:
    """Means of sorted points (k, m) over `count` equal shares of their mass, (k, count)."""
    lines, size = quantiles.shape
    # Integral of the quantile function, which is linear between multiples of 1 / m.
    integral = torch.cat([quantiles.new_zeros(lines, 1), quantiles.cumsum(dim=1)], dim=1) / size
    at = torch.arange(count + 1, device=quantiles.device, dtype=quantiles.dtype) * size / count
    left = at.floor().long().clamp(max=size - 1)
    value = integral[:, left] + (at - left) * (integral[:, left + 1] - integral[:, left])
    return value.diff(dim=1) * count
