"""What a model of the 2-D family sees in a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.nets.encoders import Encoded


@dataclass
class ImageBatch:
    """Images of a step and the generators for what is drawn in it.

    Parameters
    ----------
    pixels : (*stack, n, pixels)
        Values in 0..1.
    draws : Draws
    labels : (*stack, n) int, optional
        Labels of `pixels` as far as the model may know them; -1: unlabelled.
    labelled_pixels, labelled_labels : (*stack, m, pixels), (*stack, m) int, optional
        Examples for the supervised term.
    fraction : float
        Share of the fit that is done, for what is annealed.
    code : Encoded, optional
        Codes of `pixels` as the step's first phase made them, without gradient: the critic sees those.
    """

    pixels: Tensor
    draws: Draws
    labels: Tensor | None = None
    labelled_pixels: Tensor | None = None
    labelled_labels: Tensor | None = None
    fraction: float = 1.0
    code: Encoded | None = None
