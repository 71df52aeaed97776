"""Learn where restorations err, on simulations, whose truth is known.

Over places of simulated tomograms, with e the error of the general restorer in units of its rms over the tomogram,

    minimise  E [ log s + e^2 / (2 s^2) ]

whose minimum is s^2 = E[e^2 | what the restoration looks like there]. What a constant spread and one that follows the
local rms leave is compared on scenes that were kept out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from cryoaae.fitting.scene_feed import mix
from cryoaae.metrics.calibration import local_rms, mean_crps
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.error_size import ErrorSize, looks_of
from cryoaae.nets.presence import STRUCTURE
from cryoaae.simulation.scenes import Scene

PLACES_A_TOMOGRAM = 20_000
# Outer voxels, where the restoration sees less and the wedge wraps around.
MARGIN = 10
STEPS, TOMOGRAMS_A_STEP, PLACES_A_STEP, LEARNING_RATE = 3000, 4, 1500, 2e-3
# Only the weights of the loss depend on the patch that a mixed tomogram is to be cut into.
PATCH = 16
WINDOW = 5


@dataclass(frozen=True)
class Examples:
    """Places of one tomogram.

    Parameters
    ----------
    looks : (n, `nets.error_size.LOOKS`)
    error : (n,)
        In units of its rms.
    contrast : (n,)
        Local rms of the restoration: what a spread must beat.
    """

    looks: Tensor
    error: Tensor
    contrast: Tensor


def examples(general: GeneralRestorer, scenes: Sequence[Path], *, tomograms: int, seed: int) -> Iterator[Examples]:
    """Restore tomograms mixed of scenes, each as often as the others, and take places of each."""
    generator = torch.Generator().manual_seed(seed)
    scene_order = torch.randperm(len(scenes), generator=generator).tolist()
    for index in range(tomograms):
        scene = Scene.load(scenes[scene_order[index % len(scenes)]])
        restored, truth = _restored(general, scene, int(torch.randint(2**31, (1,), generator=generator)))
        inner = (slice(MARGIN, -MARGIN),) * 3
        order = torch.randperm(restored[inner].numel(), generator=generator)[:PLACES_A_TOMOGRAM]

        def some(volume: Tensor, inner: tuple[slice, ...] = inner, order: Tensor = order) -> Tensor:
            return volume[inner].flatten()[order]

        error = some(restored - truth)
        looks = torch.stack([some(look.reshape(restored.shape)) for look in looks_of(restored)], dim=1)
        yield Examples(looks, error / error.square().mean().sqrt(), some(local_rms(restored, WINDOW).float()))


@torch.no_grad()
def _restored(general: GeneralRestorer, scene: Scene, seed: int) -> tuple[Tensor, Tensor]:
    """Mean of both restored halves, as `restore` writes it, and the truth, (z, y, x)."""
    device = next(general.parameters()).device
    halves = [
        mix(scene, seed=seed, patch=PATCH, hidden_weight=1.0, device=device, case=STRUCTURE, half=half)
        for half in (0, 1)
    ]
    restored = [m.inputs[1] + general.network(m.inputs[None], m.condition[None])[0, 0] for m in halves]
    return ((restored[0] + restored[1]) / 2).cpu(), halves[0].truth[0].cpu()


def learn_error_size(bank: Sequence[Examples], *, seed: int, steps: int = STEPS) -> ErrorSize:
    """Descend the negative log likelihood of errors over places; see the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ErrorSize()
    every = torch.cat([place.looks for place in bank])
    made.center.copy_(every.mean(dim=0))
    made.width.copy_(every.std(dim=0))
    optimiser = torch.optim.Adam(made.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        loss = torch.zeros(())
        for one in torch.randint(len(bank), (TOMOGRAMS_A_STEP,), generator=generator).tolist():
            place = torch.randint(len(bank[one].error), (PLACES_A_STEP,), generator=generator)
            size = made.told(bank[one].looks[place])
            loss = loss + (size + 0.5 * bank[one].error[place].square() * (-2 * size).exp()).mean() / TOMOGRAMS_A_STEP
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made.eval().requires_grad_(False)


def scores(made: ErrorSize, tomogram: Examples) -> dict[str, dict[str, float]]:
    """CRPS, in the error's rms, and rank correlation with its size, of the learned spread and of two nulls.

    All three are given the error's true size. Of the score less is better; a constant spread has no ranks.
    """
    spreads = {
        "learned": made.told(tomogram.looks).exp(), "constant": torch.ones_like(tomogram.error),
        "local_rms": tomogram.contrast,
    }  # fmt: skip
    crps = {name: mean_crps(tomogram.error, s / s.square().mean().sqrt()) for name, s in spreads.items()}
    size = tomogram.error.abs()
    ranks = {
        name: float(spearmanr(spreads[name], size).statistic) for name in ("learned", "local_rms")
    }
    return {"crps": crps, "spearman": ranks}
