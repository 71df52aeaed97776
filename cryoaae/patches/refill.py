"""Fill a tomogram's own wedge with the current estimate, so that fitting sees what restoring will.

A pair's input lacks two wedges, the rotated tomogram's own and the laboratory one, while restoring
sees one: a network fitted on such pairs fills the wedge of a whole tomogram too loudly (measured:
slope of truth on estimate 0.6 there, 1 on pairs). With the own wedge filled,

    x_in = T R (y + (1 - M) (f(y) + n)),        target = R y_odd on M_R as before,

one wedge is missing in both. n is noise of the measured law, so that the filled part is as noisy as
the rest. Compare IsoNet's refilling, and DeepDeWedge's (SCIENCE E6).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from cryoaae.patches.source import TomogramSource, allocate, to_source_grid
from cryoaae.patches.spectra import coloured_noise
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import OVERSAMPLING, reflect_positions, sample_cubic

Estimate = Callable[[Tensor], Tensor]

# Working voxels: what is filled at once, and the margin around it that sees tile faces and is dropped.
CORE, MARGIN = 64, 32


def refill(
    source: TomogramSource, estimate: Estimate, *, object_voxels: int, multiple: int, seed: int, device: torch.device
) -> Tensor:
    """Density of a source with its own wedge filled, same grid, (c, z, y, x).

    Parameters
    ----------
    estimate : callable
        (1, 1, z, y, x) on the working grid -> the same shape; sizes are multiples of `multiple`.
    object_voxels : int
        Size of the object that sets the thickness of a tilt's slab, as for the pairs.
    seed : int
        Of the noise added to what is filled.
    """
    filled = allocate(tuple(source.density.shape), f"{source.name}_filled", source.scratch)
    starts = [range(0, n, CORE) for n in source.working_shape_zyx]
    generator = torch.Generator().manual_seed(seed)
    for corner in itertools.product(*starts):
        stops = [min(a + CORE, n) for a, n in zip(corner, source.working_shape_zyx, strict=True)]
        sizes = [-(-(b - a + 2 * MARGIN) // multiple) * multiple for a, b in zip(corner, stops, strict=True)]
        axes = [
            torch.arange(a - MARGIN, a - MARGIN + n, dtype=torch.float32) for a, n in zip(corner, sizes, strict=True)
        ]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) * OVERSAMPLING
        positions = reflect_positions(positions, tuple(source.density.shape[-3:]))
        missing = ~source.wedge.support(sizes, object_zyx=(object_voxels,) * 3, device=device)
        core = tuple(slice(a * OVERSAMPLING, b * OVERSAMPLING) for a, b in zip(corner, stops, strict=True))
        inner = tuple(
            slice(MARGIN * OVERSAMPLING, (MARGIN + b - a) * OVERSAMPLING) for a, b in zip(corner, stops, strict=True)
        )
        for channel, density in enumerate(source.density):
            y = sample_cubic(density[None], positions).to(device)
            noise = coloured_noise(source.noise, (sizes[0], sizes[1], sizes[2]), generator).to(device)
            with torch.no_grad():
                x = estimate(y[None])[0, 0]
            addition = irfft(rfft(x + noise) * missing, sizes).cpu()
            filled[channel][core] = density[core] + to_source_grid(addition, 1)[inner]
    return filled
