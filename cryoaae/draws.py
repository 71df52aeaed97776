"""Random draws for one model, or for a stack of models that are trained side by side.

A stack of S models has S generators, one a member, and every draw gets a leading axis of S. What a
member draws is what it would draw alone, so a stacked run equals the separate ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Draws:
    """Generators of a model or of a stack of models.

    Parameters
    ----------
    generators : sequence of torch.Generator
        One a member.
    stacked : bool
        Whether draws have the leading axis; without it there is one generator.
    dtype : torch.dtype
        Of the numbers drawn.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], *, stacked: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        if not generators or (len(generators) > 1 and not stacked):
            raise ValueError(f"{len(generators)} generators for {'a stack' if stacked else 'one model'}")
        self.generators, self.dtype = list(generators), dtype
        self.stack: tuple[int, ...] = (len(generators),) if stacked else ()

    @classmethod
    def seeded(
        cls,
        seeds: int | Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """From a seed for one model, or a sequence of seeds for a stack."""
        stacked = not isinstance(seeds, int)
        numbers = [seeds] if isinstance(seeds, int) else list(seeds)
        return cls([torch.Generator(device).manual_seed(s) for s in numbers], stacked=stacked, dtype=dtype)

    @property
    def device(self) -> torch.device:
        return self.generators[0].device

    def each(self, draw: Callable[..., Tensor], *members: Tensor) -> Tensor:
        """Call `draw(generator, *parts)` for every member and stack what it returns.

        Parameters
        ----------
        draw : callable
        *members : (*stack, ...)
            Tensors of which each call gets its member's part.
        """
        if not self.stack:
            return draw(self.generators[0], *members)
        return torch.stack([draw(g, *(m[i] for m in members)) for i, g in enumerate(self.generators)])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (*stack, *shape)."""
        return self._filled(shape, lambda part, g: part.normal_(generator=g))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1), (*stack, *shape)."""
        return self._filled(shape, lambda part, g: part.uniform_(generator=g))

    def _filled(self, shape: tuple[int, ...], fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        numbers = torch.empty(*self.stack, *shape, device=self.device, dtype=self.dtype)
        for part, generator in zip(numbers if self.stack else [numbers], self.generators, strict=True):
            fill(part, generator)
        return numbers

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers from 0 to high - 1, (*stack, *shape)."""
        return self.each(lambda g: torch.randint(high, shape, generator=g, device=g.device))

    def permutation(self, n: int) -> Tensor:
        """A permutation of n, (*stack, n)."""
        return self.each(lambda g: torch.randperm(n, generator=g, device=g.device))

    def state(self) -> list[Tensor]:
        """States of the generators, for a checkpoint."""
        return [g.get_state() for g in self.generators]

    def load_state(self, state: Sequence[Tensor]) -> None:
        """Go on from `state`."""
        for generator, saved in zip(self.generators, state, strict=True):
            generator.set_state(saved)
