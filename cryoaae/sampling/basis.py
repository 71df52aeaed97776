"""Real coordinates of a band-limited volume: orthonormal, and diagonal for wedge and noise.

A spectrum of real densities is Hermitian, so half of its coefficients say all. The coordinates are the
origin, then sqrt(2) Re and sqrt(2) Im of one of each pair k, -k inside a spherical band: lengths
are kept (Parseval), and what is even in k, like a wedge's support or a noise spectrum, is one number a
coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.metrics.sectors import plane_angle
from cryoaae.physics.fourier import frequencies, irfft, radius, rfft
from cryoaae.physics.rotation import quarter_turns

# The Nyquist sphere stays outside: its coefficients have no partner of their own on even boxes.
BAND_STOP = 0.5


class FourierBasis:
    """Coordinates of volumes (..., z, y, x) whose spectrum ends below `BAND_STOP`.

    Parameters
    ----------
    shape_zyx : sequence of int
        Box in voxels; (n, 1, n) is a plane across the tilt axis y, for work in 2-D.
    dtype : torch.dtype
        Of what `volume` returns.
    """

    def __init__(self, shape_zyx: Sequence[int], *, dtype: torch.dtype = torch.float64) -> None:
        z, y, x = shape_zyx
        self.shape, self.dtype = (int(z), int(y), int(x)), dtype
        kz, ky, kx = torch.broadcast_tensors(*frequencies(self.shape, dtype=torch.float64))
        self.radius = radius(self.shape, dtype=torch.float64)
        inside = self.radius < BAND_STOP - 1e-9
        half = (kx > 0) | ((kx == 0) & ((ky > 0) | ((ky == 0) & (kz > 0))))
        self.chosen = torch.nonzero((inside & half).flatten()).flatten()
        self.size = 1 + 2 * len(self.chosen)
        # On the plane kx = 0 the half spectrum holds both partners.
        where = torch.stack(torch.unravel_index(self.chosen, self.radius.shape))
        sizes = torch.tensor(self.radius.shape)[:, None]
        mirrored = torch.where(torch.tensor([[True], [True], [False]]), -where % sizes, where)
        strides = torch.tensor([sizes[1] * sizes[2], sizes[2], 1])[:, None]
        self._on_plane = where[2] == 0
        self._partner = (mirrored * strides).sum(dim=0)[self._on_plane]

    def coefficients(self, volume: Tensor) -> Tensor:
        """Coordinates (..., d) of volumes (..., z, y, x); what lies outside the band is dropped."""
        spectrum = rfft(volume).flatten(-3)
        pairs = spectrum[..., self.chosen] * math.sqrt(2)
        return torch.cat([spectrum[..., :1].real, pairs.real, pairs.imag], dim=-1)

    def volume(self, coefficients: Tensor) -> Tensor:
        """Volumes (..., z, y, x) of coordinates (..., d); the adjoint and, in the band, the inverse."""
        count = len(self.chosen)
        pairs = torch.complex(coefficients[..., 1 : 1 + count], coefficients[..., 1 + count :]) / math.sqrt(2)
        spectrum = pairs.new_zeros(*coefficients.shape[:-1], self.radius.numel())
        spectrum[..., 0] = coefficients[..., 0].to(pairs.dtype)
        spectrum[..., self.chosen] = pairs
        spectrum[..., self._partner] = pairs[..., self._on_plane].conj()
        return irfft(spectrum.unflatten(-1, self.radius.shape), self.shape)

    def each(self, values: Tensor) -> Tensor:
        """Values of an even function of k, (z, y, x // 2 + 1), one a coordinate, (d,)."""
        flat = values.flatten()
        return torch.cat([flat[:1], flat[self.chosen], flat[self.chosen]])

    def on_half_spectrum(self, values: Tensor) -> Tensor:
        """Values (d,) that are alike for Re and Im, as (z, y, x // 2 + 1); zero outside the band."""
        out = values.new_zeros(self.radius.numel())
        pairs = values[1 : 1 + len(self.chosen)]
        out[0], out[self.chosen], out[self._partner] = values[0], pairs, pairs[self._on_plane]
        return out.reshape(self.radius.shape)

    def cells(self, *, angle_step_deg: float = 30.0, tilt_axis_deg: float = 0.0) -> tuple[Tensor, list[str]]:
        """Cell of each coordinate by (shell, angle), (d,), and the cells' names.

        Shells are one Fourier voxel of the first axis wide (the origin counts as the first); the angle is that to
        the plane of zero tilt, seen along the tilt axis, without its sign.
        """
        shell = self.each((self.radius * self.shape[0]).round().clamp(min=1)).long()
        angle = self.each(plane_angle(self.shape, tilt_axis_deg)[0].abs())
        sector = (angle / angle_step_deg - 1e-9).long().clamp(max=math.ceil(90 / angle_step_deg) - 1)
        key = shell * 1000 + sector
        found, cell = key.unique(return_inverse=True)
        names = [
            f"shell {k // 1000}, {k % 1000 * angle_step_deg:g}-{(k % 1000 + 1) * angle_step_deg:g} deg"
            for k in found.tolist()
        ]
        return cell, names


def grid_turns(shape_zyx: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rotations that map the grid onto itself about voxel n // 2, periodically: exact, no interpolation.

    Returns
    -------
    rotations : (t, 3, 3)
        On (z, y, x) vectors; the 24 of the cube for a cube, 8 for (n, 1, n). The identity comes first.
    sources : (t, voxels)
        Flat voxel that lands on each voxel: ``turned = volume.flatten(-3)[..., sources[i]]``.
    """
    shape = torch.tensor(list(shape_zyx))
    axes = [torch.arange(n) - n // 2 for n in shape.tolist()]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    rotations: list[Tensor] = []
    sources: list[Tensor] = []
    for rotation in quarter_turns().long():
        if not torch.equal(rotation.abs() @ shape, shape):
            continue
        # Row vectors: p R is R^T p, where the density at p came from.
        found = (points @ rotation + shape // 2) % shape
        rotations.append(rotation.float())
        sources.append((found[:, 0] * shape[1] + found[:, 1]) * shape[2] + found[:, 2])
    return torch.stack(rotations), torch.stack(sources)
