"""Supervised AAE: the decoder is given the label, so that the code keeps the style alone (section 4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cryoaae.matching.latent import LatentMatch
from cryoaae.models.autoencoder import Autoencoder, Objective, beside
from cryoaae.nets.encoders import Encoded, Encoder


class SupervisedAutoencoder(Autoencoder):
    """Autoencoder whose decoder sees (style, one-hot label of `classes`)."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: nn.Module,
        matches: Mapping[str, LatentMatch],
        objective: Objective,
        observer: LatentMatch | None = None,
        *,
        classes: int,
    ) -> None:
        super().__init__(encoder, decoder, matches, objective, observer)
        self.classes = classes

    def decoder_input(self, code: Encoded, labels: Tensor | None) -> Tensor:
        """Style and one-hot label side by side.

        Raises
        ------
        ValueError
            Without labels.
        """
        if labels is None:
            raise ValueError("the supervised autoencoder decodes no code without its label")
        one_hot = nn.functional.one_hot(labels, self.classes).to(code.style.dtype)
        return self.from_class(one_hot, code.style)

    def from_class(self, one_hot: Tensor, style: Tensor) -> Tensor:
        """What the decoder sees of a chosen label and style."""
        return beside(style, one_hot)
