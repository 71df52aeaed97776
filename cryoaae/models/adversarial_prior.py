"""CryoGEN-I: the pair loss, and an energy that a referee of the two clouds defines, learned along with the restorer.

    restorer   min  pair loss + lambda * (- mean logit of T R f(y) + n)
    referee    min  logistic loss, real patches against T R f(y) + n

(METHODS.) The energy sees one-wedge inputs, as a restoration does. Its gradient is kept below a share of the pair
loss's on the restorer's last layer, the mean head: a referee, however sure of itself, can only lean on the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.matching.referee import Referee
from cryoaae.matching.structure import CloudDraw, Microscope
from cryoaae.models.pair_fitting import PairFitting
from cryoaae.models.phase import Phase
from cryoaae.models.restorer import Restorer
from cryoaae.patches.pairs import PairBatch

# A referee's Adam looks back less far than the restorer's: what it judges moves.
REFEREE_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class PriorBatch:
    """Pairs for one step, and what the two clouds are made of.

    Parameters
    ----------
    pairs : PairBatch
    blocks : (b, 1, n, n, n)
        Halves as they are, to be restored and put through the microscope again.
    draw : CloudDraw
    """

    pairs: PairBatch
    blocks: Tensor
    draw: CloudDraw


class AdversarialPrior(PairFitting):
    """Fit a restorer on pairs and against a referee.

    Parameters
    ----------
    restorer, shell_weight, hidden_weight
        As for `PairFitting`.
    microscope : Microscope
    referee : Referee
    weight : float
        Lambda, as long as the share allows it.
    share : float
        Largest norm of the energy's gradient on the last layer, over that of the pair loss.
    """

    def __init__(
        self,
        restorer: Restorer,
        shell_weight: Tensor,
        hidden_weight: float,
        *,
        microscope: Microscope,
        referee: Referee,
        weight: float,
        share: float,
    ) -> None:
        super().__init__(restorer, shell_weight, hidden_weight)
        self.microscope, self.referee = microscope, referee
        self.weight, self.share = weight, share
        self._again: Tensor | None = None  # of the present step, for the referee's phase

    def phases(self) -> list[Phase]:
        """The restorer's phase, then the referee's."""
        return [
            Phase("pairs", list(self.restorer.network.parameters()), self._restorer_losses),
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
        return {"pairs": pairs, "energy": self._bounded(pairs, self.referee.energy(again), restored)}

    def _referee_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        assert self._again is not None
        return {"referee": self.referee.loss(batch.draw.real, self._again)}

    def _bounded(self, pairs: Tensor, energy: Tensor, restored: Tensor) -> Tensor:
        """Energy times lambda, a scalar; lambda falls where the gradient's share would be too large.

        The way back through referee and microscope is walked once: to the restoration, whence the rest follows.
        """
        head = self.restorer.network.last.weight
        (slope,) = torch.autograd.grad(energy, restored)
        along = (restored * slope).sum()
        own, its = (
            torch.linalg.vector_norm(torch.autograd.grad(term, head, retain_graph=True)[0]) for term in (pairs, along)
        )
        ratio = its / own.clamp(min=torch.finfo(own.dtype).tiny)
        factor = torch.clamp(self.share / ratio.clamp(min=torch.finfo(own.dtype).tiny), max=self.weight)
        self.referee.note_gradient(ratio, factor)
        return factor * (energy.detach() + along - along.detach())
