"""Classes of particles as a person edits them: every state stands for itself, so that undoing is going back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError

SEED = 0


@dataclass(frozen=True)
class ParticleGroups:
    """Classes of n particles; none is empty.

    Parameters
    ----------
    names : tuple of str
        One a class, all different.
    assigned : (n,) int64
        Class of each particle.
    """

    names: tuple[str, ...]
    assigned: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str], assigned: NDArray[np.int64]) -> ParticleGroups:
        """Leave out the classes that no particle is of."""
        kept = np.bincount(assigned, minlength=len(names)) > 0
        number = np.cumsum(kept) - 1
        return cls(tuple(name for name, keep in zip(names, kept, strict=True) if keep), number[assigned])

    @property
    def sizes(self) -> list[int]:
        """Particles in each class."""
        return np.bincount(self.assigned, minlength=len(self.names)).tolist()

    @property
    def numbers(self) -> list[int]:
        """Number of each class in a STAR file: its name where all names are numbers, else its place, from 1."""
        if all(name.isdecimal() and int(name) > 0 and name == str(int(name)) for name in self.names):
            return [int(name) for name in self.names]
        return list(range(1, len(self.names) + 1))

    def merged(self, classes: Sequence[int]) -> ParticleGroups:
        """Make some classes one, under the name of the largest.

        Raises
        ------
        InputError
            When fewer than two are given.
        """
        if len(set(classes)) < 2:
            raise InputError("merge", "needs two classes or more", "choose them in the list beside the map")
        largest = max(sorted(set(classes)), key=lambda k: self.sizes[k])
        return ParticleGroups.of(self.names, np.where(np.isin(self.assigned, classes), largest, self.assigned))

    def split(self, members: NDArray[np.int64], codes: NDArray[np.float64], parts: int) -> ParticleGroups:
        """Take particles out of their classes and make `parts` new ones of them, by k-means of their codes.

        Parameters
        ----------
        members : (m,)
            Indices of the particles.
        codes : (m, d)
        parts : int
            1 makes one class of them all.

        Raises
        ------
        InputError
            When codes are missing, or there are fewer different ones than parts.
        """
        if not np.isfinite(codes).all():
            raise InputError("split", "some of the particles have no code", "choose only such as are on the map")
        if not 1 <= parts <= len(np.unique(codes, axis=0)):
            raise InputError("split", f"{parts} parts of {len(members)} particles", "select more, or ask for fewer")
        touched = np.unique(self.assigned[members])
        stem = self.names[touched[0]] if len(touched) == 1 else "selection"
        names, assigned = [*self.names], self.assigned.copy()
        left = np.delete(assigned, members)
        # Classes that are left empty give their places, and so their colours, to the parts.
        numbers = [int(k) for k in touched if k not in left][:parts]
        for part in range(parts):
            name = _free_name(f"{stem}-{part + 1}", names)
            if part < len(numbers):
                names[numbers[part]] = name
            else:
                numbers.append(len(names))
                names.append(name)
        assigned[members] = np.array(numbers)[_k_means(codes, parts)]
        return ParticleGroups.of(names, assigned)

    def renamed(self, number: int, name: str) -> ParticleGroups:
        """Give a class another name.

        Raises
        ------
        InputError
            When it is empty, or another class has it.
        """
        name = name.strip()
        others = {other for k, other in enumerate(self.names) if k != number}
        if not name:
            raise InputError("rename", "the name is empty", "give one")
        if name in others:
            raise InputError("rename", f"'{name}' is the name of another class", "choose another, or merge the two")
        return ParticleGroups(tuple(name if k == number else old for k, old in enumerate(self.names)), self.assigned)


def _k_means(codes: NDArray[np.float64], parts: int) -> NDArray[np.int64]:
    """Part of each particle, the largest first."""
    if parts == 1:
        return np.zeros(len(codes), np.int64)
    from sklearn.cluster import KMeans

    found = KMeans(parts, n_init=10, random_state=SEED).fit_predict(codes)
    order = np.argsort(-np.bincount(found, minlength=parts), kind="stable")
    return np.argsort(order)[found]


def _free_name(wanted: str, taken: Sequence[str]) -> str:
    name = wanted
    while name in taken:
        name += "'"
    return name


class History:
    """States one after another, and which of them holds: a new one after going back replaces what came later."""

    def __init__(self, first: ParticleGroups) -> None:
        self._states = [first]
        self._now = 0

    @property
    def state(self) -> ParticleGroups:
        return self._states[self._now]

    @property
    def can_undo(self) -> bool:
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        return self._now + 1 < len(self._states)

    def push(self, state: ParticleGroups) -> None:
        """Let a new state hold."""
        self._states = [*self._states[: self._now + 1], state]
        self._now += 1

    def undo(self) -> None:
        """Go back by one, where there is one."""
        self._now -= self.can_undo

    def redo(self) -> None:
        """Go forward by one, where there is one."""
        self._now += self.can_redo
