"""Responses to wavelets of three octaves and thirteen directions."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from cryoaae.matching.patch_features import PATCH_FEATURES
from cryoaae.matching.patch_features.pooling import loudness_and_sparseness
from cryoaae.physics.fourier import frequencies, irfft, radius, rfft, taper

# Middle of each octave in cycles per voxel; the working grid ends between 0.3 and 0.4.
OCTAVES = (0.07, 0.14, 0.28)
# A wavelet hears half as much power 30 degrees off its axis.
SHARPNESS = 5
# Share of each axis over which a face is faded.
FADED = 0.25


def cube_axes() -> Tensor:
    """Unit vectors towards faces, edges and corners of a cube, one of each opposite pair, (13, 3)."""
    towards = [v for v in itertools.product((-1.0, 0.0, 1.0), repeat=3) if v > (0.0, 0.0, 0.0)]
    return nn.functional.normalize(torch.tensor(towards), dim=1)


def wavelet_filters(patch: int) -> Tensor:
    """Gains of all wavelets, (39, p, p, p // 2 + 1): raised cosines of log frequency times cos^5 of the angle."""
    box = (patch,) * 3
    k = radius(box)
    octave = torch.log2(k.clamp(min=1e-6))
    bands = [
        torch.cos(math.pi / 2 * (octave - math.log2(middle)).clamp(-1.0, 1.0)) * (k > 0) for middle in OCTAVES
    ]
    vectors = torch.stack(torch.broadcast_tensors(*frequencies(box)), dim=-1)
    # At Nyquist one sign stands for both, and a direction has no meaning.
    inside = (vectors.abs() < 0.5).all(dim=-1)
    direction = vectors / k.clamp(min=1e-6)[..., None]
    beams = (direction @ cube_axes().T).abs().pow(SHARPNESS).movedim(-1, 0)
    return torch.stack([inside * band * beam for band in bands for beam in beams])


@PATCH_FEATURES.register("wavelets")
class Wavelets(nn.Module):
    """Loudness and sparseness of a patch in three octaves and thirteen directions.

    Parameters
    ----------
    patch : int
        Edge in voxels.

    Notes
    -----
    Directions are those of the laboratory, as is the wedge: what a second wedge took from a restoration that
    lacked a first shows as loudness that varies from patch to patch. Filters are real and even.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("filters", wavelet_filters(patch), persistent=False)
        self.register_buffer("window", taper((patch,) * 3, share=FADED), persistent=False)
        self.dim = 2 * len(self.filters)

    def turned(self, axes: tuple[int, ...]) -> Tensor:
        """Where each feature of a patch flipped along two axes stands among those of the patch itself, (dim,)."""
        sign = torch.ones(3)
        sign[list(axes)] = -1.0
        beams = cube_axes()
        direction = ((beams * sign) @ beams.T).abs().argmax(dim=1)
        kinds = torch.arange(self.dim // len(beams))[:, None] * len(beams)  # statistic and octave
        return (kinds + direction).flatten()

    def forward(self, patches: Tensor) -> Tensor:
        """(b, 1, p, p, p) -> (b, dim)."""
        spectra = rfft(patches * self.window)
        return loudness_and_sparseness(irfft(spectra * self.filters, (self.patch,) * 3))
