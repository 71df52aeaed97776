"""AAE with a class and a style: semi-supervised where labels are given, clustering where none are.

Two matches, one holding the class y = softmax against a categorical prior, one the style against its
own; the decoder sees both (Makhzani et al. 2016, sections 5 and 6). The labelled examples' cross-entropy
is the third phase of the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.models.autoencoder import CLASS, STYLE, Autoencoder, beside
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoded


def class_of(code: Encoded) -> Tensor:
    """Class probabilities, (*stack, n, classes)."""
    if code.logits is None:
        raise ValueError("this encoder has no class head")
    return torch.softmax(code.logits, dim=-1)


class CategoricalAutoencoder(Autoencoder):
    """Autoencoder with two codes."""

    def decoder_input(self, code: Encoded, labels: Tensor | None) -> Tensor:
        """Style and class probabilities side by side."""
        return beside(code.style, self.seen_class(code))

    def told(self, code: Encoded, labels: Tensor | None) -> Tensor | None:
        """The class each image is most likely of: a style that knows it does not follow its prior class by class."""
        return None if code.logits is None else code.logits.detach().argmax(dim=-1)

    def seen_class(self, code: Encoded) -> Tensor:
        """Class probabilities as the decoder sees them; reconstruction reaches them as far as it may."""
        y, share = class_of(code), self.objective.class_gradient
        return y if share == 1.0 else share * y + (1 - share) * y.detach()

    def from_class(self, one_hot: Tensor, style: Tensor) -> Tensor:
        """What the decoder sees of a chosen class and style."""
        return beside(style, one_hot)

    def clouds(self, code: Encoded) -> dict[str, Codes]:
        """Style and class, each for its match."""
        return {STYLE: Codes(code.style, code.mean, code.log_std), CLASS: Codes(class_of(code))}

    def supervised_terms(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Cross-entropy of the labelled examples."""
        if batch.labelled_pixels is None or batch.labelled_labels is None:
            return {}
        logits = self.encoder(batch.labelled_pixels, batch.draws).logits
        loss = nn.functional.cross_entropy(
            logits.flatten(0, -2), batch.labelled_labels.flatten(), reduction="none"
        ).view(batch.labelled_labels.shape)
        return {"supervised": self.objective.supervised_weight * loss.mean(dim=-1)}

    def classify(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Class probabilities of images, (*stack, n, classes)."""
        return class_of(self.encoder(x, draws))
