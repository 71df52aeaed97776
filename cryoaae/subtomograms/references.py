"""References of a multi-reference alignment: spectra on a padded grid, turned by interpolation, fitted by ascent.

A reference t lives on a Fourier grid twice as fine as the particles', as a density confined to a ball. Turned by R it
has at k the value  (P_R t)(k) = t(R^T k), trilinear between grid points. With coefficients S and weights W summed over
the particles in each pose, the penalised likelihood of t rises with every step

    t <- t + (P^T (S - W P t) / sigma^2 - L t) / (P^T W / sigma^2 + L),        L = 1 / (8 tau^2)

because P has non-negative shares that sum to 1: the denominator bounds the curvature (De Pierro, IEEE Trans. Med.
Imaging 14, 1995). tau^2, the power of t in a shell, is re-estimated with the variance that is left (empirical Bayes);
8 grid points stand for one coefficient of the particles.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.subtomograms.band import Band

PADDING = 2
# Grid points for one coefficient of the particles.
POINTS = PADDING**3
EDGE_VOXELS = 2.0
LEAST_POWER = 1e-8


@dataclass(frozen=True)
class Turns:
    """Where the coefficients of a band fall on the padded grid under each of r rotations.

    Parameters
    ----------
    index : (r, q, 8) int32
        Grid points about each.
    share : (r, q, 8) float32
        Their trilinear shares.
    """

    index: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.index)


class References:
    """k references.

    Parameters
    ----------
    band : Band
        The particles' coefficients.
    count : int
    power : (shells,)
        First guess of tau^2.
    device : torch.device
    """

    def __init__(self, band: Band, count: int, power: Tensor, device: torch.device) -> None:
        self.band = band
        reach = math.ceil(float(band.points_zyx[-1].double().square().sum().sqrt()))
        self.size = 2 * (PADDING * reach + 2)
        self.grid = torch.zeros(count, self.size**3, dtype=torch.complex64, device=device)
        self.power = power.to(device).float().clamp(min=LEAST_POWER).repeat(count, 1)  # (k, shells)
        line = torch.fft.fftfreq(self.size, 1 / self.size, device=device)
        radius = torch.sqrt((line**2)[:, None, None] + (line**2)[None, :, None] + line**2)
        # Interpolation at the end of the band reaches beyond it. The origin is not measured: the ball decides it.
        self._shell = (radius / PADDING).round().long().clamp(1, band.shell_count - 1).reshape(-1)
        self._inside = (radius <= PADDING * (reach + 1)).reshape(-1)
        # In real space a grid point is this many voxels of the particles wide.
        step = PADDING * band.box / self.size
        edge = ((radius * step - (band.box / 2 - EDGE_VOXELS)) / EDGE_VOXELS).clamp(0, 1)
        self._ball = 0.5 + 0.5 * torch.cos(torch.pi * edge)
        self._line = line

    def __len__(self) -> int:
        return len(self.grid)

    def turns(self, rotations: Tensor, count: int) -> Turns:
        """Where the first `count` coefficients fall under rotations (r, 3, 3)."""
        points = self.band.points_zyx[:count].to(rotations)
        position = PADDING * torch.einsum("qi,rij->rqj", points, rotations)  # R^T k
        low = torch.floor(position)
        share = position - low
        low = low.long()
        indices, shares = [], []
        for corner in itertools.product((0, 1), repeat=3):
            upper = torch.tensor(corner, device=rotations.device)
            z, y, x = torch.remainder(low + upper, self.size).unbind(-1)
            indices.append(((z * self.size + y) * self.size + x).int())
            shares.append(torch.where(upper == 1, share, 1 - share).prod(dim=-1))
        return Turns(torch.stack(indices, dim=-1), torch.stack(shares, dim=-1))

    def turned(self, turns: Turns) -> Tensor:
        """All references under all rotations: (k, r, q) complex."""
        rotations, count = turns.index.shape[:2]
        rows = torch.view_as_real(self.grid.T.contiguous()).reshape(self.size**3, -1)  # (points, k * 2)
        out = torch.empty(len(self), rotations, count, dtype=torch.complex64, device=self.grid.device)
        for low in range(0, rotations, 128):
            part = slice(low, low + 128)
            values = torch.nn.functional.embedding_bag(
                turns.index[part].reshape(-1, 8), rows, per_sample_weights=turns.share[part].reshape(-1, 8), mode="sum"
            )
            pairs = values.reshape(-1, count, len(self), 2)
            out[:, part] = torch.view_as_complex(pairs).permute(2, 0, 1)
        return out

    def turned_each(self, which: Tensor, rotations: Tensor) -> Tensor:
        """Reference `which` (n,) under rotations of its own (n, m, 3, 3), over the whole band: (n, m, q) complex."""
        n, m = rotations.shape[:2]
        turns = self.turns(rotations.reshape(-1, 3, 3), len(self.band))
        index = turns.index.reshape(n, -1).long() + which[:, None] * self.size**3
        rows = torch.view_as_real(self.grid).reshape(-1, 2)
        values = torch.nn.functional.embedding_bag(
            index.reshape(-1, 8), rows, per_sample_weights=turns.share.reshape(-1, 8), mode="sum"
        )
        return torch.view_as_complex(values).reshape(n, m, -1)

    def ascend(self, which: int, turns: Turns, residual: Tensor, weight: Tensor) -> None:
        """Take one step of a reference, in place.

        Parameters
        ----------
        which : int
        turns : Turns
            Of r poses.
        residual : (r, q) complex
            (S - W P t) / sigma^2 in each pose.
        weight : (r, q)
            W / sigma^2.
        """
        t, shell = self.grid[which], self._shell
        gradient, curvature = self._returned(turns, residual, weight)
        penalty = 1 / (POINTS * self.power[which])[shell]
        stepped = t + (gradient - penalty * t) / (curvature + penalty)
        stepped[0] = t[0]
        self.grid[which] = self._confined(torch.where(self._inside, stepped, 0))
        # E |t|^2 of a coefficient under the posterior: its mean squared and the variance that the data leave.
        second = self.grid[which].abs().square() + 1 / (POINTS * (curvature + penalty))
        sums = torch.zeros(2, self.band.shell_count, device=t.device)
        rows = torch.stack([second, torch.ones_like(second)])[:, self._inside]
        sums.index_add_(1, self._shell[self._inside], rows)
        self.power[which, 1:] = (sums[0] / sums[1].clamp(min=1))[1:].clamp(min=LEAST_POWER)

    def _returned(self, turns: Turns, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """P^T of values and weights, and of their mirror images: the grid is that of a real density."""
        rows = torch.stack([residual.real, residual.imag, weight], dim=-1).reshape(-1, 3)
        sums = torch.zeros(self.size**3, 3, device=rows.device)
        for corner in range(8):
            share = turns.share[..., corner].reshape(-1, 1)
            sums.index_add_(0, turns.index[..., corner].reshape(-1), rows * share)
        cube = sums.reshape(self.size, self.size, self.size, 3)
        mirrored = torch.roll(torch.flip(cube, (0, 1, 2)), (1, 1, 1), (0, 1, 2))
        total = cube + mirrored * torch.tensor([1.0, -1.0, 1.0], device=rows.device)
        return torch.view_as_complex(total[..., :2].contiguous()).reshape(-1), total[..., 2].reshape(-1)

    def _confined(self, spectrum: Tensor) -> Tensor:
        """A spectrum (points,) with its density cut to the ball, and real."""
        cube = spectrum.reshape(self.size, self.size, self.size)
        density = torch.fft.ifftn(cube).real * self._ball
        return torch.where(self._inside, torch.fft.fftn(density).reshape(-1), 0).to(torch.complex64)

    def put(self, which: int, coefficients: Tensor) -> None:
        """Make a reference of coefficients (q,) of a particle as it lies, confined to the ball."""
        grid = torch.zeros_like(self.grid[which])
        z, y, x = (PADDING * self.band.points_zyx.to(grid.device)).unbind(dim=1)
        for sign, values in ((1, coefficients), (-1, coefficients.conj())):
            index = (sign * z % self.size * self.size + sign * y % self.size) * self.size + sign * x % self.size
            grid[index] = values
        # Every second grid point filled: PADDING^3 copies of the box, of which the ball keeps one. Between the balls
        # there is nothing; that tells the value at the origin.
        between = self._ball < 1 / POINTS
        for corner in itertools.product((0, self.size // 2), repeat=3):
            between = between & torch.roll(self._ball < 1 / POINTS, corner, (0, 1, 2))
        background = torch.fft.ifftn(grid.reshape(between.shape)).real[between].mean()
        grid[0] = -background * self.size**3
        self.grid[which] = POINTS * self._confined(grid)

    def move(self, which: int, shift_zyx: Tensor) -> None:
        """Move a reference by `shift_zyx` voxels of the particles, in its own frame."""
        turn = -2 * torch.pi * self._line / (PADDING * self.band.box)
        factors = [torch.polar(torch.ones_like(turn), turn * float(d)) for d in shift_zyx]
        cube = self.grid[which].reshape(self.size, self.size, self.size)
        moved = cube * factors[0][:, None, None] * factors[1][None, :, None] * factors[2]
        self.grid[which] = moved.reshape(-1)

    def keep(self, which: list[int]) -> None:
        """Keep some of the references, in this order."""
        self.grid, self.power = self.grid[which].clone(), self.power[which].clone()

    def volumes(self) -> Tensor:
        """References as volumes (k, z, y, x) in the particles' box, the loss of interpolation undone.

        Trilinear interpolation of a spectrum fades its density as sinc^2, so what was fitted stands unfaded on the
        grid, too bright by that.
        """
        freq_max = math.sqrt(float(self.band.points_zyx[-1].square().sum()) + 0.5) / self.band.box
        everything = Band.up_to(self.band.box, freq_max)  # also what no particle measures as it lies
        z, y, x = (PADDING * everything.points_zyx.to(self.grid.device)).remainder(self.size).unbind(dim=1)
        volumes = everything.volumes(self.grid[:, (z * self.size + y) * self.size + x])
        fade = torch.sinc((torch.arange(self.band.box) - self.band.box // 2) / (PADDING * self.band.box)) ** 2
        fade = fade.to(volumes)
        return volumes * fade[:, None, None] * fade[:, None] * fade
