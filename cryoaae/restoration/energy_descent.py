"""A restoration moved to a mode of what data and a prior say: CryoGEN-I's volume mode.

    E(x) = |M (x - y)|^2_{1/N} / 2 + |x|^2_{1/S} / 2 - log p(x) / q0(x)

y is the mean of the halves, N half of one half's noise power, S the power that the halves share, and the last term
`matching.structure_energy`: a discriminator that learned against q0 = N(0, S) and is frozen, at frozen turns and noise.
A mode is a point estimate under a prior, no mean and no draw, and it is the start's. Only the working grid moves: finer
detail stays as the restoration has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.io.mrc import create_volume
from cryoaae.io.project import Tomogram
from cryoaae.matching.reference import ReferenceReferee
from cryoaae.matching.structure import Clouds, Microscope
from cryoaae.matching.structure_energy import StructureEnergy, frozen_draws
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.spectra import interpolate
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Frame, from_working
from cryoaae.sampling.descent import Descent, descend, misfit
from cryoaae.sampling.langevin import WedgePosterior
from cryoaae.volume import Volume

# Noise at the end of the band, where nothing passes, is taken for no less than this share of the loudest.
LEAST = 1e-3


@dataclass(frozen=True)
class Place:
    """Where a tomogram lies on its working grid, and how it comes there.

    Parameters
    ----------
    frame : Frame
    core : three slices
        The tomogram in the working grid.
    normalisation : Normalisation
        Of the halves.
    scratch : Scratch
    check : callable
        Raises to stop the work.
    """

    frame: Frame
    core: tuple[slice, ...]
    normalisation: Normalisation
    scratch: Scratch
    check: Callable[[], None]

    @property
    def corner(self) -> tuple[int, int, int]:
        """First working voxel of the tomogram."""
        z, y, x = (part.start for part in self.core)
        return z, y, x


def posterior_of(
    tomogram: Tomogram, halves: list[NDArray[np.float32]], judge: ReferenceReferee, place: Place
) -> WedgePosterior:
    """Likelihood and Gaussian reference of a tomogram on its working grid, in float64.

    N is read from the halves on that very grid, by shell: what continues the tomogram beyond its faces is quieter.

    Parameters
    ----------
    tomogram : Tomogram
        With halves.
    halves : list of (z, y, x)
        On the working grid, normalised.
    judge : ReferenceReferee
    place : Place
    """
    even, odd = (torch.from_numpy(half.astype(np.float64)) for half in halves)
    z, y, x = shape = tuple(even.shape)
    support = tomogram.wedge.support(shape, object_zyx=[part.stop - part.start for part in place.core])
    shells = min(shape) // 2
    index, seen = shell_index(shape, shells), support * multiplicity(shape)
    apart = shell_sum(rfft((even - odd) / 2).abs().square() * seen, index, shells)
    level = apart / shell_sum(seen, index, shells).clamp(min=1.0)
    noise = interpolate(level, (2 * radius(shape, dtype=torch.float64)).clamp(max=1.0)).clamp(min=LEAST * level.max())
    return WedgePosterior((even + odd) / 2, support, noise, judge.reference_power((z, y, x)).double())


def wiener(posterior: WedgePosterior) -> Tensor:
    """The mode without a prior beyond the reference, (z, y, x): empty in the wedge."""
    gain = posterior.preconditioner * posterior.support / posterior.noise_power
    return irfft(gain * rfft(posterior.measured), posterior.measured.shape)


def descended(
    tomogram: Tomogram,
    restored: Volume,
    start: NDArray[np.float32],
    halves: list[NDArray[np.float32]],
    judge: ReferenceReferee,
    clouds: Clouds,
    microscope: Microscope,
    place: Place,
    output: Path,
    *,
    turns: int,
    steps: int,
    weight: float,
    advance: Callable[[float], Any],
    overwrite: bool,
) -> dict[str, Any]:
    """Descend from a restoration and write where it ends, in the restoration's units and with its header.

    Parameters
    ----------
    tomogram : Tomogram
    restored : Volume
    start : (z, y, x)
        The restoration on the working grid, normalised as the halves are.
    halves : list of (z, y, x)
        On the working grid.
    judge, clouds, microscope, place
        Of the tomogram.
    output : path
    turns, steps : int
    weight : float
        Of the last term; 1: every voxel counts once.
    advance : callable
    overwrite : bool

    Returns
    -------
    dict
        "path", "steps", "energies" at the start and after each, "misfit" at the start, of a Wiener filter and at the
        end (`sampling.descent.Descent`), "logit" of the frozen patches at the start and at the end, in nats.
    """
    plain = posterior_of(tomogram, halves, judge, place)
    draws = frozen_draws(clouds, chains=1, turns=turns, corner_zyx=place.corner)
    further = StructureEnergy(judge, microscope, draws, weight=weight)
    posterior = WedgePosterior(plain.measured, plain.support, plain.noise_power, plain.reference_power, further)
    begun = irfft(rfft(torch.from_numpy(start.astype(np.float64))) * plain.band, start.shape)
    found = descend(posterior, begun, steps=steps, advance=advance)
    _write(found, begun, restored, place, output, overwrite=overwrite)
    ends = [further.logit(volume) for volume in (begun, found.volume)]
    return {
        "path": output, "steps": len(found.energies) - 1, "energies": found.energies, "logit": ends,
        "misfit": [misfit(plain, begun), misfit(plain, wiener(plain)), found.misfit],
    }  # fmt: skip


def _write(
    found: Descent, begun: Tensor, restored: Volume, place: Place, output: Path, *, overwrite: bool
) -> None:
    """Add what has moved to the restoration."""
    moved = (found.volume - begun).float().numpy()
    scale = Normalisation(0.0, place.normalisation.scale)
    with create_volume(output, restored.shape, like=restored, label="MAP under a prior", overwrite=overwrite) as out:
        from_working(moved, out, place.frame, scale, scratch=place.scratch, check=place.check)
        for z in range(restored.shape[0]):
            out[z] += restored.data[z].astype(np.float32)


def told_of(descent: dict[str, Any]) -> str:
    """What a descent did, in a line."""
    begun, linear, ended = descent["misfit"]
    first, last = descent["logit"]
    return (
        f"energy fell by {descent['energies'][0] - descent['energies'][-1]:.4g} in {descent['steps']} steps; log ratio "
        f"of a neighbourhood's density to a Gaussian's {first:.3f}, now {last:.3f}; distance from the data over the "
        f"noise {begun:.2f}, now {ended:.2f} (Wiener filter {linear:.2f}, truth 1)"
    )
