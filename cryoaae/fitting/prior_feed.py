"""Pairs for the loop, with what a prior on structure compares."""

from __future__ import annotations

from typing import Any

from cryoaae.fitting.pair_feed import PairFeed
from cryoaae.matching.structure import Clouds
from cryoaae.models.structure_prior import PriorBatch


class PriorFeed(PairFeed):
    """Batches of pairs and draws of the two clouds.

    Parameters
    ----------
    clouds : Clouds
        On the pool's generator, whose state the checkpoint holds.
    cloud_size : int
        Restored blocks, and real patches, a step.
    **keywords
        As for `PairFeed`.
    """

    def __init__(self, *arguments: Any, clouds: Clouds, cloud_size: int, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if clouds.generator is not self.pool.generator:
            raise ValueError("draws of the clouds would not be resumed: not on the generator of the pool")
        self.clouds, self.cloud_size = clouds, cloud_size

    def batch(self) -> PriorBatch:  # type: ignore[override]
        """Draw pairs from all blocks of the pool, and the clouds' part."""
        pairs, draw = super().batch(), self.clouds.draw(self.cloud_size)
        return PriorBatch(pairs, self.clouds.inputs(draw), draw)
