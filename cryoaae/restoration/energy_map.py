"""Where a restoration looks unlike anything measured: the energy of its surroundings, place by place.

    E(place) = mean over R and n of energy(T R x_hat + n),   the block of x_hat about the place

The same forward operator as in fitting, with the prior as the fit left it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.matching.structure import Clouds, Microscope, blocks_at
from cryoaae.matching.structure_energy import places

# Blocks that are turned and measured at once.
BATCH = 16
# Real patches that the zero and the unusual are read from, and the share of them that is called unusual.
REAL_PATCHES, UNUSUAL = 256, 0.01


@dataclass(frozen=True)
class EnergyMap:
    """Energies on a grid of places.

    Parameters
    ----------
    values : (a, b, c)
        Mean energy at each place less that of real patches.
    centres : three arrays of int
        Working voxels of the places along z, y, x.
    real_sd : float
        Standard deviation of the energy of a single real patch.
    unusual : float
        Share of turned patches whose energy is higher than that of all but 1 % of real ones; 0.01 if none stands out.
    """

    values: NDArray[np.float64]
    centres: tuple[NDArray[np.int64], ...]
    real_sd: float
    unusual: float

    def on_grid(self, core: tuple[slice, ...], whole: tuple[int, ...]) -> NDArray[np.float32]:
        """The map on a periodic grid (z, y, x), linear between places, level from the last place to a face.

        Parameters
        ----------
        core : three slices
            Where the tomogram lies in the grid.
        whole : (z, y, x)
            Size of the grid; past the faces the map goes over to the opposite face.
        """
        out = self.values
        for axis, (centres, part, size) in enumerate(zip(self.centres, core, whole, strict=True)):
            knots = part.start + np.concatenate([[0], centres, [part.stop - part.start - 1]])
            index = np.concatenate([[0], np.arange(len(centres)), [len(centres) - 1]])
            at = np.arange(size)
            weights = np.stack([
                np.interp(at, knots, (index == i).astype(float), period=size) for i in range(len(centres))
            ])
            out = np.moveaxis(np.tensordot(out, weights, axes=(axis, 0)), -1, axis)
        return out.astype(np.float32)


@torch.no_grad()
def energy_map(
    restored: Tensor,
    clouds: Clouds,
    microscope: Microscope,
    energies: Callable[[Tensor], Tensor],
    *,
    turns: int,
    step: int,
    advance: Callable[[float], Any] = lambda _: None,
) -> EnergyMap:
    """Measure the energy of a restoration at places `step` apart.

    Parameters
    ----------
    restored : (z, y, x)
        On the working grid, normalised as the halves are.
    clouds : Clouds
        Of its tomogram alone; draws turns, noise and real patches.
    microscope : Microscope
    energies : callable
        Patches (b, 1, p, p, p) to energies (b,).
    turns : int
        Turns at each place, each with noise of its own.
    step : int
        Largest distance of neighbouring places, in working voxels.
    advance : callable
        Told of the share done after each batch; may raise to stop.
    """
    axes = tuple(places(first, count, step) for first, count in clouds.centres())
    where = torch.cartesian_prod(*(torch.from_numpy(axis) for axis in axes)).reshape(-1, 3)
    real = energies(clouds.real(REAL_PATCHES)).double().cpu()
    shown = where.repeat_interleave(turns, dim=0)
    found = []
    for part in shown.split(BATCH):
        draw = clouds.draw_at(part)
        blocks = blocks_at([restored], draw, microscope.block).to(clouds.device)
        found.append(energies(microscope(blocks, draw)).double().cpu())
        advance(len(part) / len(shown))
    energy = torch.cat(found)
    mean = (energy.reshape(len(where), turns).mean(dim=1) - real.mean()).reshape([len(axis) for axis in axes])
    unusual = (energy > torch.quantile(real, 1 - UNUSUAL)).double().mean()
    return EnergyMap(mean.numpy(), axes, float(real.std()), float(unusual))
