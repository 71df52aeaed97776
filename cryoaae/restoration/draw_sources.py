"""Where draws come from: what a sampler is, and the equivariant bootstrap (all of them: `restoration.samplers`).

A sampler gives a draw's *deviation* from the estimate, on the working grid, by the draw's number. Draws are spread
about the restoration that is shipped, whatever the sampler: of most the deviation has mean zero over draws. Every draw
has a generator of its own, seeded by the user's seed and its number: more draws extend fewer, in any order.

The bootstrap's deviations are

    d_k = s_k (x_k - x_hat),      x_k = R_k^-1 f(T R_k x_hat + n_k),      s_k = +1, -1, +1, ...

What the x_k have in common, f's bias on x_hat, is error too, and belongs into the spread: for a Wiener filter of
gain g and structure of power S, the posterior's variance is (1 - g) S. About their own mean the x_k have g (1 - g) S,
about x_hat g (2 - g) (1 - g) S. Which way the truth lies is not known, so the sign alternates: the shipped mean stays
the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from cryoaae.metrics.spread_factors import LEVEL
from cryoaae.patches.tiling import PaddedAxis
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import quarter_turns, random_rotations, rotation_about
from cryoaae.restoration.fresh_noise import FreshNoise
from cryoaae.restoration.stream import Frame
from cryoaae.restoration.turned_boxes import TurnedBox, on_source_grid, turned_boxes
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.sampling.bootstrap import equivariant_bootstrap

TURNS = ("any", "quarter", "tilt-axis")


def covering_axes(frame: Frame) -> tuple[PaddedAxis, PaddedAxis, PaddedAxis]:
    """Axes of the working grid: the voxels that lie in the tomogram, and their continuation."""
    bin_ = frame.working_bin
    z, y, x = (PaddedAxis(-(-a.size // bin_), a.before // bin_, a.padded // bin_) for a in frame.axes)
    return z, y, x


def covering(frame: Frame) -> tuple[slice, slice, slice]:
    """The working voxels that lie in the tomogram, the last, incomplete ones among them."""
    z, y, x = (slice(a.before, a.before + a.size) for a in covering_axes(frame))
    return z, y, x


def generator_of(seed: int, number: int, *further: int) -> torch.Generator:
    """Generator of a draw of its own; number 0 is for what all draws share; further numbers for what comes later."""
    words = np.random.SeedSequence([seed, number, *further]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


class DrawSource(Protocol):
    """What the posterior's mean and spread are made from.

    Parameters
    ----------
    tomogram : WorkingTomogram
    estimate : (z, y, x)
        Restoration on the continued working grid.
    seed : int
    turns : str
        Which rotations leave the structure's law as it is: one of `TURNS`.

    Attributes
    ----------
    knows_places : bool
        Whether draws have their spread where errors are; else it is brought there (`restoration.placement`).
    wedge_within : float
        What is known beforehand of the size of the spread in the wedge: by how much it is off, a standard deviation of
        the logarithm.
    centred : bool
        Whether the mean over draws is zero by construction; else the law has a mean of its own, and its distance from
        the restoration is part of the spread.
    needs_halves : bool
        Whether a single volume will not do.
    takes : tuple of str
        Options of `SampleOptions` that it takes beside seed and turns, as keywords of the same names.

    Notes
    -----
    A sampler that has something to say of how it fared has a method `facts` as well, for plain data with a "message".
    """

    knows_places: ClassVar[bool]
    wedge_within: ClassVar[float]
    centred: ClassVar[bool]
    needs_halves: ClassVar[bool]
    takes: ClassVar[tuple[str, ...]]

    def __init__(self, tomogram: WorkingTomogram, estimate: Tensor, *, seed: int, turns: str) -> None: ...

    def deviation(self, number: int) -> Tensor:
        """Draw `number` (from 1) less the estimate, (z, y, x): working voxels in the tomogram."""
        ...

    @staticmethod
    def work(tomogram: WorkingTomogram, number: int, *, seed: int, turns: str) -> list[int]:
        """Sizes in working voxels of the boxes that one input is restored in for a draw, or what takes as long.

        Options that it `takes` are keywords too.
        """
        ...

    @staticmethod
    def made_from() -> dict[str, str]:
        """What decides draws besides options and tomogram, as plain data."""
        ...


class Bootstrap:
    """Deviations by the equivariant bootstrap; see the module and `sampling.bootstrap`."""

    knows_places: ClassVar[bool] = False
    wedge_within: ClassVar[float] = LEVEL
    centred: ClassVar[bool] = True
    needs_halves: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tomogram: WorkingTomogram, estimate: Tensor, *, seed: int, turns: str) -> None:
        self.tomogram, self.seed, self.turns = tomogram, seed, turns
        part = covering(tomogram.plan.frame)
        self.wedge = tomogram.wedge.solid()
        # What the network puts beyond the band is lost on turning, in every draw alike: it is no spread.
        self.estimate = band_limit(estimate)[part].contiguous()
        self.noise = FreshNoise(tomogram, part, generator=generator_of(seed, 0))
        self.source = on_source_grid(self.estimate, self.wedge)

    def deviation(self, number: int) -> Tensor:
        generator = generator_of(self.seed, number)
        rotation = _rotation(self.tomogram, self.turns, generator)
        fields = self.noise.draw(generator)
        again = torch.zeros_like(self.estimate)
        for box in _boxes(self.tomogram, rotation):
            fresh = torch.stack([self.wedge.measured(box.periodic(field)) for field in fields])
            (part,) = equivariant_bootstrap(
                self.source, self._restore, self.wedge, rotations=[rotation], noise=[fresh], turn=box.forth,
                back=box.back,
            )  # fmt: skip
            again[box.served] += part
        sign = 1 if number % 2 else -1
        return sign * (again - self.estimate)

    def _restore(self, inputs: Tensor) -> Tensor:
        return self.tomogram.restore(list(inputs))

    @staticmethod
    def work(tomogram: WorkingTomogram, number: int, *, seed: int, turns: str) -> list[int]:
        rotation = _rotation(tomogram, turns, generator_of(seed, number))
        return [box.voxels for box in _boxes(tomogram, rotation)]

    @staticmethod
    def made_from() -> dict[str, str]:
        return {}


def _boxes(tomogram: WorkingTomogram, rotation: Tensor) -> Iterator[TurnedBox]:
    z, y, x = (axis.size for axis in covering_axes(tomogram.plan.frame))
    return turned_boxes((z, y, x), rotation, multiple=tomogram.plan.grid.multiple)


def _rotation(tomogram: WorkingTomogram, turns: str, generator: torch.Generator) -> Tensor:
    """Uniform on SO(3), on its 24 quarter turns, or about the tilt axis: filaments and membranes stay as they lie then.

    Quarter turns keep to the grid: nothing is resampled, and the turned frame is no larger than the tomogram.
    """
    if turns == "any":
        return random_rotations(1, generator=generator)[0]
    if turns == "quarter":
        every = quarter_turns()
        return every[int(torch.randint(len(every), (1,), generator=generator))]
    angle = 2 * torch.pi * float(torch.rand(1, generator=generator))
    return rotation_about(tomogram.wedge.tilt_axis_zyx, angle)
