"""What a prior is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

UNLABELLED = -1


class Prior(Protocol):
    """A law of codes that can be sampled.

    Attributes
    ----------
    dim : int
        Length of a code.
    classes : int
        Values that a label may have; 0 where the law cannot be conditioned.
    scale : float
        A typical distance of a coordinate from its mean: its standard deviation over the law.
    """

    dim: int
    classes: int
    scale: float

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw n codes, (n, dim), on the generator's device.

        Parameters
        ----------
        labels : (n,) int, optional
            Draw each code from the part of the law that belongs to its label; -1 (UNLABELLED) and None:
            from the whole law.

        Raises
        ------
        ValueError
            If labels are given to a law without classes, or one of them is out of range.
        """
        ...

    def log_density(self, z: Tensor) -> Tensor:
        """Natural logarithm of the density at z, (..., dim) -> (...).

        Raises
        ------
        NotImplementedError
            Where there is none in closed form.
        """
        ...
