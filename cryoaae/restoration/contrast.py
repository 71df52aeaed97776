"""Undo the contrast transfer, the last step on what is restored, and a part of it the first: `patches.contrast`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.tilt_series_star import read_tilt_series, tilt_series_file
from cryoaae.patches.contrast import (
    DEFOCUS_ERROR,
    FLOOR,
    LONG_ANGSTROM,
    SHARE_BEFORE,
    Gain,
    gain_on_grid,
    shown_gain,
)
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.registry import suggestion
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import Check, filter_in_place, radial

Transfers = ContrastTransfer | Mapping[str, ContrastTransfer]


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
