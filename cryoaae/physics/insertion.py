"""A volume from projections by insertion of their central slices, weighted by their CTFs.

By the projection-slice theorem the spectrum Y_i of image i samples that of the volume on a central plane, times its
CTF C_i, with noise of equal power everywhere. Least squares with a Wiener term gives, at each Fourier voxel k,

    X(k) = sum_i w_i C_i Y_i / (sum_i w_i C_i^2 + tau)

where both sums run over the samples near k, with trilinear shares, on a grid finer than the box by `PADDING`
(a coarser one wraps the far side of the box onto itself), and tau is the noise-to-signal ratio of one image.
Volumes and images have their centre in voxel n // 2.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

PADDING = 2


def reconstruct_from_slices(
    images: Tensor,
    rotations: Tensor,
    ctf: Tensor,
    *,
    weights: Tensor | None = None,
    premultiplied: bool = False,
    noise_to_signal: float = 0.3,
) -> Tensor:
    """Volume (n, n, n) from t images (t, n, n), in densities: an image is the sum of the volume along the beam.

    Parameters
    ----------
    images : (t, n, n)
        Square tilt images (y, x).
    rotations : (t, 3, 3)
        Take (z, y, x) of the volume to (beam, image y, image x).
    ctf : (t, m, m // 2 + 1)
        CTF of each image on the half spectrum of the padded image, m = `padded_size(n)`; ones where there is none.
    weights : (t,), optional
        w_i: how much each image counts; default 1.
    premultiplied : bool
        Whether the images were multiplied with their CTF before.
    noise_to_signal : float
        tau > 0.
    """
    size = images.shape[-1]
    padded = padded_size(size)
    margin = padded // 2 - size // 2  # centre stays in voxel m // 2
    room = (margin, padded - size - margin) * 2
    spectra = torch.fft.rfft2(torch.fft.ifftshift(torch.nn.functional.pad(images.double(), room), dim=(-2, -1)))
    weight = torch.ones(len(images)) if weights is None else weights
    weight = weight.to(images.device).double()[:, None, None]
    matched = weight * (spectra if premultiplied else spectra * ctf)
    spectrum, coverage = insert_slices(matched, weight * ctf.double() ** 2, rotations)
    solved = spectrum / (coverage + noise_to_signal)
    volume = torch.fft.fftshift(torch.fft.irfftn(solved[..., : padded // 2 + 1], s=(padded,) * 3))
    inside = slice(margin, margin + size)
    return volume[inside, inside, inside].float()


def padded_size(size: int) -> int:
    """Edge of the padded image, and of the Fourier grid, for images of `size` pixels."""
    return PADDING * size


def insert_slices(values: Tensor, weights: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Sum values and weights of half spectra (t, m, m // 2 + 1) onto the grid (m, m, m), with trilinear shares.

    Both signs of k are inserted, so that the sums are Hermitian and even. Samples within one grid voxel of Nyquist are
    left out: their shares would wrap round to the opposite frequency.
    """
    size = values.shape[1]
    ky = torch.fft.fftfreq(size, 1 / size, device=values.device, dtype=torch.float64)
    kx = torch.fft.rfftfreq(size, 1 / size, device=values.device, dtype=torch.float64)
    grid_y, grid_x = torch.meshgrid(ky, kx, indexing="ij")
    inside = grid_y**2 + grid_x**2 <= (size / 2 - 1) ** 2
    plane = torch.stack([torch.zeros_like(grid_y), grid_y, grid_x], dim=-1)[inside]  # (k, 3): (beam, y, x)
    # Rows of P are image axes in the volume's frame: k_volume = P^T k_image.
    positions = torch.einsum("kj,tji->tki", plane, rotations.to(plane)).reshape(-1, 3)
    # The column kx = 0 holds both signs of k already.
    once = torch.where(plane[:, 2] == 0, 0.5, 1.0).to(plane)
    value = (values[:, inside] * once).reshape(-1)
    weight = (weights[:, inside] * once).reshape(-1)
    spectrum = torch.zeros(size**3, dtype=torch.complex128, device=values.device)
    coverage = torch.zeros(size**3, dtype=torch.float64, device=values.device)
    low = torch.floor(positions)
    share = positions - low
    for corner in itertools.product((0, 1), repeat=3):
        upper = torch.tensor(corner, device=values.device)
        part = torch.where(upper == 1, share, 1 - share).prod(dim=-1)
        z, y, x = torch.remainder(low.long() + upper, size).unbind(-1)
        index = (z * size + y) * size + x
        spectrum.index_add_(0, index, value * part)
        coverage.index_add_(0, index, weight * part)
    spectrum, coverage = spectrum.reshape((size,) * 3), coverage.reshape((size,) * 3)
    return spectrum + _negated(spectrum).conj(), coverage + _negated(coverage)


def _negated(grid: Tensor) -> Tensor:
    """Values at -k of a grid (m, m, m) of frequencies."""
    return torch.roll(torch.flip(grid, (0, 1, 2)), (1, 1, 1), (0, 1, 2))
