"""Does the restorer put structure where there is none? Noise alone, and the tomogram's spectrum without its phases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.restoration.held_out import MEASURED_DEPTH, sums_by_shell
from cryoaae.restoration.working import WorkingTomogram

REGIONS = ("measured", "wedge")
# Fourier voxels beyond the edge: what counts as missing.
WEDGE_DEPTH = 3.0


@dataclass(frozen=True)
class NullTest:
    """Power of what a null gives over that of the restoration.

    Parameters
    ----------
    shells : dict of region to (shells,)
        NaN where a shell has no coefficient of the region.
    whole : dict of region to float
        Over all shells together.
    """

    shells: dict[str, Tensor]
    whole: dict[str, float]


def regions(tomogram: WorkingTomogram) -> dict[str, Tensor]:
    """Masks (z, y, x // 2 + 1) of what was measured and of the wedge, the zone between left out."""
    depth = tomogram.wedge.solid().depth(tomogram.shape, object_zyx=tomogram.core_shape)
    return {"measured": depth < MEASURED_DEPTH, "wedge": depth > WEDGE_DEPTH}


def noise_only(tomogram: WorkingTomogram) -> list[Tensor]:
    """Two halves of noise: the half-difference, and the same shifted by half the box; none of a single volume."""
    if len(tomogram.halves) == 1:
        return []
    even, odd = tomogram.halves
    noise = (even - odd) / 2**0.5
    return [noise, noise.roll([n // 2 for n in noise.shape], dims=(0, 1, 2))]


def phase_randomised(tomogram: WorkingTomogram, *, generator: torch.Generator) -> list[Tensor]:
    """Halves with the tomogram's spectrum and noise, but without its phases: a Gaussian texture."""
    white = rfft(torch.randn(tomogram.shape, generator=generator))
    phases = white / white.abs().clamp(min=torch.finfo(torch.float32).tiny)
    mean = torch.stack(tomogram.halves).mean(dim=0)
    texture = irfft(rfft(mean).abs() * phases, tomogram.shape)
    return [texture + half - mean for half in tomogram.halves]


def null_test(tomogram: WorkingTomogram, halves: list[Tensor], restored: Tensor) -> NullTest:
    """Restore the halves of a null and compare the power with that of the restoration."""
    powers = [_powers(tomogram, volume) for volume in (tomogram.restore(halves), restored)]
    null, real = powers
    return NullTest(
        {name: null[name] / real[name] for name in REGIONS},
        {name: float(null[name].sum() / real[name].sum()) for name in REGIONS},
    )


def _powers(tomogram: WorkingTomogram, volume: Tensor) -> dict[str, Tensor]:
    power = rfft(volume).abs().square() * multiplicity(tomogram.shape)
    return {name: sums_by_shell(power, mask, tomogram.shape) for name, mask in regions(tomogram).items()}
