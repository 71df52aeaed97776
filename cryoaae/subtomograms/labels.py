"""Known classes of some particles, from a class column of a particle list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.particle_files import read_particles
from cryoaae.io.store import SubtomogramStore
from cryoaae.priors.prior import UNLABELLED

# Class names that mean that none is known: RELION writes 0 where it has not classified.
UNKNOWN = ("", "0", "-1", "nan", "None")
# Found classes are taken for known where they are at least so probable.
CERTAIN = 0.9


@dataclass(frozen=True)
class Labels:
    """Classes of particles as far as they are known.

    Parameters
    ----------
    classes : (n,) int64
        Index into `names`; -1: unknown.
    names : tuple of str
    """

    classes: Tensor
    names: tuple[str, ...] = ()

    @classmethod
    def none(cls, count: int) -> Labels:
        """No particle's class is known."""
        return cls(torch.full((count,), UNLABELLED, dtype=torch.long))


    def names_of(self, numbers: Tensor) -> tuple[str, ...]:
        """Names of clusters, of which each is a known class (k,), or, -1, none."""
        return tuple(
            self.names[number] if number >= 0 else f"unlabelled {k + 1}" for k, number in enumerate(numbers.tolist())
        )


def certain_labels(probabilities: Tensor, names: tuple[str, ...]) -> Labels:
    """Classes that were found, as far as they are certain, from their probabilities (n, classes)."""
    best, classes = probabilities.max(dim=1)
    known = torch.where(best >= CERTAIN, classes, UNLABELLED)
    return Labels(known, names)


def read_labels(paths: Sequence[Path | str], stores: Sequence[SubtomogramStore]) -> Labels:
    """Read labels of the particles of stores.

    Parameters
    ----------
    paths : sequence of path
        A list of every store, in the same order: the list it was extracted from, with a class (rlnClassNumber) where
        it is known, and 0 or nothing elsewhere.
    stores : sequence of SubtomogramStore

    Raises
    ------
    InputError
        When lists and stores do not match, or no particle has a label.
    """
    if len(paths) != len(stores):
        raise InputError("--labels", f"{len(paths)} lists for {len(stores)} stores", "give one for each store")
    found = [name for path, store in zip(paths, stores, strict=True) for name in _of_store(path, store)]
    names = sorted({name for name in found if name not in UNKNOWN}, key=_natural)
    if not names:
        raise InputError(paths[0], "labels no particle of the store", "give some a class (rlnClassNumber) above 0")
    known = {name: i for i, name in enumerate(names)}
    return Labels(torch.tensor([known.get(name, UNLABELLED) for name in found]), tuple(names))


def _of_store(path: Path | str, store: SubtomogramStore) -> list[str]:
    """Class name of each particle of a store."""
    listed = store.particles()
    labelled = read_particles(path, coordinates=store.about["coordinates"])
    remedy = "label the list that the store was extracted from"
    if len(labelled) != len(listed):
        raise InputError(path, f"{len(labelled)} particles, the list of {store.path.name} has {len(listed)}", remedy)
    rows = store.facts.rows
    same = np.isclose(labelled.points_zyx[rows], listed.points_zyx[rows], atol=1e-3, equal_nan=True).all(axis=1)
    if not same.all():
        row = int(rows[np.flatnonzero(~same)[0]])
        raise InputError(path, f"particle {row + 1} is not where that of {store.path.name} is", remedy)
    return [labelled.classes[row] for row in rows]


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (2**31, name)
