"""A pool of tomograms made of scenes, or of other sources, one of which is replaced every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

Source = TypeVar("Source")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Recipe:
    """All that is needed to make a tomogram of the pool again."""

    scene: int
    seed: int


class ScenePool(Generic[Source, Made]):
    """Tomograms, and what they were made from.

    Parameters
    ----------
    scenes : sequence
        Files of `Scene`, or whatever else tomograms are made of.
    make : callable
        Of one of them and a seed.
    size, renew_every : int
        Tomograms; steps after which the oldest is replaced.
    generator : torch.Generator
        Shared with whoever cuts patches.
    """

    def __init__(
        self,
        scenes: Sequence[Source],
        make: Callable[[Source, int], Made],
        *,
        size: int,
        renew_every: int,
        generator: torch.Generator,
    ) -> None:
        self.scenes, self.make, self.size, self.renew_every = list(scenes), make, size, renew_every
        self.generator = generator
        self.recipes: list[Recipe] = []
        self.made: list[Made] = []
        self.next_slot = 0

    def renew(self, step: int) -> None:
        """Make all on the first call; replace one when due."""
        if not self.made:
            self.recipes = [self._drawn() for _ in range(self.size)]
            self.made = [self._of(recipe) for recipe in self.recipes]
        elif step % self.renew_every == 0:
            recipe = self._drawn()
            self.recipes[self.next_slot], self.made[self.next_slot] = recipe, self._of(recipe)
            self.next_slot = (self.next_slot + 1) % self.size

    def choose(self, count: int) -> list[Made]:
        """Tomograms drawn at random, as many as asked for."""
        slots = torch.randint(len(self.made), (count,), generator=self.generator).tolist()
        return [self.made[slot] for slot in slots]

    def state(self) -> dict[str, Any]:
        """Return the recipes and the generator."""
        return {
            "files": len(self.scenes),
            "scenes": [recipe.scene for recipe in self.recipes],
            "seeds": [recipe.seed for recipe in self.recipes],
            "next_slot": self.next_slot,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the tomograms again."""
        self.recipes = [Recipe(*pair) for pair in zip(state["scenes"], state["seeds"], strict=True)]
        self.made = [self._of(recipe) for recipe in self.recipes]
        self.next_slot = int(state["next_slot"])
        self.generator.set_state(state["generator"])

    def _drawn(self) -> Recipe:
        scene = int(torch.randint(len(self.scenes), (1,), generator=self.generator))
        return Recipe(scene, int(torch.randint(2**31, (1,), generator=self.generator)))

    def _of(self, recipe: Recipe) -> Made:
        return self.make(self.scenes[recipe.scene], recipe.seed)
