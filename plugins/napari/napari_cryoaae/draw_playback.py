"""What `cryoaae sample` wrote, as films: its draws one after the other, and swings along its principal modes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from napari_cryoaae.contrast import sparse_sample
from napari_cryoaae.facts import LayerFacts, Role
from napari_cryoaae.film import Film, WeightedVolume
from napari_cryoaae.readers import LayerData, read_volume
from napari_cryoaae.run_folder import read_restoration
from napari_cryoaae.spread_record import REPORT, SpreadRecord, draw_number, read_spread

# A swing goes so many standard deviations either way, in so many frames.
REACH, SWING_FRAMES = 2.0, 24
# Of a spread, where it begins to glow and where it is brightest.
GLOW_PERCENT = (50, 99.5)


@dataclass(frozen=True)
class PosteriorDraws:
    """Files of one sampled tomogram that stand.

    Parameters
    ----------
    record : SpreadRecord
    std : Path
    mean : Path, optional
    draws, modes : tuple of Path
    """

    record: SpreadRecord
    std: Path
    mean: Path | None
    draws: tuple[Path, ...]
    modes: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path) -> PosteriorDraws:
        """Find a folder of `cryoaae sample`, or the spread beside X.mrc that `cryoaae restore --uncertainty` wrote.

        Raises
        ------
        InputError
        """
        record = read_spread(path if path.is_dir() or path.suffix == ".json" else _record_beside(path))
        if record is None:
            raise InputError(path, "is nothing that cryoaae sample wrote", _remedy(path))
        files: dict[Role, list[Path]] = {Role.STD: [], Role.DRAW: [], Role.MODE: []}
        for file, role in record.outputs():
            files[role].append(file)
        if not files[Role.STD]:
            raise InputError(path, "its spread is gone", "run cryoaae sample again")
        made = read_restoration(record.beside)
        mean = None if made is None else next((file for file, _ in made.outputs()), None)
        return cls(record, files[Role.STD][0], mean, tuple(files[Role.DRAW]), tuple(files[Role.MODE]))

    @property
    def name(self) -> str:
        """Of the tomogram."""
        return self.record.tomogram

    @property
    def shares(self) -> list[float]:
        """Of the draws' variance, one a mode."""
        return [float(share) for share in self.record.record.get("modes", [])]

    def draw_film(self) -> Film:
        """The draws, one a frame.

        Raises
        ------
        InputError
            When one cannot be read.
        """
        volumes = [self.layer(path)[0] for path in self.draws]
        labels = tuple(f"draw {draw_number(path)} of {len(self.draws)}" for path in self.draws)
        return Film(f"{self.name} draws", labels, volumes.__getitem__, like=self.draws[0])

    def mode_film(self, index: int) -> Film:
        """The mean with more and less of a mode, there and back.

        Raises
        ------
        InputError
            When the mean does not stand, or a file cannot be read.
        """
        if self.mean is None:
            raise InputError(self.record.file, "its mean is gone", "run cryoaae sample again")
        mean, mode = (self.layer(path)[0] for path in (self.mean, self.modes[index]))
        places = [REACH * math.sin(2 * math.pi * frame / SWING_FRAMES) for frame in range(SWING_FRAMES)]
        labels = tuple(f"mode {index + 1}, {place:+.1f} standard deviations" for place in places)
        return Film(
            f"{self.name} mode {index + 1}", labels, lambda i: WeightedVolume((1.0, mean), (places[i], mode)),
            like=self.mean,
        )  # fmt: skip

    def layer(self, path: Path, role: Role = Role.DRAW, *, of: str = "") -> LayerData:
        """One of the files as a layer; nothing but a sample of it is read.

        Parameters
        ----------
        path : Path
        role : Role
        of : str
            Whose volume it is, if not the tomogram's.
        """
        record = self.record
        return read_volume(path, LayerFacts(role, of or self.name, path, wedge=record.wedge, record=record.file))

    def std_layer(self) -> LayerData:
        """The spread as a layer."""
        data, look, kind = self.layer(self.std, Role.STD)
        return data, look | {"name": f"{self.name} std"}, kind


def glow_limits(spread: NDArray[Any]) -> tuple[float, float]:
    """Levels at which a spread (z, y, x) laid over a slice glows where it is above its median, and nowhere else."""
    values = sparse_sample(spread)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, GLOW_PERCENT))
    return low, high if high > low else low + 1.0


def _record_beside(volume: Path) -> Path:
    """Record of the spread of X.mrc, or of X_std.mrc."""
    return volume.with_name(f"{volume.stem.removesuffix('_std')}_std.json")


def _remedy(path: Path) -> str:
    inside = sorted(file.parent.name for file in path.glob(f"*/{REPORT}") if read_spread(file)) if path.is_dir() else []
    if inside:
        return f"give the folder of one tomogram: {', '.join(inside)}"
    return "give its folder, or a volume restored with --uncertainty"
