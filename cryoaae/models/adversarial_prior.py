"""CryoGEN-I: the energy is that which a referee of the two clouds defines, learned along with the restorer.

    restorer   min  pair loss + lambda * (- mean logit of T R f(y) + n)
    referee    min  logistic loss, real patches against T R f(y) + n

(METHODS.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cryoaae.matching.referee import Referee
from cryoaae.models.pair_fitting import DISCRIMINATOR_BETAS
from cryoaae.models.phase import Phase
from cryoaae.models.structure_prior import PriorBatch, StructurePrior


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
        """The restorer's phase, then the referee's, and that of a discriminator of codes."""
        return [
            self.restorer_phase(self._restorer_losses),
            Phase(
                "referee", list(self.referee.parameters()), self._referee_losses,
                betas=DISCRIMINATOR_BETAS, watch=self.referee,
            ),
            *self.latent_phases(),
        ]  # fmt: skip

    def _restorer_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        terms = self._losses(batch.pairs)
        restored = self.restorer(batch.blocks)
        again = self.microscope(restored, batch.draw)
        self._again = again.detach()
        terms["energy"] = self.bounded(terms["pairs"], self.referee.energy(again), restored, self.referee)
        return terms

    def _referee_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        assert self._again is not None
        return {"referee": self.referee.loss(batch.draw.real, self._again)}
