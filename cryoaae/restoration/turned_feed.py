"""What a sampler is fitted on: turned boxes of halves and, by turns, of draws that were measured again.

The second kind is conditional EM: draw x' given one half by the averaged sampler of the time, turn it, measure it again
with fresh noise, fit on that pair. Boxes are made again from a seed and, of draws, from the numbers of the sampler that
drew them, so that a fit goes on to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from cryoaae.fitting.scene_pool import ScenePool
from cryoaae.models.half_deviations import HalfBatch, HalfDeviations
from cryoaae.nets.deviation import Deviation
from cryoaae.restoration.turned_halves import TurnedHalf, TurnedHalves

# Turned boxes on which the score is watched, for each tomogram, and draws of each.
WATCHED, WATCHED_DRAWS = 3, 4


class TurnedFeed:
    """Turned boxes of two pools, a batch of each in turn.

    Parameters
    ----------
    sources : sequence of TurnedHalves
        One for each tomogram.
    boxes, redrawn_boxes : int
        Held ready of halves, and of draws; of the second none leaves conditional EM out.
    renew_every : int
        Steps after which one of each is replaced.
    draws : int
        Of a box in a step.
    held_out : bool
        Whether places are watched that were kept out of fitting.
    seed : int
    """

    def __init__(
        self,
        sources: Sequence[TurnedHalves],
        *,
        boxes: int,
        redrawn_boxes: int,
        renew_every: int,
        draws: int,
        held_out: bool,
        seed: int,
    ) -> None:
        self.sources, self.draws, self.watches = list(sources), draws, held_out
        self.generator = torch.Generator().manual_seed(seed)
        # By whose numbers the next box of draws is made, and of those that stand, by seed, whose they are of.
        self.drawing = HalfDeviations(Deviation.bundled())
        self.numbers = parameters_to_vector(self.drawing.fitted())
        self.drawn_by: dict[int, Tensor] = {}
        self.pools = [
            ScenePool(self.sources, make, size=size, renew_every=renew_every, generator=self.generator)
            for make, size in ((self._turned, boxes), (self._redrawn, redrawn_boxes)) if size
        ]  # fmt: skip
        self._pool = self.pools[0]
        self._held_out: list[HalfBatch] = []

    def prepare(self, step: int, fraction: float, average: HalfDeviations) -> bool:
        """Make the pools on the first call; renew when due."""
        self.numbers = parameters_to_vector(average.fitted())
        for pool in self.pools:
            pool.renew(step)
        standing = {recipe.seed for pool in self.pools for recipe in pool.recipes}
        self.drawn_by = {seed: numbers for seed, numbers in self.drawn_by.items() if seed in standing}
        self._pool = self.pools[step % len(self.pools)]
        return False

    def batch(self) -> HalfBatch:
        """Draw a box, the noise of its draws and of its target; what is kept out does not count."""
        (box,) = self._pool.choose(1)
        return box.batch(self.draws, kept_out=False, coarse=self._coarse, generator=self.generator)

    def held_out(self) -> list[HalfBatch]:
        """Fixed boxes of halves and noise, of which only what is kept out of fitting counts."""
        if not self._held_out and self.watches:
            for source in self.sources:
                for index in range(WATCHED):
                    box, generator = source.make(index, held_out=True), torch.Generator().manual_seed(index)
                    made = box.batch(WATCHED_DRAWS, kept_out=True, coarse=self._coarse, generator=generator)
                    self._held_out.append(made)
        return self._held_out

    def state(self) -> dict[str, Any]:
        """Return the recipes of the pools, the numbers that draws were made by, and the generator."""
        return {
            "pools": [pool.state() for pool in self.pools],
            "drawn_by": {"seeds": list(self.drawn_by), "numbers": list(self.drawn_by.values())},
        }

    def load_state(self, state: dict[str, Any], average: HalfDeviations) -> None:
        """Make the pools' boxes again."""
        self.drawn_by = dict(zip(state["drawn_by"]["seeds"], state["drawn_by"]["numbers"], strict=True))
        for pool, own in zip(self.pools, state["pools"], strict=True):
            pool.load_state(own)

    @property
    def _coarse(self) -> int:
        return self.drawing.sampler.spec.coarse

    @staticmethod
    def _turned(source: TurnedHalves, seed: int) -> TurnedHalf:
        return source.make(seed)

    def _redrawn(self, source: TurnedHalves, seed: int) -> TurnedHalf:
        with torch.no_grad():
            vector_to_parameters(self.drawn_by.setdefault(seed, self.numbers), self.drawing.fitted())
        return source.redraw(seed, self.drawing.sampler)
