"""Independent priors side by side, such as a class and a style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.priors import PRIORS
from cryoaae.priors.prior import Prior


@PRIORS.register("product")
class Product:
    """Law of concatenated, independent codes.

    Parameters
    ----------
    parts : sequence of Prior or mapping
        In the order of their coordinates; a mapping is a prior's name and its keywords,
        ``{"name": "gaussian", "dim": 5}``.
    labelled : int, optional
        Part that labels go to. Needed only where several have classes.

    Raises
    ------
    ValueError
        If there are no parts, several have classes and `labelled` does not say which, or it names one without.
    InputError
        If a mapping names no known prior, or a keyword that it does not have.
    """

    def __init__(self, parts: Sequence[Prior | Mapping[str, Any]], labelled: int | None = None) -> None:
        if not parts:
            raise ValueError("a product of no priors does not exist")
        self.parts: list[Prior] = [_made(p) if isinstance(p, Mapping) else p for p in parts]
        self.labelled = _labelled(self.parts, labelled)
        self.dim = sum(p.dim for p in self.parts)
        self.classes = 0 if self.labelled is None else self.parts[self.labelled].classes
        # Mean over coordinates of their variances, as everywhere.
        self.scale = math.sqrt(sum(p.dim * p.scale**2 for p in self.parts) / self.dim)

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, dim); labels choose within the labelled part, all others are drawn whole."""
        if labels is not None and self.labelled is None:
            raise ValueError("none of the parts has classes to condition on")
        return torch.cat(
            [
                part.sample(n, generator=generator, labels=labels if i == self.labelled else None, dtype=dtype)
                for i, part in enumerate(self.parts)
            ],
            dim=-1,
        )

    def log_density(self, z: Tensor) -> Tensor:
        """Sum of the parts' log densities, (..., dim) -> (...)."""
        logs = [part.log_density(own) for part, own in zip(self.parts, self.split(z), strict=True)]
        return torch.stack(logs).sum(dim=0)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Coordinates of each part, (..., dim) -> (..., part.dim) each."""
        return z.split([p.dim for p in self.parts], dim=-1)


def _made(part: Mapping[str, Any]) -> Prior:
    if "name" not in part:
        raise InputError("product.parts", f"{dict(part)} has no name", f"name one of {', '.join(PRIORS)}")
    return PRIORS.make(**part)


def _labelled(parts: Sequence[Prior], labelled: int | None) -> int | None:
    with_classes = [i for i, p in enumerate(parts) if p.classes]
    if labelled is None:
        if len(with_classes) > 1:
            raise ValueError(f"parts {with_classes} have classes: `labelled` must say which one labels go to")
        return with_classes[0] if with_classes else None
    if labelled not in with_classes:
        raise ValueError(f"labelled={labelled} names no part with classes; those are {with_classes}")
    return labelled
