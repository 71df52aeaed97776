"""Noise that a tomogram could have had: its own, from other places, or of its spectrum.

The difference of two halves over sqrt(2) is a sample of the noise of one half, with its spectrum, its grain and its
wedge. Moved along the grid, with another sign, and under the half turns that keep the wedge, it is a fresh one at
every place. A single volume has no such difference: Gaussian noise of the spectrum of its quietest blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.patches.spectra import coloured_noise
from cryoaae.restoration.held_out import half_noise
from cryoaae.restoration.working import WorkingTomogram


class FreshNoise:
    """Fields of noise (z, y, x) for the inputs of a tomogram's restoration.

    Parameters
    ----------
    tomogram : WorkingTomogram
    part : three slices
        The tomogram within its continued grid.
    generator : torch.Generator
        Of the blocks from which the noise of a single volume is measured.
    """

    def __init__(
        self, tomogram: WorkingTomogram, part: tuple[slice, slice, slice], *, generator: torch.Generator
    ) -> None:
        self.wedge = tomogram.wedge.solid()
        self.turns = self.wedge.half_turns()
        z, y, x = (s.stop - s.start for s in part)
        self.shape = (z, y, x)
        self.halves = [half[part] for half in tomogram.halves]
        self.power = half_noise(tomogram, generator=generator) if len(self.halves) == 1 else None

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Draw one field for every input, independent of each other and of the tomogram's own noise there.

        They are meant to be repeated: an end follows on the other end.
        """
        if self.power is not None:
            return [self.wedge.measured(coloured_noise(self.power, self.shape, generator))]
        shape = torch.tensor(self.shape)
        first = (torch.rand(3, generator=generator) * shape).long()
        # A quarter of the box apart at least, along every axis: the two have no place in common.
        apart = ((0.25 + 0.5 * torch.rand(3, generator=generator)) * shape).long()
        return [self._moved(offset, generator) for offset in (first, first + apart)]

    def _moved(self, offset: Tensor, generator: torch.Generator) -> Tensor:
        difference = (self.halves[0] - self.halves[1]) / 2**0.5
        turn, sign = (int(torch.randint(n, (1,), generator=generator)) for n in (len(self.turns), 2))
        turned = difference.flip(self.turns[turn]) if self.turns[turn] else difference
        return (2 * sign - 1) * turned.roll(offset.tolist(), dims=(0, 1, 2))
