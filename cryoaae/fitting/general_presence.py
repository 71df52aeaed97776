"""Teach the general restorer to tell structure from featureless density and from noise, on simulations.

A restorer that was fitted learns it from its own tomogram (`fitting.presence`). The general one learns it once, from
scenes, from the noise of each and from the same with random phases; the network stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cryoaae.fitting.presence import PRIOR, classify, some
from cryoaae.fitting.scene_feed import mix
from cryoaae.models.general import GeneralRestorer
from cryoaae.simulation.scenes import Scene

PLACES_A_TOMOGRAM = 400
# Only the weights of the loss depend on the patch that a mixed tomogram is to be cut into.
PATCH = 16


def learn_general_presence(general: GeneralRestorer, scenes: Sequence[Path], *, tomograms: int, seed: int) -> float:
    """Fit `general.presence` on tomograms mixed of scenes and use it from now on; return the last loss.

    Parameters
    ----------
    general : GeneralRestorer
    scenes : sequence of paths
        Files of `Scene`.
    tomograms : int
        How many to mix, of the scenes in turn.
    seed : int
        Of filters, noise, places and their order.
    """
    generator = torch.Generator().manual_seed(seed)
    bank: dict[int, list[Tensor]] = {case: [] for case in PRIOR}
    for case, moments in _moments(general, scenes, tomograms, generator):
        bank[case].append(some(moments, PLACES_A_TOMOGRAM, generator))
    loss = classify(general.presence, bank, generator)
    general.know_presence()
    return loss


def told_apart(
    general: GeneralRestorer, scenes: Sequence[Path], *, tomograms: int, seed: int
) -> dict[int, list[float]]:
    """Mean probability of each case (list), given tomograms of each case (keys)."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, list[Tensor]] = {case: [] for case in PRIOR}
    for case, moments in _moments(general, scenes, tomograms, generator):
        with torch.no_grad():
            logits = general.presence.classify(moments.T[None, :, :, None, None])[0, :, :, 0, 0]
        found[case].append(logits.softmax(dim=0).mean(dim=1))
    return {case: torch.stack(rows).mean(dim=0).tolist() for case, rows in found.items()}


def _moments(
    general: GeneralRestorer, scenes: Sequence[Path], tomograms: int, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """Case and moments (n, features) of tomograms, each in all three cases."""
    device = next(general.parameters()).device
    for index in range(tomograms):
        scene = Scene.load(scenes[index % len(scenes)])
        seed = int(torch.randint(2**31, (1,), generator=generator))
        for case in PRIOR:
            mixed = mix(scene, seed=seed, patch=PATCH, hidden_weight=1.0, device=device, case=case)
            with torch.no_grad():
                features = general.network.encode(mixed.inputs[None], mixed.condition[None])
                yield case, general.presence.moments(features)[0].flatten(1).T
