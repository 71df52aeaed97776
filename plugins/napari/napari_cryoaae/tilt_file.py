"""The tilt file that lies beside a volume: what nobody need type in."""

from __future__ import annotations

from pathlib import Path

from cryoaae.errors import InputError
from cryoaae.io.names import match_name
from cryoaae.io.tilts import TILT_SUFFIXES, read_tilts
from napari_cryoaae.facts import StatedWedge


def tilt_file_of(volume: Path) -> Path | None:
    """The file of tilt angles in the folder of a volume that has the name of its tomogram."""
    named = (volume.with_name(f"{match_name(volume)}{suffix}") for suffix in TILT_SUFFIXES)
    return next((path for path in named if path.is_file()), None)


def wedge_beside(volume: Path) -> StatedWedge | None:
    """The tilts of that file, their axis along y as on the command line; None where there is none that can be read."""
    file = tilt_file_of(volume)
    try:
        return None if file is None else StatedWedge.of_tilts(read_tilts(file))
    except InputError:
        return None  # a user who chooses it is told why
