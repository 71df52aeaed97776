"""The judge of `benchmark_priors`: a classifier of the truth and of restorations seen again, learned once and kept.

A judge that learns on the one small tomogram of a row cannot tell a smear from the truth. This one learns on six
phantoms of the condition, whose structures (the odd lines of maps_10A) and seeds no row has, to tell `T R x + n` of the
truth x from that of two kinds of x_hat: the general restorer's output, and the noise-free tomogram with its wedge, its
power matched. It has met neither a prior's output nor the changed defaults that a prior must beat, so none has an
advantage. Both clouds go through the same operator, whose flaws tell nothing: against real patches the truth itself
had an area of 0.63 to 0.80. Two more phantoms say what the judge is worth. Turns are quarter turns: they cost next to
nothing, and any that tips the beam shows the wedge whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from benchmark_proxy import BLOCK, PATCH, Bank, area, draw_bank, learn, scores, seen_again
from priors_proxy import OneTomogram, changed, opened, tensor, truth_and_smear
from priors_table import RESTORED, SMEARED, TRUTH
from restoration_conditions import Data, Run, prepared
from torch import Tensor

import cryoaae
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.matching.structure import CloudDraw, Microscope, settled
from cryoaae.nets.discriminators import PatchDiscriminator
from cryoaae.patches.source import TomogramSource
from cryoaae.physics.rotation import quarter_turns

# Apart from every seed that a row is scored on (700 to 722, and 900 and more to tune on).
FIRST_SEED, LEARNED_ON, CHECKED_ON = 760, 6, 2
LEARNED_FROM = (RESTORED, SMEARED)
BLOCKS, STEPS = 900, 1000
# Of one tomogram that is judged.
OWN_BLOCKS = 400


@dataclass(frozen=True)
class Judge:
    """A frozen classifier, and what it is worth.

    Parameters
    ----------
    network : PatchDiscriminator
    facts : dict
        "check": area under the curve by kind of x_hat, on phantoms that it did not learn on; "cpu_seconds".
    """

    network: PatchDiscriminator
    facts: dict[str, Any]

    def areas(
        self, tomogram: OneTomogram, truth: Tensor, volumes: Mapping[str, Tensor], seed: int
    ) -> dict[str, float]:
        """Area under the ROC curve of the truth seen again against each volume seen again, at other places.

        Parameters
        ----------
        tomogram : OneTomogram
        truth : (z, y, x)
            The complete reconstruction, in the tomogram's units.
        volumes : mapping of (z, y, x)
            Likewise.
        seed : int
            Of places, turns and noise: all volumes, and all rows of one seed, share them.
        """
        banks = [quarter_bank([tomogram.source], OWN_BLOCKS, 2 * seed + i) for i in (0, 1)]
        microscope = Microscope([tomogram.source.wedge], patch=PATCH, block=BLOCK)

        def scored(volume: Tensor, bank: Bank) -> Any:
            again = seen_again(bank, [tomogram.on_grid(volume)], microscope)
            return scores(self.network, again + settled(bank.draw.noise))

        true = scored(truth, banks[0])
        return {name: area(true, scored(volume, banks[1])) for name, volume in volumes.items()}


def judge_of(condition: str, folder: Path) -> Judge:
    """The judge of a condition, learned unless it stands."""
    path = folder / f"judge_{condition}.safetensors"
    if not path.exists():
        judge = _learned(condition, folder / f"judge_{condition}")
        save_weights(path, dict(judge.network.state_dict()), judge.facts)
    tensors, facts = load_weights(path)
    network = PatchDiscriminator()
    network.load_state_dict(tensors)
    return Judge(network.eval(), facts)


# -- learning ----------------------------------------------------------------------------------------


def quarter_bank(sources: Sequence[TomogramSource], blocks: int, seed: int) -> Bank:
    """Draw places and noise as the proxy does, and quarter turns."""
    bank, known = draw_bank(sources, blocks, len(sources), seed), quarter_turns()
    chosen = torch.randint(len(known), (len(bank.draw),), generator=torch.Generator().manual_seed(seed))
    return replace(bank, draw=replace(bank.draw, rotations=known[chosen]))


def kinds_of(data: Data, folder: Path, seed: int) -> dict[str, Tensor]:
    """The general restorer's output, the same changed, truth and smear; in the tomogram's units."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"restored_{seed}.mrc"
    if not output.exists():
        cryoaae.restore(**data.inputs(), output=output, symmetries=True, device="cpu")
    made = tensor(output)
    return {RESTORED: made, **changed(data, made, seed), **truth_and_smear(data)}


def _learned(condition: str, folder: Path) -> Judge:
    """Simulate the phantoms, restore them, learn on the first and check on the last."""
    started = time.process_time()
    seeds = range(FIRST_SEED, FIRST_SEED + LEARNED_ON + CHECKED_ON)
    every = [prepared(Run(condition, "judge", seed), folder / "data", odd_lines=True) for seed in seeds]
    kinds = [kinds_of(data, folder, seed) for data, seed in zip(every, seeds, strict=True)]
    tomograms = [opened(data) for data in every]
    bank, again = _banks(tomograms[:LEARNED_ON], kinds[:LEARNED_ON])
    network = learn(bank, again, tomograms[0].source.wedge.half_turns(), STEPS, FIRST_SEED)
    check = [
        Judge(network, {}).areas(tomogram, own[TRUTH], own, seed)
        for tomogram, own, seed in list(zip(tomograms, kinds, seeds, strict=True))[LEARNED_ON:]
    ]
    return Judge(network, {
        "condition": condition, "seeds": list(seeds), "steps": STEPS, "check": check,
        "cpu_seconds": round(time.process_time() - started),
    })  # fmt: skip


def _banks(tomograms: Sequence[OneTomogram], kinds: Sequence[Mapping[str, Tensor]]) -> tuple[Bank, Tensor]:
    """The truth seen again, as the bank's real patches, and at other places what is told from it."""
    sources = [tomogram.source for tomogram in tomograms]
    bank, other = (quarter_bank(sources, BLOCKS, FIRST_SEED + i) for i in (0, 1))
    microscope = Microscope([source.wedge for source in sources], patch=PATCH, block=BLOCK)

    def again_of(name: str, own: Bank) -> Tensor:
        volumes = [t.on_grid(each[name]) for t, each in zip(tomograms, kinds, strict=True)]
        return seen_again(own, volumes, microscope)

    again = [again_of(name, bank) for name in LEARNED_FROM]
    bank = replace(bank, real=again_of(TRUTH, other) + settled(other.draw.noise))
    repeated = {
        field.name: torch.cat([getattr(bank.draw, field.name)] * len(LEARNED_FROM)) for field in fields(CloudDraw)
    }
    return replace(bank, draw=CloudDraw(**repeated)), torch.cat(again)
