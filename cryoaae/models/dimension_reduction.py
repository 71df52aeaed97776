"""AAE for dimensionality reduction: the representation is W_C y + z (Makhzani et al. 2016, section 7).

The columns of W_C are the cluster heads, one point of the plane a class; the style z spreads the images
around them. The decoder sees the sum alone. Heads closer than a threshold are pushed apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.draws import Draws
from cryoaae.matching.latent import LatentMatch
from cryoaae.models.autoencoder import Objective
from cryoaae.models.categorical import CategoricalAutoencoder
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoded, Encoder
from cryoaae.nets.stacked import Stack


class DimensionReduction(CategoricalAutoencoder):
    """Autoencoder whose decoder sees y W + z.

    Parameters
    ----------
    classes, dim : int
        Heads, and dimensions of the representation.
    head_distance : float
        Distance eta below which a pair of heads is pushed apart.
    head_weight : float
        Weight of  sum over pairs of max(0, eta - |w_i - w_j|)^2.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        matches: dict[str, LatentMatch],
        objective: Objective,
        observer: LatentMatch | None = None,
        *,
        classes: int,
        dim: int,
        stack: Stack = (),
        head_distance: float = 4.0,
        head_weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, decoder, matches, objective, observer)
        self.heads = nn.Parameter(torch.zeros(*stack, classes, dim))
        self.head_distance, self.head_weight = head_distance, head_weight

    def initialise(self, draws: Draws) -> None:
        """Draw the heads as far from each other as the threshold asks, on average."""
        classes, dim = self.heads.shape[-2:]
        with torch.no_grad():
            self.heads.copy_(draws.normal(classes, dim) * self.head_distance)

    def representation(self, code: Encoded) -> Tensor:
        """W_C y + z, (*stack, n, dim)."""
        return self.seen_class(code) @ self.heads + code.style

    def decoder_input(self, code: Encoded, labels: Tensor | None) -> Tensor:
        """The representation alone."""
        return self.representation(code)

    def from_class(self, one_hot: Tensor, style: Tensor) -> Tensor:
        """Head of the class, plus style."""
        return one_hot @ self.heads + style

    def extra_terms(self, batch: ImageBatch) -> dict[str, Tensor]:
        """What keeps the heads apart."""
        return {"heads": self.head_weight * self.head_penalty()}

    def head_penalty(self) -> Tensor:
        """Sum over pairs of heads of max(0, eta - distance)^2, (*stack,)."""
        classes = self.heads.shape[-2]
        i, j = torch.triu_indices(classes, classes, offset=1, device=self.heads.device)
        apart = (self.heads[..., i, :] - self.heads[..., j, :]).square().sum(dim=-1).add(1e-12).sqrt()
        return (self.head_distance - apart).clamp(min=0).square().sum(dim=-1)
