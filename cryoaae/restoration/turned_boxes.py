"""A tomogram turned as a whole, box by box: what is computed in the turned frame and brought back fits together.

A slab that is turned leaves its own grid. So the turned frame has a grid of its own, as large as the slab needs, cut
into boxes that each hold some context besides their core. Voxel p of the tomogram comes from the one core that holds
q = R (p - c), c its middle. All boxes turn about the same point and read the same field of noise, so neighbours
agree where they meet, and nothing has to be blended.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import prepare_source, to_source_grid
from cryoaae.patches.tiling import PaddedAxis
from cryoaae.physics.rotation import OVERSAMPLING, reflect_positions, sample_cubic, sample_positions
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.engine import FACE_PAD
from cryoaae.volume import Volume

# Longest core of a box, and what it reads beyond where it was cut from its neighbour; working voxels.
CORE, CONTEXT = 128, 32


@dataclass(frozen=True)
class TurnedBox:
    """One box of the turned frame.

    Parameters
    ----------
    shape : (z, y, x)
        Of the tomogram, in working voxels.
    rotation : (3, 3)
        On (z, y, x) vectors, tomogram to turned frame.
    core : three (low, high)
        Half-open, in turned voxels from the middle; infinite where the frame ends.
    read : three (start, stop)
        Turned voxels that the box holds.
    axes : three PaddedAxis
        How these are continued to a period that suits the network.
    """

    shape: tuple[int, int, int]
    rotation: Tensor
    core: tuple[tuple[float, float], ...]
    read: tuple[tuple[int, int], ...]
    axes: tuple[PaddedAxis, PaddedAxis, PaddedAxis]

    @property
    def voxels(self) -> int:
        """Working voxels that the network sees."""
        return math.prod(axis.padded for axis in self.axes)

    @property
    def middle(self) -> Tensor:
        return torch.tensor([float(n // 2) for n in self.shape])

    @cached_property
    def served(self) -> tuple[slice, slice, slice]:
        """The part of the tomogram that holds everything that comes from the core."""
        ends = [
            (max(low, start), min(high, stop))
            for (low, high), (start, stop) in zip(self.core, self.read, strict=True)
        ]
        corners = torch.tensor(list(itertools.product(*ends)), dtype=torch.float32)
        places = corners @ self.rotation + self.middle  # rows q R are R^T q
        low, high = places.amin(dim=0).floor().long().tolist(), places.amax(dim=0).ceil().long().tolist()
        z, y, x = (
            slice(min(max(0, a), n), max(0, min(n, b + 1))) for a, b, n in zip(low, high, self.shape, strict=True)
        )
        return z, y, x

    @cached_property
    def positions(self) -> tuple[Tensor, Tensor]:
        """Where the voxels of `served` lie in the turned frame, (z, y, x, 3) float64, and whether in the core."""
        # From the voxel's own index alone: at a cut two boxes must come to the same number.
        axes = [
            torch.arange(s.start, max(s.start, s.stop), dtype=torch.float64) - n // 2
            for s, n in zip(self.served, self.shape, strict=True)
        ]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        r = self.rotation.double()
        turned = torch.stack([row[0] * z + row[1] * y + row[2] * x for row in r], dim=-1)
        low, high = torch.tensor(self.core, dtype=torch.float64).unbind(dim=1)
        return turned, ((turned >= low) & (turned < high)).all(dim=-1)

    def forth(self, source: Tensor, rotation: Tensor) -> Tensor:
        """The tomogram (its source grid, see `on_source_grid`) turned and continued, (z, y, x)."""
        sizes = [stop - start for start, stop in self.read]
        at_middle = torch.tensor([float(start + n // 2) for (start, _), n in zip(self.read, sizes, strict=True)])
        centre = (self.middle + at_middle @ rotation) * OVERSAMPLING
        positions = reflect_positions(sample_positions(rotation, centre, sizes, OVERSAMPLING), tuple(source.shape))
        return self.continued(sample_cubic(source[None], positions)[0])

    def periodic(self, field: Tensor) -> Tensor:
        """The box's part of a field (z, y, x) that repeats over the turned frame, continued."""
        for axis, (start, stop) in enumerate(self.read):
            field = field.index_select(axis, torch.arange(start, stop) % field.shape[axis])
        return self.continued(field)

    def continued(self, inner: Tensor) -> Tensor:
        """What was read, continued periodically."""
        return continued(inner, self.axes)

    def back(self, restored: Tensor, inverse: Tensor) -> Tensor:
        """What the core gives to the tomogram, the size of `served`; zero where other boxes give.

        Parameters
        ----------
        restored : (z, y, x)
            On the continued grid of the box.
        inverse : (3, 3)
            The transposed rotation; it must be this box's.
        """
        assert torch.equal(inverse, self.rotation.mT)
        turned, inside = self.positions
        first = torch.tensor(
            [float(axis.before - start) for axis, (start, _) in zip(self.axes, self.read, strict=True)]
        )
        positions = ((turned[inside].float() + first) * OVERSAMPLING)[None, None]  # (1, 1, n, 3)
        out = torch.zeros(inside.shape)
        out[inside] = sample_cubic(to_source_grid(restored, 1)[None], positions).flatten()
        return out


def turned_boxes(
    shape_zyx: tuple[int, int, int], rotation: Tensor, *, multiple: int, core: int = CORE, context: int = CONTEXT
) -> Iterator[TurnedBox]:
    """Cut the turned frame of a tomogram into boxes; those that serve no voxel are left out.

    Parameters
    ----------
    shape_zyx : (z, y, x)
        Working voxels.
    rotation : (3, 3)
    multiple : int
        Sizes of boxes are multiples of this.
    core, context : int
        Longest core, and what is read around it; working voxels.
    """
    corners = torch.tensor(list(itertools.product(*([-float(n // 2), float(n - 1 - n // 2)] for n in shape_zyx))))
    turned = corners @ rotation.mT
    lowest, highest = turned.amin(dim=0).floor().int().tolist(), turned.amax(dim=0).ceil().int().tolist()
    cuts = [_cut(low, high + 1, core, context) for low, high in zip(lowest, highest, strict=True)]
    for pieces in itertools.product(*cuts):
        read = tuple(part for _, part in pieces)
        z, y, x = (
            PaddedAxis.plan(stop - start, working_bin=1, multiple=multiple, pad=FACE_PAD) for start, stop in read
        )
        box = TurnedBox(shape_zyx, rotation, tuple(part for part, _ in pieces), read, (z, y, x))
        if bool(box.positions[1].any()):
            yield box


def _cut(start: int, stop: int, core: int, context: int) -> list[tuple[tuple[float, float], tuple[int, int]]]:
    """Pieces of an axis: the core of each, open where the frame ends, and what is read for it."""
    count = math.ceil((stop - start) / core)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return [
        (
            (-math.inf if i == 0 else float(ends[i]), math.inf if i == count - 1 else float(ends[i + 1])),
            (max(start, ends[i] - context), min(stop, ends[i + 1] + context)),
        )
        for i in range(count)
    ]


def continued(inner: Tensor, axes: Sequence[PaddedAxis]) -> Tensor:
    """Continue a volume (z, y, x) periodically along its three axes."""
    array = inner.numpy()
    for axis, padded in enumerate(axes):
        array = padded.extend(array, axis)
    return torch.from_numpy(array)


def on_source_grid(volume: Tensor, wedge: MissingWedge) -> Tensor:
    """A working volume (z, y, x) on the grid that `TurnedBox.forth` samples; reflected beyond its faces."""
    whole = Volume(volume.numpy(), 1.0)  # in working voxels
    source = prepare_source(
        "volume", [whole], wedge, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3),
        noise=torch.zeros(1),
    )  # fmt: skip
    return source.density[0]
