"""A structure discriminator for decoded volumes: turned, measured again, and held against particles.

    autoencoder   min  its loss + lambda * (- mean logit of M' F (R A(y, z) + n))
    referee       min  logistic loss, particles against M' F (R A(y, z) + n)

What a particle's wedge hides the reconstruction does not ask for, so that the decoder may put there what it likes.
Turned at random (R) and seen through the wedge M' of another particle, it shows: if decoded volumes are structures,
nobody can tell them from particles. The referee sees what the encoder sees, filtered and inside the window. As of a
restorer's prior, the energy's gradient is kept below a share of the reconstruction's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.matching.referee import Referee
from cryoaae.models.image_batch import ImageBatch
from cryoaae.models.pair_fitting import DISCRIMINATOR_BETAS
from cryoaae.models.phase import Phase
from cryoaae.models.structure_prior import bounded_energy
from cryoaae.models.volumetric import VolumeBatch, VolumetricAutoencoder
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import rfft


@dataclass(frozen=True)
class MeasuredAgain:
    """All that is random when decoded volumes are measured again.

    Parameters
    ----------
    rotations : (b, 3, 3)
        Of the first b volumes of a batch.
    seen : (b, z, y, x // 2 + 1) bool
        What the wedges of other particles let through.
    noise : (b, z, y, x)
        White.
    real : (b, 1, z, y, x)
        As many particles, as the encoder sees them.
    """

    rotations: Tensor
    seen: Tensor
    noise: Tensor
    real: Tensor


@dataclass(kw_only=True)
class RefereedBatch(VolumeBatch):
    """Particles of a step, and how their volumes are measured again."""

    again: MeasuredAgain


class RefereedVolumes(VolumetricAutoencoder):
    """Volumetric autoencoder with a structure discriminator.

    Parameters
    ----------
    *arguments, **keywords
        As for `VolumetricAutoencoder`; its decoder is a `VolumeDecoder`.
    referee : Referee
    structure_weight : float
        Lambda, as long as the share allows it.
    structure_share : float
        Largest norm of the energy's gradient on the decoder's last layer, over that of the reconstruction.
    """

    def __init__(
        self, *arguments: Any, referee: Referee, structure_weight: float, structure_share: float, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.referee, self.structure_weight, self.structure_share = referee, structure_weight, structure_share
        self._again: Tensor | None = None  # of the present step, for the referee's phase

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """All but the critics' and the referee's."""
        others = {id(p) for p in self.referee.parameters()}
        return [p for p in super().autoencoder_parameters() if id(p) not in others]

    def phases(self) -> list[Phase]:
        """Those of the autoencoder, then the referee's, which judges what the first has decoded."""
        return [
            *super().phases(),
            Phase("referee", list(self.referee.parameters()), self._referee_losses, betas=DISCRIMINATOR_BETAS),
        ]

    def structure_terms(self, volumes: Tensor, reconstruction: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
        """The energy of the first decoded volumes (n, z, y, x)."""
        assert isinstance(batch, RefereedBatch)
        shown = volumes[: len(batch.again.rotations)]
        again = self.measured_again(shown, batch.again)
        self._again = again.detach()
        head: Tensor = self.decoder.last.weight  # type: ignore[union-attr, assignment]
        energy = bounded_energy(
            reconstruction, self.referee.energy(again), shown, head, self.referee,
            weight=self.structure_weight, share=self.structure_share,
        )  # fmt: skip
        return {"structure": energy}

    def measured_again(self, volumes: Tensor, draw: MeasuredAgain) -> Tensor:
        """Whitened volumes (b, z, y, x) turned, with noise, through a wedge, as the encoder would see them."""
        turned = [
            Turner(x.shape, rotation, device=x.device)(x) for x, rotation in zip(volumes, draw.rotations, strict=True)
        ]
        return self.inputs((rfft(torch.stack(turned)) + rfft(draw.noise) * self.band) * draw.seen)

    def _referee_losses(self, batch: RefereedBatch) -> dict[str, Tensor]:
        assert self._again is not None
        return {"referee": self.referee.loss(batch.again.real, self._again)}
