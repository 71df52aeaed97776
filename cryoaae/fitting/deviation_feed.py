"""Batches for a sampler of deviations: simulated tomograms, seen by the frozen general restorer, cut into patches.

A tomogram is mixed and restored whole when it is taken up; what the restorer saw is cut along with it, so that steps
need no pass of the restorer, and patches see as far as the whole tomogram does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.fitting.scene_feed import mix
from cryoaae.fitting.scene_pool import ScenePool
from cryoaae.models.deviation_fitting import DeviationBatch, White, local_errors, sizes_of, true_levels
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.deviation import MULTIPLE, Seen, linear_posterior, signal_scale
from cryoaae.nets.error_size import ErrorSize
from cryoaae.nets.presence import STRUCTURE
from cryoaae.simulation.scenes import Scene

HELD_OUT_PATCHES, HELD_OUT_DRAWS = 4, 4


@dataclass(frozen=True)
class SeenTomogram:
    """A tomogram of a scene as the general restorer sees it: a batch of one, and what belongs to all its patches."""

    seen: Seen
    error: Tensor  # (z, y, x)
    prior: Tensor  # (COLOURED, p, p, p // 2 + 1), of a patch
    support: Tensor  # (p, p, p // 2 + 1)
    sizes: Tensor  # (FUNCTIONALS,)
    local: Tensor  # (COLOURED, z, y, x)
    level: Tensor  # (REGIONS, SHELLS)


class DeviationFeed:
    """Patches of a pool of tomograms, one of which is replaced every so many steps.

    Parameters
    ----------
    general : GeneralRestorer
    scenes : sequence of paths
        Files of `Scene`; the first `held_out` of them are kept out of fitting.
    patch : int
        Edge of a patch in voxels.
    pool, renew_every, batch_size, draws : int
        Tomograms; steps after which one is replaced; patches a step; draws of each.
    draws_from : float
        Share of the budget after which patches come with noise for draws.
    coarse : int
        Channels of the sampler's coarse noise.
    seed : int
    """

    def __init__(
        self,
        general: GeneralRestorer,
        scenes: Sequence[Path],
        *,
        held_out: int,
        patch: int,
        pool: int,
        renew_every: int,
        batch_size: int,
        draws: int,
        draws_from: float,
        coarse: int,
        seed: int,
    ) -> None:
        self.general, self.kept_out, self.patch = general, list(scenes[:held_out]), patch
        self.batch_size, self.draws, self.coarse, self.draws_from = batch_size, draws, coarse, draws_from
        self.drawing = False
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = ScenePool(
            scenes[held_out:], self._make, size=pool, renew_every=renew_every, generator=self.generator
        )
        self._held_out: list[DeviationBatch] = []

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Make the pool on the first call; renew when due."""
        self.pool.renew(step)
        self.drawing = fraction >= self.draws_from
        return False

    def _make(self, scene: Path, seed: int) -> SeenTomogram:
        return seen_tomogram(self.general, scene, seed=seed, patch=self.patch)

    def batch(self) -> DeviationBatch:
        """Draw patches from the pool, and the noise of their draws."""
        return self._cut(self.pool.choose(self.batch_size), self.draws if self.drawing else 0, self.generator)

    def held_out(self) -> list[DeviationBatch]:
        """Fixed patches and noise of the scenes kept out of fitting."""
        if not self._held_out:
            for index, path in enumerate(self.kept_out):
                generator = torch.Generator().manual_seed(index)
                tomogram = seen_tomogram(self.general, path, seed=index, patch=self.patch)
                self._held_out.append(self._cut([tomogram] * HELD_OUT_PATCHES, HELD_OUT_DRAWS, generator))
        return self._held_out

    def _cut(self, tomograms: list[SeenTomogram], draws: int, generator: torch.Generator) -> DeviationBatch:
        cuts = [_cut(tomogram, self.patch, generator) for tomogram in tomograms]
        seen, errors, local = zip(*cuts, strict=True)
        joined = Seen(
            [torch.cat(level) for level in zip(*(piece.features for piece in seen), strict=True)],
            *(torch.cat([piece[field] for piece in seen]) for field in range(1, len(Seen._fields))),
        )  # fmt: skip
        return DeviationBatch(
            joined, torch.stack(errors), torch.stack([t.prior for t in tomograms]),
            torch.stack([t.support for t in tomograms]), torch.stack([t.sizes for t in tomograms]), torch.stack(local),
            torch.stack([t.level for t in tomograms]),
            White.draw(draws, len(cuts), (self.patch,) * 3, self.coarse, generator),
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return the recipes of the pool and the generator."""
        return self.pool.state()

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Make the pool's tomograms again."""
        self.pool.load_state(state)


@torch.no_grad()
def seen_tomogram(general: GeneralRestorer, scene: Path, *, seed: int, patch: int) -> SeenTomogram:
    """Mix a tomogram of a scene, restore it, and keep what was seen."""
    mixed = mix(
        Scene.load(scene), seed=seed, patch=patch, hidden_weight=1.0, device=torch.device("cpu"), case=STRUCTURE
    )
    network, inputs, condition = general.network, mixed.inputs[None], mixed.condition[None]
    features = network.encode(inputs, condition)
    linear = inputs[:, 1:]
    restored = linear + network.decode(features, condition)
    scale = torch.tensor([signal_scale(mixed.spectra)])
    error = (mixed.truth - restored[0])[0]
    box = (patch,) * 3
    size = ErrorSize.bundled()(restored[0, 0]).log()[None, None]
    support, whole = mixed.wedge.support(box), mixed.wedge.support(error.shape)
    return SeenTomogram(
        Seen(features, linear, restored, condition, scale, size), error, linear_posterior(mixed.spectra, support, box),
        support, sizes_of(error, whole), local_errors(error, whole), true_levels(error, whole, mixed.spectra),
    )  # fmt: skip


def _cut(tomogram: SeenTomogram, patch: int, generator: torch.Generator) -> tuple[Seen, Tensor, Tensor]:
    """A patch at whole cells of the coarsest level, the error there, and the same by channels."""
    cells = [(n - patch) // MULTIPLE for n in tomogram.error.shape]
    start = [MULTIPLE * int(torch.randint(n + 1, (1,), generator=generator)) for n in cells]

    def part(volume: Tensor, factor: int = 1) -> Tensor:
        z, y, x = (slice(a // factor, (a + patch) // factor) for a in start)
        return volume[..., z, y, x]

    seen = tomogram.seen
    features = [part(level, 2**index) for index, level in enumerate(seen.features)]
    linear, restored, size = (part(volume) for volume in (seen.linear, seen.restored, seen.size))
    here = Seen(features, linear, restored, seen.condition, seen.scale, size)
    return here, part(tomogram.error), part(tomogram.local).float()
