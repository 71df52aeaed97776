"""What has no structure: Gaussian density of a given spectrum, and pure noise.

A Gaussian twin of a block has its amplitudes and random phases: the featureless density of that
spectrum. Its coefficients are independent, so of what was not measured nothing can be said.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.patches.source import TomogramSource
from cryoaae.patches.spectra import coloured_noise
from cryoaae.physics.fourier import irfft, rfft


def random_phases(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Phase factors (z, y, x // 2 + 1) of white noise: those of a real volume."""
    spectrum = rfft(torch.randn(shape, generator=generator))
    return spectrum / spectrum.abs().clamp(min=1e-12)


def gaussian_twin(volume: Tensor, generator: torch.Generator) -> Tensor:
    """Volume (z, y, x) of the same amplitudes and random phases."""
    factors = random_phases(volume.shape, generator).to(volume.device)
    return irfft(rfft(volume) * factors, volume.shape)


def noise_block(source: TomogramSource, size: int, *, slab_voxels: int, generator: torch.Generator) -> Tensor:
    """Noise (size, size, size) of a source's measured spectrum, seen through its wedge."""
    box = (size, size, size)
    support = source.wedge.support(box, object_zyx=(slab_voxels,) * 3)
    return irfft(rfft(coloured_noise(source.noise, box, generator)) * support, box)
