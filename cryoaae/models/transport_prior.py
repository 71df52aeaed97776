"""CryoGEN-II: the two clouds are matched by transport; one loss to descend, no game.

    restorer   min  pair loss + lambda * E h(phi(T R f(y) + n)),   h the first variation of D(again, real)

(METHODS.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cryoaae.matching.transport import Transport
from cryoaae.models.phase import Phase
from cryoaae.models.structure_prior import PriorBatch, StructurePrior


class TransportPrior(StructurePrior):
    """Fit a restorer on pairs while its restorations, measured again, are moved towards real patches.

    Parameters
    ----------
    transport : Transport
        Has learned real patches.
    *arguments, **keywords
        As for `StructurePrior`.
    """

    def __init__(self, *arguments: Any, transport: Transport, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.transport = transport

    @property
    def matcher(self) -> Transport:
        return self.transport

    def phases(self) -> list[Phase]:
        """The restorer's, in which the memory is brought up to date after the energy was taken; a discriminator's."""
        return [self.restorer_phase(self._restorer_losses, self.transport), *self.latent_phases()]

    def _restorer_losses(self, batch: PriorBatch) -> dict[str, Tensor]:
        losses = self._losses(batch.pairs)
        ready = self.transport.ready
        with torch.set_grad_enabled(ready):  # until then patches are only remembered
            restored = self.restorer(batch.blocks)
            features = self.transport.features(self.microscope(restored, batch.draw))
        if ready:
            energy = self.transport.energy(features)
            losses["energy"] = self.bounded(losses["pairs"], energy, restored, self.transport)
        self.transport.remember(features, batch.draw.real)
        return losses
