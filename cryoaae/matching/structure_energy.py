"""What a prior on structure says of a volume beyond its Gaussian reference, as an energy with a gradient.

    U(x) = -log p(x) / q0(x) = - V / v  mean over places, R, n of l(T R x + n)

l is the logit of a discriminator that was learned against q0 and is frozen (`matching.reference`): of a neighbourhood
of v voxels the log density ratio. A volume of V voxels holds V / v neighbourhoods that share none, so every voxel
counts once, wherever the places lie. R and n are drawn once and frozen: an energy that changed from call to call
could be neither descended nor put to a Metropolis test.

Fits `sampling.langevin.WedgePosterior` as its `further`, with the same S as its reference:

    posterior = WedgePosterior(y, M, N, judge.reference_power(shape), further=StructureEnergy(...))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.matching.reference import ReferenceReferee
from cryoaae.matching.structure import CloudDraw, Clouds, Microscope, add_blocks, blocks_at
from cryoaae.physics.rotation import quarter_turns

# Blocks that are turned, measured and judged at once.
BATCH = 8


def frozen_draw(clouds: Clouds, centres_zyx: Tensor, *, turns: int, quarter: bool = True) -> CloudDraw:
    """Draw R and n for `turns` turns at each centre (b, 3) of a tomogram.

    Parameters
    ----------
    clouds : Clouds
        Of that tomogram alone.
    centres_zyx : (b, 3) int
        Working voxels of the tomogram, within `Clouds.centres`.
    turns : int
        Of each centre.
    quarter : bool
        Turns that map the axes onto themselves, all different as long as there are 24: they cost a twentieth of
        free ones, and any that tips the beam shows the whole wedge. Else uniform in space.
    """
    draw = clouds.draw_at(centres_zyx.repeat_interleave(turns, dim=0))
    if not quarter:
        return draw
    known = quarter_turns()
    each = [
        known[torch.randperm(len(known), generator=clouds.generator)[torch.arange(turns) % len(known)]]
        for _ in centres_zyx
    ]
    return replace(draw, rotations=torch.cat(each))


def places(first: int, count: int, step: int) -> NDArray[np.int64]:
    """Centres from `first` to `first + count - 1`, evenly, no farther apart than `step`."""
    gaps = -(-(count - 1) // step)
    return first + np.round(np.linspace(0, count - 1, gaps + 1)).astype(np.int64)


def frozen_draws(
    clouds: Clouds, *, chains: int, turns: int, corner_zyx: Sequence[int] = (0, 0, 0)
) -> list[CloudDraw]:
    """Draw R and n for each chain, at all places of a tomogram that lie a patch apart.

    Parameters
    ----------
    clouds : Clouds
        Of that tomogram alone.
    chains, turns : int
        Draws, and turns at each place.
    corner_zyx : (int, int, int)
        Voxel of the volumes at which the tomogram begins.
    """
    axes = (torch.from_numpy(places(first, count, clouds.patch)) for first, count in clouds.centres())
    centres = torch.cartesian_prod(*axes).reshape(-1, 3)
    draws = [frozen_draw(clouds, centres, turns=turns) for _ in range(chains)]
    for draw in draws:
        draw.centre_zyx.add_(torch.tensor(corner_zyx))
    return draws


class StructureEnergy:
    """U of volumes and its gradient; memory does not grow with the number of places.

    Parameters
    ----------
    judge : ReferenceReferee
        Frozen, in working voxels and units of what it learned on.
    microscope : Microscope
        Of the one tomogram.
    draws : sequence of CloudDraw
        Places, turns and noise (`frozen_draw`): one for every chain, or one for all.
    surroundings : (z, y, x), optional
        Tomogram on the working grid that the volumes are a part of and that stands still around them; centres are
        the tomogram's. Default: none, centres are the volumes'.
    corner_zyx : (int, int, int)
        First voxel of the volumes in their surroundings.
    voxels : int, optional
        V: voxels that the places speak for. Default: all of a volume's.
    weight : float
        1: every voxel counts once.
    """

    def __init__(
        self,
        judge: ReferenceReferee,
        microscope: Microscope,
        draws: Sequence[CloudDraw],
        *,
        surroundings: Tensor | None = None,
        corner_zyx: tuple[int, int, int] = (0, 0, 0),
        voxels: int | None = None,
        weight: float = 1.0,
    ) -> None:
        self.judge, self.microscope, self.draws = judge.requires_grad_(False), microscope, list(draws)
        self.surroundings, self.corner = surroundings, corner_zyx
        self.voxels, self.weight = voxels, weight

    def __call__(self, volumes: Tensor) -> Tensor:
        """Energies (chains,) of volumes (chains, z, y, x); differentiable, once."""
        energies: Tensor = _Pulled.apply(volumes, self)
        return energies

    def energy_and_gradient(self, volume: Tensor, chain: int = 0) -> tuple[Tensor, Tensor]:
        """U, a scalar, and its gradient (z, y, x), of a volume."""
        whole, draw = self._whole(volume), self._draw(chain)
        voxels = volume.numel() if self.voxels is None else self.voxels
        scale = self.weight * voxels / self.judge.neighbourhood**3 / len(draw)
        energy, gradient = volume.new_zeros((), dtype=torch.float64), torch.zeros_like(whole)
        for part in _parts(draw):
            blocks = blocks_at([whole], part, self.microscope.block)
            with torch.enable_grad():
                moving = blocks.detach().requires_grad_()
                own = scale * self._energies(moving, part).sum()
                (slope,) = torch.autograd.grad(own, moving)
            energy += own.detach().to(energy)
            add_blocks(gradient, slope.to(gradient), part)
        return energy.to(volume), self._own(gradient, volume).to(volume)

    def logit(self, volume: Tensor, chain: int = 0) -> float:
        """Mean logit of a neighbourhood at a chain's places, turns and noise, in nats."""
        whole, draw = self._whole(volume), self._draw(chain)
        with torch.no_grad():
            found = [self._energies(blocks_at([whole], part, self.microscope.block), part) for part in _parts(draw)]
        return -float(torch.cat(found).mean())

    def _energies(self, blocks: Tensor, part: CloudDraw) -> Tensor:
        return self.judge.energies(self.microscope(blocks.to(self.judge.power.device), part))

    def _draw(self, chain: int) -> CloudDraw:
        return self.draws[chain % len(self.draws)]

    def _region(self, volume: Tensor) -> tuple[slice, ...]:
        return tuple(slice(c, c + n) for c, n in zip(self.corner, volume.shape, strict=True))

    def _whole(self, volume: Tensor) -> Tensor:
        """The volume in its surroundings."""
        if self.surroundings is None:
            return volume.detach().float()
        whole = self.surroundings.to(volume.device, torch.float32).clone()
        whole[self._region(volume)] = volume.detach().float()
        return whole

    def _own(self, gradient: Tensor, volume: Tensor) -> Tensor:
        return gradient if self.surroundings is None else gradient[self._region(volume)]


def _parts(draw: CloudDraw) -> list[CloudDraw]:
    return [draw.part(slice(at, at + BATCH)) for at in range(0, len(draw), BATCH)]


class _Pulled(torch.autograd.Function):
    """Takes the gradient on the way forward, a few blocks at a time, so that no graph of all blocks is held."""

    @staticmethod
    def forward(ctx: Any, volumes: Tensor, energy: StructureEnergy) -> Tensor:
        found = [energy.energy_and_gradient(volume, chain) for chain, volume in enumerate(volumes)]
        ctx.save_for_backward(torch.stack([gradient for _, gradient in found]))
        return torch.stack([own for own, _ in found])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0][:, None, None, None] * gradient, None
