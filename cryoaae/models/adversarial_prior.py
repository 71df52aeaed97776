"""CryoGEN-I: the energy is that which a referee of the two clouds defines, learned along with the restorer.

    restorer   min  pair loss + lambda * (- mean logit of T R f(y) + n)
    referee    min  logistic loss, real patches against T R f(y) + n

(METHODS.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cryoaae.matching.referee import Referee
from cryoaae.models.phase import Phase
from cryoaae.models.structure_prior import PriorBatch, StructurePrior

# A referee's Adam looks back less far than the restorer's: what it judges moves.
REFEREE_BETAS = (0.5, 0.999)


class AdversarialPrior(StructurePrior):
    """Fit a restorer on pairs and against a referee.

    Parameters
    ----------
    referee : Referee
    *arguments, **keywords
        As for `StructurePrior`.
    """

    def __init__(self, *arguments: Any, referee: Referee, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.referee = referee
        self._again: Tensor | None = None  # of the present step, for the referee's phase

    @property
    def matcher(self) -> Referee:
        return self.referee

    def phases(self) -> list[Phase]:
        """The restorer's phase, then the referee's."""
        return [
            Phase("pairs", list(self.restorer.network.parameters()), self._restorer_losses, orthogonal=self.orthogonal),
            Phase(
                "referee", list(self.referee.parameters()), self._referee_losses,
                betas=REFEREE_BETAS, watch=self.referee,
            ),
        ]  # fmt: skip

    def _restorer_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        pairs = self._losses(batch.pairs)["pairs"]
        restored = self.restorer(batch.blocks)
        again = self.microscope(restored, batch.draw)
        self._again = again.detach()
        return {"pairs": pairs, "energy": self.bounded(pairs, self.referee.energy(again), restored, self.referee)}

    def _referee_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        assert self._again is not None
        return {"referee": self.referee.loss(batch.draw.real, self._again)}
