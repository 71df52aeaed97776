"""Pairs for the loop: patches from a pool of blocks, whose own wedges are refilled as the fit goes on."""

from __future__ import annotations

import copy
import functools
from typing import Any

from torch import Tensor, nn

from cryoaae.patches.pairs import BlockPool, BlockRecipe, PairBatch
from cryoaae.runs.ranks import ranks

# A block's outer voxels see its own wedge wrap around.
BLOCK_MARGIN = 8


class PairFeed:
    """Batches of pairs.

    Parameters
    ----------
    pool : BlockPool
    watched : list of BlockRecipe
        Blocks centred on boxes kept out of fitting.
    batch_size : int
        Patches a step, over all processes.
    renew_every : int
        Steps after which the oldest block is replaced by a fresh one.
    refills : int
        How often, evenly over the budget, the tomograms' own wedges are filled with the estimate so far.
    seed : int
    """

    def __init__(
        self,
        pool: BlockPool,
        watched: list[BlockRecipe],
        *,
        batch_size: int,
        renew_every: int,
        refills: int,
        seed: int,
    ) -> None:
        self.pool, self.watched = pool, watched
        self.batch_size, self.renew_every, self.refills, self.seed = batch_size, renew_every, refills, seed
        self.fillers: list[dict[str, Tensor]] = []

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Make the pool on the first call; refill and renew when due."""
        self.pool.ready()
        refilled = self._refill_due(fraction)
        if refilled:
            weights = {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}
            self.fillers.append(weights)
            self._fill_with(average, weights)
        if step % self.renew_every == 0:
            self.pool.renew()
        return refilled

    def _refill_due(self, fraction: float) -> bool:
        done = len(self.fillers)
        return done < self.refills and fraction >= (done + 1) / (self.refills + 1)

    def _fill_with(self, like: nn.Module, weights: dict[str, Tensor]) -> None:
        model: Any = copy.deepcopy(like)
        model.load_state_dict(weights)
        self.pool.refill(model.estimate, multiple=model.multiple, seed=self.seed)

    def batch(self) -> PairBatch:
        """Draw patches from all blocks of the pool; of several processes each takes its share of them."""
        return self.pool.batch(self.batch_size, margin=BLOCK_MARGIN, share=ranks())

    def held_out(self) -> list[PairBatch]:
        """Cut the patches kept out of fitting, from the tomograms as they are filled now."""
        return [self.pool.centre_patch(recipe) for recipe in self.watched]

    def state(self) -> dict[str, Any]:
        """Return weights of every refill so far, the pool's blocks and its generator."""
        return {
            "fillers": self.fillers,
            "pool": self.pool.state(),
            "generator": self.pool.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Refill as often as the run did, and make the same blocks again."""
        self.fillers = state["fillers"]
        self.pool.load_state(state["pool"], [functools.partial(self._fill_with, average, w) for w in self.fillers])
        self.pool.generator.set_state(state["generator"])
