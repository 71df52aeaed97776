"""Numbers of a volume that neither a rotation nor a shift changes, taken where the volume was measured.

|F(k)|^2 does not change when the volume is moved, and turns with it. On each shell of Fourier space it is fitted by
spherical harmonics of even degree, c_lm, from the measured coefficients alone, and

    S_l(s) = sqrt( sum_m c_lm(s)^2 / (4 pi) )        (S_0 keeps its sign)

does not change when the volume is turned: S_0 is the mean power of the shell, S_2, S_4, ... how unevenly it is spread
over directions. Noise adds its own power; its expectation is subtracted before the fit, where it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.special import lpmv
from torch import Tensor

from cryoaae.physics.fourier import frequencies, radius, rfft

DEGREES = (0, 2, 4)
# Of the mean diagonal of the normal equations: what the wedge hides stays near zero instead of being extrapolated.
RIDGE = 0.01


def invariant_spectra(
    volumes: Tensor,
    supports: Tensor,
    support_index: Tensor,
    *,
    noise_power: Tensor | None = None,
    freq_max: float = 0.25,
    degrees: Sequence[int] = DEGREES,
) -> Tensor:
    """Rotation-invariant power by shell and degree, (n, shells, degrees).

    Parameters
    ----------
    volumes : (n, z, y, x)
        Cubes.
    supports : (g, z, y, x // 2 + 1) bool
        Measured coefficients of each distinct wedge.
    support_index : (n,) int
        Which of them is a volume's.
    noise_power : (z, y, x // 2 + 1), optional
        Expected |F|^2 of the noise, of orthonormal transforms.
    freq_max : float
        The shells, one Fourier voxel wide, go up to this frequency in cycles a voxel.
    degrees : sequence of int
        Even ones: |F|^2 is even.
    """
    if any(degree % 2 for degree in degrees):
        raise ValueError(f"degrees {tuple(degrees)}: the power spectrum of a real volume has even ones only")
    shape = (int(volumes.shape[-3]), int(volumes.shape[-2]), int(volumes.shape[-1]))
    power = rfft(volumes).abs().square()
    if noise_power is not None:
        power = power - noise_power
    shell = (radius(shape, dtype=torch.float64) * shape[-1]).round().long()
    shells = int(freq_max * shape[-1])
    out = torch.zeros(len(volumes), shells, len(degrees), dtype=torch.float64)
    for group, support in enumerate(supports):
        own = (support_index == group).nonzero()[:, 0]
        for s in range(1, shells + 1):
            here = support & (shell == s)
            out[own, s - 1] = _shell_invariants(power[own][:, here].double(), _directions(shape, here), degrees)
    return out


def _shell_invariants(power: Tensor, directions_zyx: Tensor, degrees: Sequence[int]) -> Tensor:
    """S_l (n, degrees) of values (n, q) at unit vectors (q, 3)."""
    if not len(directions_zyx):
        return power.new_zeros(len(power), len(degrees))
    basis = torch.cat([real_harmonics(degree, directions_zyx) for degree in degrees], dim=1)  # (q, c)
    normal = basis.T @ basis
    normal += RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    fitted = torch.linalg.solve(normal, basis.T @ power.T).T  # (n, c)
    parts = fitted.split([2 * degree + 1 for degree in degrees], dim=1)
    norms = [part[:, 0] if part.shape[1] == 1 else torch.linalg.vector_norm(part, dim=1) for part in parts]
    return torch.stack(norms, dim=1) / math.sqrt(4 * math.pi)


def _directions(shape_zyx: tuple[int, int, int], here: Tensor) -> Tensor:
    axes = torch.stack([k.expand(here.shape)[here] for k in frequencies(shape_zyx, dtype=torch.float64)], dim=1)
    return axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True)


def real_harmonics(degree: int, directions_zyx: Tensor) -> Tensor:
    """Real spherical harmonics of one degree at unit vectors (q, 3), orthonormal over the sphere: (q, 2 degree + 1)."""
    z, y, x = directions_zyx.double().unbind(dim=1)
    azimuth = torch.atan2(y, x)
    columns = []
    for order in range(-degree, degree + 1):
        m = abs(order)
        share = math.exp(math.lgamma(degree - m + 1) - math.lgamma(degree + m + 1))
        norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * share * (1 if m == 0 else 2))
        polar = torch.from_numpy(lpmv(m, degree, z.numpy()))
        columns.append(norm * polar * (torch.sin(m * azimuth) if order < 0 else torch.cos(m * azimuth)))
    return torch.stack(columns, dim=1)


def radial_profiles(volumes: Tensor) -> Tensor:
    """Mean density at each distance from the centre voxel n // 2, (n, shells) for volumes (n, z, y, x).

    Shells are a voxel wide, up to the nearest face.
    """
    size = volumes.shape[-3:]
    lines = [torch.arange(n, device=volumes.device) - n // 2 for n in size]
    squares = [line.double() ** 2 for line in lines]
    distance = torch.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2]).round().long().reshape(-1)
    shells = min(int(n) for n in size) // 2
    flat = volumes.double().reshape(len(volumes), -1)
    inside = distance < shells
    sums = torch.zeros(len(volumes), shells, dtype=torch.float64, device=volumes.device)
    sums.index_add_(1, distance[inside], flat[:, inside])
    return sums / torch.bincount(distance[inside], minlength=shells)
