"""Pairs for fitting: a rotated patch put through the laboratory wedge again, and what it must predict.

    x_in = T R y_even        target = R y_odd, compared where M_R, the rotated wedge, measured it

Both are cut from a block larger than the patch: the wedge acts on the block, then the patch is
cropped, so that streaks neither wrap around nor start at the patch's faces (DESIGN 4, SCIENCE E7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.patches.source import TomogramSource
from cryoaae.patches.spectra import interpolate
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.rotation import OVERSAMPLING, random_rotations, sample_cubic, sample_positions

# Strength a of the recorruption of a single volume: input noise grows by 1 + a^2.
RECORRUPTION = 0.5


@dataclass(frozen=True)
class BlockRecipe:
    """All that is needed to make a block again: which tomogram, where, and how it was turned."""

    tomogram: int
    centre_zyx: tuple[float, float, float]
    rotation: Tensor  # (3, 3)
    noise_seed: int = 0  # for the recorruption of a single volume


@dataclass(frozen=True)
class Block:
    """A rotated block: network inputs, targets and where they count, (c, n, n, n) or (n, n, n)."""

    tomogram: int
    rotation: Tensor
    inputs: Tensor
    targets: Tensor
    weight: Tensor
    held_out_weight: Tensor


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
    """

    inputs: Tensor
    targets: Tensor
    weight: Tensor
    held_out_weight: Tensor
    seen: Tensor
    kept: Tensor


def draw_recipe(sources: list[TomogramSource], *, generator: torch.Generator) -> BlockRecipe:
    """Draw tomogram (by volume), centre (uniform inside) and rotation (uniform on SO(3))."""
    volumes = torch.tensor([float(torch.tensor(s.working_shape_zyx).prod()) for s in sources])
    tomogram = int(torch.multinomial(volumes, 1, generator=generator))
    shape = torch.tensor(sources[tomogram].working_shape_zyx)
    centre = torch.rand(3, generator=generator) * (shape - 1)
    rotation = random_rotations(1, generator=generator)[0]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return BlockRecipe(tomogram, tuple(centre.tolist()), rotation, seed)


def _inside(positions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether working positions (..., 3) lie in a box, as float."""
    return ((positions >= low) & (positions <= high - 1)).all(dim=-1).float()


def make_block(
    source: TomogramSource, recipe: BlockRecipe, size: int, *, device: torch.device, slab_voxels: int
) -> Block:
    """Rotate a block of `size` working voxels out of a source and put it through the wedge again.

    `slab_voxels` is the size of the object that sets the thickness of a tilt's slab: the patch.
    """
    centre = torch.tensor(recipe.centre_zyx) * OVERSAMPLING
    positions = sample_positions(recipe.rotation, centre, size, OVERSAMPLING, device=device)
    density, origin = _local(source.density, positions, device)
    rotated = sample_cubic(density, positions - origin)
    working = positions / OVERSAMPLING
    shape = torch.tensor(source.working_shape_zyx, device=device, dtype=torch.float32)
    inside = _inside(working, torch.zeros(3, device=device), shape)
    held = torch.zeros_like(inside)
    for low, high in source.held_out.to(device):
        held = torch.maximum(held, _inside(working, low, high))
    box = (size, size, size)
    support = source.wedge.support(box, object_zyx=(slab_voxels,) * 3, device=device)
    inputs = irfft(rfft(rotated) * support, box)
    targets = rotated
    if not source.has_halves:
        # Hidden coefficients need no split: their noise is not in the input. The others are
        # recorrupted (R2R): y + a z against y - z / a, independent if z has the noise's law.
        z = _coloured_noise(source.noise, box, recipe.noise_seed).to(device)
        z = irfft(rfft(z) * support, box)[None]
        inputs, targets = inputs + RECORRUPTION * z, rotated - z / RECORRUPTION
    return Block(recipe.tomogram, recipe.rotation, inputs, targets, inside * (1 - held), inside * held)


def _coloured_noise(power: Tensor, box: tuple[int, int, int], seed: int) -> Tensor:
    """Gaussian noise with a power per shell up to Nyquist, (z, y, x)."""
    white = torch.randn(box, generator=torch.Generator().manual_seed(seed))
    amplitude = interpolate(power, (radius(box) * 2).double().clamp(max=1.0)).clamp(min=0).sqrt().float()
    return irfft(rfft(white) * amplitude, box)


def _local(density: Tensor, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Part of the source that the positions touch, on the device, and its origin (z, y, x)."""
    if density.device == device and device.type == "cpu":
        return density, torch.zeros(3)  # a mapped file is read page by page, where it is sampled
    low = (positions.amin(dim=(0, 1, 2)).floor() - 2).clamp(min=0).long().tolist()
    high = (positions.amax(dim=(0, 1, 2)).ceil() + 3).long().tolist()
    z, y, x = (slice(a, max(b, a + 2)) for a, b in zip(low, high, strict=True))
    part = density[:, z, y, x]
    if min(part.shape[-3:]) == 0:
        return density[:, :2, :2, :2].to(device), torch.zeros(3, device=device)
    return part.to(device), torch.tensor(low, device=device, dtype=torch.float32)


class BlockPool:
    """A few rotated blocks that patches are cropped from; one is renewed every so many steps.

    Rotating and re-wedging a large block costs more than a training step, and a block holds many
    patches. The pool is a function of its recipes, so a checkpoint stores only those.
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
    ) -> None:
        self.sources, self.patch, self.block = sources, patch, block
        self.device, self.generator = device, generator
        self.next_slot = 0
        self.pool = [self._make(draw_recipe(sources, generator=generator)) for _ in range(blocks)]

    def _make(self, recipe: BlockRecipe) -> tuple[BlockRecipe, Block, Tensor, Tensor]:
        source = self.sources[recipe.tomogram]
        block = make_block(source, recipe, self.block, device=self.device, slab_voxels=self.patch)
        box = (self.patch,) * 3
        # The error is tapered and so spread by about one Fourier voxel of the patch: erode.
        seen = source.wedge.rotated(recipe.rotation).support(box, margin=1.0, device=self.device)
        kept = source.wedge.support(box, device=self.device)
        return recipe, block, seen, kept

    def renew(self) -> None:
        """Replace the oldest block."""
        recipe = draw_recipe(self.sources, generator=self.generator)
        self.pool[self.next_slot] = self._make(recipe)
        self.next_slot = (self.next_slot + 1) % len(self.pool)

    def batch(self, size: int, *, margin: int) -> PairBatch:
        """Crop `size` patches, each from a block drawn at random, halves swapped at random.

        The outer `margin` voxels of a block, where its wedge wraps around, are not used.
        """
        crops = []
        for _ in range(size):
            slot = int(torch.randint(len(self.pool), (1,), generator=self.generator))
            room = self.block - self.patch - 2 * margin
            start = torch.randint(0, room + 1, (3,), generator=self.generator) + margin
            swap = bool(torch.randint(2, (1,), generator=self.generator))
            crops.append(self._crop(slot, start.tolist(), swap))
        return PairBatch(*(torch.stack([c[i] for c in crops]) for i in range(6)))

    def _crop(self, slot: int, start: list[int], swap: bool) -> tuple[Tensor, ...]:
        _, block, seen, kept = self.pool[slot]
        cut = tuple(slice(a, a + self.patch) for a in start)
        first, second = (1, 0) if swap else (0, 1)
        if block.inputs.shape[0] == 1:
            first = second = 0
        return (
            block.inputs[first][cut][None],
            block.targets[second][cut][None],
            block.weight[cut][None],
            block.held_out_weight[cut][None],
            seen[None],
            kept[None],
        )

    def state(self) -> dict[str, Any]:
        """Recipes of the pool, plain data and tensors."""
        return {
            "next_slot": self.next_slot,
            "tomogram": [r.tomogram for r, *_ in self.pool],
            "centre_zyx": [list(r.centre_zyx) for r, *_ in self.pool],
            "rotation": torch.stack([r.rotation for r, *_ in self.pool]),
            "noise_seed": [r.noise_seed for r, *_ in self.pool],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Make the pool's blocks again from their recipes."""
        self.next_slot = int(state["next_slot"])
        rows = zip(state["tomogram"], state["centre_zyx"], state["rotation"], state["noise_seed"], strict=True)
        self.pool = [self._make(BlockRecipe(t, tuple(c), r, seed)) for t, c, r, seed in rows]
