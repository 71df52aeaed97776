"""Which part of a law each draw comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.priors.prior import UNLABELLED


def chosen(labels: Tensor | None, drawn: Tensor, classes: int) -> Tensor:
    """Take the label where there is one, and what was drawn at random where there is none.

    Parameters
    ----------
    labels : (n,) int, optional
        -1 (UNLABELLED) where there is none.
    drawn : (n,) int
        Drawn from the law of labels, for every row, so that the generator moves on alike whatever is labelled.
    classes : int
        Labels go from 0 to classes - 1.

    Returns
    -------
    (n,) int64
        On the device of `drawn`.

    Raises
    ------
    ValueError
        If a label is no integer or out of range, or there are more or fewer than `drawn`.
    """
    if labels is None:
        return drawn
    if labels.shape != drawn.shape or labels.is_floating_point():
        raise ValueError(f"labels are {tuple(labels.shape)} {labels.dtype}, not {tuple(drawn.shape)} integers")
    if bool(((labels < UNLABELLED) | (labels >= classes)).any()):
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} are not all in -1 ... {classes - 1}")
    labels = labels.to(drawn)
    return torch.where(labels == UNLABELLED, drawn, labels)
