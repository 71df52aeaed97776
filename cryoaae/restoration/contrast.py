"""Undo the contrast transfer, radial and linear: the last step on what is restored, and a part of it the first.

With y = T C x + n the network learns structures as the microscope shows them, C x, and what it returns, m, is shrunk
already as noise demands. What is left is known: of all multiples g m the nearest to x is, frequency by frequency,

    g = E[c] / (E[c^2] + f^2)

The expectation is over the defoci of the tilts and over how well they are known: where the sign of c is anybody's
guess, E[c] and g vanish. f is the amplitude of what m holds besides C x (ice, background, what the network made up)
over that of x. It bounds g by 1 / (2 f) where c is small: near its zeros, and at the lowest frequencies, where c is
the amplitude contrast alone. Variations longer than structures, the mean density among them, stay as they are: of
those ice and background make up more than structures do.

A network that has seen many contrasts, the general one or a fit from there, is shown sqrt(g) y, as loud as y was, and
its output is multiplied with sqrt(g): it was taught to mind frequencies by how loud they are, and of the faintest g
makes the most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.tilt_series_star import read_tilt_series, tilt_series_file
from cryoaae.patches.spectra import interpolate
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.fourier import soft_lowpass
from cryoaae.registry import suggestion
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Check, filter_in_place, radial

# Chosen on simulations, decision 0015: f, and the standard deviation of a stated defocus as a share of it.
FLOOR, DEFOCUS_ERROR = 0.1, 0.03
# From the longer to the shorter of these wavelengths g takes over from 1: ice and illumination vary more slowly.
LONG_ANGSTROM = (600.0, 300.0)
# Of the gain's logarithm, before a network that has seen many contrasts; decision 0044.
SHARE_BEFORE = 0.5
# Corner of Fourier space, cycles per voxel, and points at which g is computed up to there.
CORNER, POINTS = 0.75**0.5, 4096

Transfers = ContrastTransfer | Mapping[str, ContrastTransfer]
Gain = Callable[[Tensor], Tensor]


def gain(
    transfer: ContrastTransfer,
    sfreq: Tensor,
    *,
    floor: float = FLOOR,
    long_angstrom: tuple[float, float] = LONG_ANGSTROM,
) -> Tensor:
    """The gain g at frequencies (k,) in cycles per angstrom, float64; 1 at wavelengths beyond `long_angstrom`."""
    mean, square = transfer.at(sfreq, defocus_error=DEFOCUS_ERROR)
    unchanged = soft_lowpass(sfreq.double(), 1 / long_angstrom[0], 1 / long_angstrom[1])
    return unchanged + (1 - unchanged) * mean / (square + floor**2)


def gain_on_grid(transfer: ContrastTransfer, voxel_size_angstrom: float, **settings: Any) -> Gain:
    """The gain g as a function of frequencies of any shape in cycles per voxel, up to the corner of Fourier space.

    Parameters
    ----------
    transfer : ContrastTransfer
    voxel_size_angstrom : float
    **settings
        Keywords of `gain`.
    """
    freq = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS * CORNER
    curve = gain(transfer, freq / voxel_size_angstrom, **settings)

    def of(freq: Tensor) -> Tensor:
        return interpolate(curve.to(freq.dtype), freq / CORNER)

    return of


def undo_contrast(volume: NDArray[Any], gain: Gain, *, scratch: Scratch, check: Check) -> None:
    """Multiply a periodic volume (z, y, x) with a gain, in place, a few planes or rows at a time."""
    filter_in_place(volume, radial(gain, volume.shape), scratch=scratch, check=check)


@dataclass
class Undoing:
    """How the contrast transfer of a tomogram is undone on its working grid.

    Parameters
    ----------
    gain : callable
        Of frequencies in cycles per working voxel.
    shown : callable, optional
        The part of it that is undone before the network.
    scale : float, optional
        By how much that makes it louder, which is taken back; default: what is found of the first volume.
    """

    gain: Gain
    shown: Gain | None = None
    scale: float | None = None

    @classmethod
    def of(cls, transfer: ContrastTransfer | None, model: Any, working_voxel_angstrom: float) -> Undoing | None:
        """As it suits a model; None where nothing is to be undone."""
        if transfer is None:
            return None
        shown = shown_gain(transfer, working_voxel_angstrom) if getattr(model, "any_contrast", False) else None
        return cls(gain_on_grid(transfer, working_voxel_angstrom), shown)

    def before(self, volume: NDArray[Any], *, scratch: Scratch, check: Check) -> None:
        """Make what the network is shown of a normalised volume (z, y, x), in place."""
        if self.shown is None:
            return
        loud = _rms(volume)
        undo_contrast(volume, self.shown, scratch=scratch, check=check)
        if self.scale is None:
            self.scale = _rms(volume) / loud if loud else 1.0
        volume /= self.scale

    def after(self, volume: NDArray[Any], *, scratch: Scratch, check: Check) -> None:
        """Undo the rest, in what was restored or drawn (z, y, x), in place."""
        undo_contrast(volume, self._left, scratch=scratch, check=check)

    def _left(self, freq: Tensor) -> Tensor:
        if self.shown is None:
            return self.gain(freq)
        return self.gain(freq) / self.shown(freq) * (self.scale or 1.0)


def _rms(volume: NDArray[Any]) -> float:
    """Root mean square of a volume, a plane at a time."""
    return float(np.sqrt(sum(float(np.vdot(plane, plane)) for plane in volume) / volume.size))


def shown_gain(transfer: ContrastTransfer, voxel_size_angstrom: float) -> Gain | None:
    """What a network that knows many contrasts is shown a tomogram multiplied with; None: nothing but 1.

    Where phases were not flipped the gain has zeros and signs, and no root.
    """
    if not transfer.phase_flipped:
        return None
    whole = gain_on_grid(transfer, voxel_size_angstrom)
    return lambda freq: whole(freq) ** SHARE_BEFORE


def transfer_of(transfers: Transfers | None, name: str) -> ContrastTransfer | None:
    """The contrast transfer of one tomogram: that of all, or its own by its name.

    Raises
    ------
    InputError
        When there is none of that name.
    """
    if transfers is None or isinstance(transfers, ContrastTransfer):
        return transfers
    if name not in transfers:
        raise InputError("--defocus", f"states none of the tomogram {name!r}", suggestion(name, transfers))
    return transfers[name]


def read_transfers(path: Path, *, phase_flipped: bool = True) -> dict[str, ContrastTransfer]:
    """Contrast transfer of every tomogram of a tilt-series STAR file, by name.

    Raises
    ------
    InputError
        When the file states no tilt series, or no defocus.
    """
    if path.suffix.lower() != ".star":
        raise InputError("--defocus", f"'{path}' is no number", "give micrometres, or a tilt-series STAR file")
    series = read_tilt_series(tilt_series_file(path))
    return {name: one.contrast_transfer(phase_flipped=phase_flipped) for name, one in series.items()}


def transfer_facts(transfer: ContrastTransfer) -> dict[str, Any]:
    """All that decides g, as plain data."""
    stated = asdict(transfer) | {"defocus_um": list(transfer.defocus_um), "share_before": SHARE_BEFORE}
    return stated | {"floor": FLOOR, "defocus_error": DEFOCUS_ERROR, "long_angstrom": list(LONG_ANGSTROM)}
