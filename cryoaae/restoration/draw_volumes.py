"""Draws of one tomogram brought from the working grid to its own, in its units, with its header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryoaae.io.mrc import create_volume
from cryoaae.patches.normalise import Normalisation
from cryoaae.restoration.draw_sources import covering_axes
from cryoaae.restoration.draw_store import DrawStore
from cryoaae.restoration.placement import WINDOW_SIGMA
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.stream import from_working
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume


@dataclass(frozen=True)
class DrawVolumes:
    """Writes deviations from the estimate, and what is made from them.

    Parameters
    ----------
    tomogram : WorkingTomogram
    estimate : (z, y, x)
        On the continued working grid.
    like : Volume
        The input whose header the outputs keep.
    store : DrawStore
    check : callable
        Called often; raises to stop.

    Notes
    -----
    What the tomogram's `undoing` leaves of its contrast transfer is undone in all that is brought to the tomogram's
    grid, as in the restoration; the store knows nothing of it.
    """

    tomogram: WorkingTomogram
    estimate: Tensor
    like: Volume
    store: DrawStore
    check: Callable[[], None]

    @property
    def scratch(self) -> Scratch:
        return Scratch(self.store.folder)

    def continued(self, deviation: NDArray[Any]) -> Tensor:
        """A deviation (z, y, x) on the continued working grid."""
        return continued(torch.from_numpy(np.array(deviation)), covering_axes(self.tomogram.plan.frame))

    def stretched(self, deviation: NDArray[Any]) -> NDArray[np.float32]:
        """A deviation on the tomogram's grid, in its units; a scratch array."""
        return self.own_grid(self.continued(deviation), Normalisation(0.0, self.tomogram.normalisation.scale))

    def own_grid(self, working: Tensor, normalisation: Normalisation) -> NDArray[np.float32]:
        """A continued working volume on the tomogram's grid; a scratch array."""
        out: NDArray[np.float32] = self.scratch.array(self.like.shape)
        frame = self.tomogram.plan.frame
        undoing = self.tomogram.undoing
        if undoing is not None:
            working = working.clone()
            undoing.after(working.numpy(), scratch=self.scratch, check=self.check)
        from_working(working.numpy(), out, frame, normalisation, scratch=self.scratch, check=self.check)
        return out

    def write_draw(self, number: int, path: Path, mean: Volume, *, label: str) -> None:
        """Write a draw: the mean and its deviation."""
        deviation = self.stretched(self.store.read(number))
        with create_volume(path, self.like.shape, like=self.like, label=label, overwrite=True) as out:
            for z, plane in enumerate(deviation):
                out[z] = mean.data[z] + plane

    def write_deviation(self, deviation: NDArray[Any], path: Path, *, label: str) -> None:
        """Write a deviation by itself."""
        values = self.stretched(deviation)
        with create_volume(path, self.like.shape, like=self.like, label=label, overwrite=True) as out:
            for z, plane in enumerate(values):
                out[z] = plane

    def write_spread(self, count: int, path: Path, *, label: str) -> None:
        """Write the local spread of the first `count` deviations on the tomogram's grid.

        Root mean square over the draws and over a Gaussian window of `WINDOW_SIGMA` working voxels: of a few draws the
        mean square of one voxel is mostly chance.
        """
        squares = self.scratch.array(self.like.shape)
        for draw in self.store.read_all(count):
            for z, plane in enumerate(self.stretched(draw)):
                squares[z] += np.square(plane)
        gaussian_filter(squares, WINDOW_SIGMA * self.tomogram.plan.frame.working_bin, output=squares, mode="reflect")
        with create_volume(path, self.like.shape, like=self.like, label=label, overwrite=True) as out:
            for z, plane in enumerate(squares):
                out[z] = np.sqrt(np.maximum(plane, 0.0) / count)
