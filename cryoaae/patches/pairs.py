"""Pairs for fitting: a rotated patch put through the laboratory wedge again, and what it must predict.

    x_in = T R y_even        target = R y_odd, compared where M_R, the rotated wedge, measured it

Both are cut from a block larger than the patch: the wedge acts on the block, then the patch is
cropped, so that streaks neither wrap around nor start at the patch's faces (DESIGN 4, SCIENCE E7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.patches.refill import Estimate, refill
from cryoaae.patches.source import TomogramSource
from cryoaae.patches.spectra import coloured_noise
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import (
    OVERSAMPLING,
    random_rotations,
    reflect_positions,
    rotation_about,
    sample_cubic,
    sample_positions,
)

# Strength a of the recorruption of a single volume: input noise grows by 1 + a^2.
RECORRUPTION = 0.5
# Recorrupted targets are noisier than others by this factor's inverse.
KEPT_WEIGHT_SINGLE = 1 / (1 + RECORRUPTION**-2)


@dataclass(frozen=True)
class BlockRecipe:
    """All that is needed to make a block again: which tomogram, where, how turned, which half is given."""

    tomogram: int
    centre_zyx: tuple[float, float, float]
    rotation: Tensor  # (3, 3)
    noise_seed: int = 0  # for the recorruption of a single volume
    half: int = 0


@dataclass(frozen=True)
class Block:
    """A rotated block: network input, target and where they count, each (n, n, n).

    `plain` is the input as a restoration would see it: without the noise added to a single volume.
    """

    plain: Tensor
    inputs: Tensor
    targets: Tensor
    weight: Tensor
    held_out_weight: Tensor
    kept_weight: float


@dataclass(frozen=True)
class PairBatch:
    """Patches for one step, on the device.

    Parameters
    ----------
    inputs, targets : (b, 1, p, p, p)
    weight, held_out_weight : (b, 1, p, p, p)
        1 where a voxel lies inside the tomogram and in (out of) the fitted part.
    seen, kept : (b, 1, p, p, p // 2 + 1) bool
        Fourier support M_R of the target, and M of the second wedge.
    kept_weight : (b,)
        Weight of coefficients that are in the input too.
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor
    held_out_weight: Tensor
    seen: Tensor
    kept: Tensor
    kept_weight: Tensor


def draw_recipe(
    sources: list[TomogramSource], *, generator: torch.Generator, axis_share: float = 0.0
) -> BlockRecipe:
    """Draw tomogram (by volume), centre (uniform inside, or by its places), rotation and half.

    Rotations are uniform on SO(3), or, a share of them, about the tilt axis alone. Those take the own
    wedge out of the way of the laboratory's and leave filaments and membranes as they lay.
    """
    tomogram = int(torch.multinomial(torch.tensor([s.volume for s in sources]), 1, generator=generator))
    places, shape = sources[tomogram].places, torch.tensor(sources[tomogram].working_shape_zyx)
    centre = torch.rand(3, generator=generator) * (shape - 1) if places is None else places.draw(generator)
    rotation = random_rotations(1, generator=generator)[0]
    about, turn = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if about < axis_share:
        rotation = rotation_about(sources[tomogram].wedge.tilt_axis_zyx, 2 * math.pi * turn)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    half = int(torch.randint(2, (1,), generator=generator))
    return BlockRecipe(tomogram, tuple(centre.tolist()), rotation, seed, half)


def _inside(positions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether working positions (..., 3) lie in a box, as float."""
    return ((positions >= low) & (positions <= high - 1)).all(dim=-1).float()


def make_block(
    source: TomogramSource,
    recipe: BlockRecipe,
    size: int,
    *,
    device: torch.device,
    slab_voxels: int,
    filled: Tensor | None = None,
    recorrupt: bool = True,
) -> Block:
    """Rotate a block of `size` working voxels out of a source and put it through the wedge again.

    `slab_voxels` is the size of the object that sets the thickness of a tilt's slab: the patch.
    The input comes from `filled` where it is given, the source's density with its own wedge filled.
    Of a single volume, what is in input and target alike is recorrupted, or else does not count.
    """
    centre = torch.tensor(recipe.centre_zyx) * OVERSAMPLING
    positions = sample_positions(recipe.rotation, centre, size, OVERSAMPLING, device=device)
    working = positions / OVERSAMPLING
    positions = reflect_positions(positions, tuple(source.density.shape[-3:]))
    given, other = (recipe.half, 1 - recipe.half) if source.has_halves else (0, 0)
    if filled is None and given == other:
        inputs = targets = sampled(source.density[other], positions, device)
    else:
        shown = (source.density if filled is None else filled)[given]
        targets, inputs = sampled_together([source.density[other], shown], positions, device)
    shape = torch.tensor(source.working_shape_zyx, device=device, dtype=torch.float32)
    inside = _inside(working, torch.zeros(3, device=device), shape)
    held = torch.zeros_like(inside)
    for low, high in source.held_out.to(device):
        held = torch.maximum(held, _inside(working, low, high))
    box = (size, size, size)
    support = source.wedge.support(box, object_zyx=(slab_voxels,) * 3, device=device)
    inputs = plain = irfft(rfft(inputs) * support, box)
    kept_weight = 1.0 if source.has_halves else KEPT_WEIGHT_SINGLE if recorrupt else 0.0
    if not source.has_halves and recorrupt:
        # Hidden coefficients need no split: their noise is not in the input. The others are
        # recorrupted (R2R): y + a z against y - z / a, independent if z has the noise's law.
        z = coloured_noise(source.noise, box, torch.Generator().manual_seed(recipe.noise_seed)).to(device)
        z = irfft(rfft(z) * support, box)
        inputs, targets = inputs + RECORRUPTION * z, targets - z / RECORRUPTION
    return Block(plain, inputs, targets, inside * (1 - held), inside * held, kept_weight)


def sampled(density: Tensor, positions: Tensor, device: torch.device) -> Tensor:
    """Density (z, y, x) at positions (..., 3) of the source grid inside it, on the device."""
    if density.device == device and device.type == "cpu":
        return sample_cubic(density[None], positions)[0]  # a mapped file is read where it is sampled
    return sampled_together([density], positions, device)[0]


def sampled_together(densities: Sequence[Tensor], positions: Tensor, device: torch.device) -> Tensor:
    """Densities (z, y, x) of one grid at the same positions inside it, (c, ...): places are worked out once."""
    # Only the part that the positions touch goes to the device; it reflects at true faces alone.
    low = (positions.amin(dim=(0, 1, 2)).floor() - 2).clamp(min=0).long().tolist()
    high = (positions.amax(dim=(0, 1, 2)).ceil() + 3).long().tolist()
    z, y, x = (slice(a, max(b, a + 2)) for a, b in zip(low, high, strict=True))
    origin = torch.tensor(low, device=device, dtype=torch.float32)
    part = torch.stack([density[z, y, x] for density in densities]).to(device)
    return sample_cubic(part, positions - origin)


# A block of the pool: its recipe, how often the sources had been filled, itself, M_R and M.
Entry = tuple[BlockRecipe, int, Block, Tensor, Tensor]


class BlockPool:
    """A few rotated blocks that patches are cropped from; one is renewed every so many steps.

    Rotating and re-wedging a large block costs more than a training step, and a block holds many
    patches. The pool is a function of its recipes and of what the sources were filled with when
    each block was made, so a checkpoint stores only those.
    """

    def __init__(
        self,
        sources: list[TomogramSource],
        *,
        patch: int,
        block: int,
        blocks: int,
        device: torch.device,
        generator: torch.Generator,
        axis_share: float = 0.0,
        recorrupt: bool = True,
    ) -> None:
        self.sources, self.patch, self.block = sources, patch, block
        self.axis_share, self.count, self.recorrupt = axis_share, blocks, recorrupt
        self.device, self.generator = device, generator
        self.next_slot = 0
        self.filling = 0  # how often the sources were filled
        self.filled: list[Tensor | None] = [None] * len(sources)
        self.pool: list[Entry] = []

    def ready(self) -> None:
        """Make the blocks, unless they stand already or were loaded."""
        if not self.pool:
            self.pool = [self._make(self._draw()) for _ in range(self.count)]

    def _draw(self) -> BlockRecipe:
        return draw_recipe(self.sources, generator=self.generator, axis_share=self.axis_share)

    def _make(self, recipe: BlockRecipe) -> Entry:
        source, filled = self.sources[recipe.tomogram], self.filled[recipe.tomogram]
        block = make_block(
            source, recipe, self.block, device=self.device, slab_voxels=self.patch, filled=filled,
            recorrupt=self.recorrupt,
        )  # fmt: skip
        box = (self.patch,) * 3
        # The error is tapered and so spread by about one Fourier voxel of the patch: erode.
        seen = source.wedge.rotated(recipe.rotation).support(box, margin=1.0, device=self.device)
        kept = source.wedge.support(box, device=self.device)
        return recipe, self.filling, block, seen, kept

    def renew(self) -> None:
        """Replace the oldest block."""
        self.pool[self.next_slot] = self._make(self._draw())
        self.next_slot = (self.next_slot + 1) % len(self.pool)

    def refill(self, estimate: Estimate, *, multiple: int, seed: int) -> None:
        """Fill the sources' own wedges with an estimate; blocks made from now on use it."""
        self.filling += 1
        self.filled = [
            refill(
                source, estimate, object_voxels=self.patch, multiple=multiple,
                seed=seed + self.filling, device=self.device,
            )
            for source in self.sources
        ]  # fmt: skip

    def batch(self, size: int, *, margin: int, share: tuple[int, int] = (0, 1)) -> PairBatch:
        """Crop `size` patches, each from a block drawn at random, or every n-th of them from the k-th on.

        The outer `margin` voxels of a block, where its wedge wraps around, are not used.

        Parameters
        ----------
        share : (k, n)
            Which of them: number of this process and how many processes share the batch.
        """
        crops = []
        for index in range(size):
            slot = int(torch.randint(len(self.pool), (1,), generator=self.generator))
            room = self.block - self.patch - 2 * margin
            start = torch.randint(0, room + 1, (3,), generator=self.generator) + margin
            if index % share[1] != share[0]:
                continue
            cut = tuple(slice(a, a + self.patch) for a in start.tolist())
            crops.append(self._pair(self.pool[slot], cut))
        return PairBatch(*(torch.stack(field) for field in zip(*crops, strict=True)))

    def blocks(self) -> list[tuple[TomogramSource, Block]]:
        """Blocks held ready and the sources they are from."""
        return [(self.sources[recipe.tomogram], block) for recipe, _, block, *_ in self.pool]

    def centre_patch(self, recipe: BlockRecipe) -> PairBatch:
        """One pair from the middle of a block made for it."""
        start = (self.block - self.patch) // 2
        pair = self._pair(self._make(recipe), (slice(start, start + self.patch),) * 3)
        return PairBatch(*(x[None] for x in pair))

    def _pair(self, entry: Entry, cut: tuple[slice, ...]) -> tuple[Tensor, ...]:
        _, _, block, seen, kept = entry
        patches = (x[cut][None] for x in (block.inputs, block.targets, block.weight, block.held_out_weight))
        kept_weight = torch.tensor(block.kept_weight, device=self.device)
        return (*patches, seen[None], kept[None], kept_weight)

    def state(self) -> dict[str, Any]:
        """Recipes of the pool, plain data and tensors."""
        recipes = [recipe for recipe, *_ in self.pool]
        return {
            "next_slot": self.next_slot,
            "tomogram": [r.tomogram for r in recipes],
            "centre_zyx": [list(r.centre_zyx) for r in recipes],
            "rotation": torch.stack([r.rotation for r in recipes]),
            "noise_seed": [r.noise_seed for r in recipes],
            "half": [r.half for r in recipes],
            "filling": [filling for _, filling, *_ in self.pool],
        }

    def load_state(self, state: dict[str, Any], refills: Sequence[Callable[[], None]]) -> None:
        """Make the pool's blocks again from their recipes.

        Parameters
        ----------
        refills : sequence of callable
            Each calls `refill` with the estimate that was used; in order, from the first.
        """
        self.next_slot, self.filling = int(state["next_slot"]), 0
        self.filled = [None] * len(self.sources)
        columns = ("tomogram", "centre_zyx", "rotation", "noise_seed", "half")
        rows = zip(*(state[c] for c in columns), strict=True)
        recipes = [BlockRecipe(t, tuple(c), r, seed, half) for t, c, r, seed, half in rows]
        pool: dict[int, Entry] = {}
        for filling in range(len(refills) + 1):
            used = [i for i, n in enumerate(state["filling"]) if n == filling]
            if filling and (used or filling == len(refills)):
                self.filling = filling - 1
                refills[filling - 1]()
            pool |= {i: self._make(recipes[i]) for i in used}
        self.pool = [pool[i] for i in range(len(recipes))]
