"""Draws by Langevin walks on the posterior of a box of the tomogram (CryoWGEN-II).

    E(x) = c(x, y) / gamma + |x|^2_{1/S} / 2 - log ratio(x),      y the mean of the halves,  c = |M (x - y)|^2_{1/N} / 2

S, the power that the halves share, is the Gaussian reference: without it nothing bounds the wedge. The ratio is
optional: that of a discriminator which learned against the reference (`matching.structure_energy`), its turns and
noise frozen for each chain. Without it the law is the Gaussian posterior exactly: a Wiener filter's estimate and its
error, and in the wedge nothing but the reference. It knows less than the restoration does, and shows what likelihood
and spectrum alone leave open. What is slower than `SLOWEST` stays as the restoration has it.

Four chains start at draws of the learned sampler, their spread inflated 1.5 times. Draw k is chain k - 1 modulo 4 after
one more stretch of steps for every four draws: it depends on its number alone. The chains' steps are one field of noise
on the whole box, so there are no seams.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.matching.frozen import load_energy
from cryoaae.matching.reference import ReferenceReferee
from cryoaae.matching.structure import Clouds, Microscope
from cryoaae.matching.structure_energy import StructureEnergy, frozen_draws
from cryoaae.metrics.spread_factors import LEVEL
from cryoaae.models.restorer import Restorer
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.restoration.draw_sources import covering, covering_axes, generator_of
from cryoaae.restoration.half_likelihood import HalfLikelihood
from cryoaae.restoration.held_out import SHELL_EDGES, SHELLS, sums_by_shell
from cryoaae.restoration.learned_draws import WORK_SHARE, Learned
from cryoaae.restoration.null_tests import regions
from cryoaae.restoration.sampled_region import SampledRegion, box_voxels
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.sampling.diagnostics import FEWEST_DRAWS, diagnose
from cryoaae.sampling.langevin import LangevinRun, Temper, WedgePosterior, walk
from cryoaae.volume import Volume

CHAINS, BURN_IN, STRETCH = 4, 100, 25
# Starts are farther apart than draws, or agreement of the chains would mean nothing.
INFLATED = 1.5
# What the generator of the walk is for, besides the seed.
WALK, FROZEN = 8, 9
# What a step of one chain takes beside a restoration of one input, without and with a discriminator.
STEP_SHARE, JUDGED_SHARE = 0.02, 0.4
# Below this, cycles a working voxel, neither calibration nor scores look: a box knows little of what is as slow as it.
SLOWEST = SHELL_EDGES[0]
# A discriminator knows structures at its own scale.
SAME_VOXEL = 0.05
# Frozen turns of a chain at each place.
TURNS = 4


def posterior_of(
    tomogram: WorkingTomogram,
    *,
    gamma: float = 1.0,
    temper: Temper = "data",
    structure: StructureEnergy | None = None,
) -> WedgePosterior:
    """The posterior of a tomogram given the mean of its halves, on its continued working grid.

    With a structure energy the reference is the one that its discriminator learned against.
    """
    likelihood = HalfLikelihood.of(tomogram)
    mean = torch.stack(tomogram.halves).mean(dim=0)
    reference = likelihood.signal
    if structure is not None:
        reference = structure.judge.reference_power(tomogram.shape).float()
    reference = torch.where(radius(tomogram.shape) >= SLOWEST, reference, 0.0)
    return WedgePosterior(
        mean, likelihood.support, likelihood.noise / 2, reference, further=structure, gamma=gamma, temper=temper
    )


def structure_of(run: Path, tomogram: WorkingTomogram, *, chains: int, generator: torch.Generator) -> StructureEnergy:
    """The energy of a run's discriminator, at places a patch apart, with turns and noise of each chain.

    Raises
    ------
    InputError
        If the run has none, or its working grid is another.
    """
    judge, spec = load_energy(run, "reference")
    fitted = Restorer.load(run).spec
    voxel = float(fitted.working_bin * fitted.voxel_size_angstrom)
    if not math.isclose(voxel, tomogram.voxel_size_angstrom, rel_tol=SAME_VOXEL):
        raise InputError(
            run, f"works on voxels of {voxel:.4g} A, the tomogram on {tomogram.voxel_size_angstrom:.4g} A",
            "sample with the model of that run",
        )  # fmt: skip
    patch, block = int(spec["patch"]), int(spec["block"])
    return structure_by(judge, tomogram, patch=patch, block=block, chains=chains, generator=generator)


def structure_by(
    judge: ReferenceReferee, tomogram: WorkingTomogram, *, patch: int, block: int, chains: int,
    generator: torch.Generator,
) -> StructureEnergy:  # fmt: skip
    """The same of a discriminator at hand, for patches and blocks of so many working voxels."""
    part, device = covering(tomogram.plan.frame), tomogram.plan.device
    halves = [Volume(half[part].contiguous().numpy(), tomogram.voxel_size_angstrom) for half in tomogram.halves]
    source = prepare_source(
        "box", halves, tomogram.wedge, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3),
        noise=torch.ones(1),
    )  # fmt: skip
    clouds = Clouds([source], patch=patch, block=block, generator=generator, device=device)
    # A box lies within its continued grid.
    draws = frozen_draws(clouds, chains=chains, turns=TURNS, corner_zyx=[s.start for s in part])
    microscope = Microscope([tomogram.wedge], patch=patch, block=block, device=device)
    voxels = math.prod(s.stop - s.start for s in part)
    return StructureEnergy(judge.to(device), microscope, draws, voxels=voxels)


class Langevin:
    """Deviations by Metropolis-corrected Langevin walks; see the module."""

    knows_places: ClassVar[bool] = True
    wedge_within: ClassVar[float] = LEVEL
    centred: ClassVar[bool] = False
    needs_halves: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("gamma", "temper", "region", "at", "structure")

    def __init__(
        self,
        tomogram: WorkingTomogram,
        estimate: Tensor,
        *,
        seed: int,
        turns: str,
        gamma: float = 1.0,
        temper: Temper = "data",
        region: int = 48,
        at: tuple[int, int, int] | None = None,
        structure: Path | str | None = None,
    ) -> None:
        self.tomogram, self.seed = tomogram, seed
        self.region = SampledRegion.about(tomogram, region, at)
        self.inner = self.region.cut(tomogram)
        self.part = covering(self.inner.plan.frame)
        axes, box = covering_axes(self.inner.plan.frame), self.region.box
        self.estimate = continued(estimate[covering(tomogram.plan.frame)][box].contiguous(), axes)
        self.around = Learned(tomogram, estimate, seed=seed, turns=turns)
        energy = None
        if structure is not None:
            generator = generator_of(seed, 0, FROZEN)
            energy = structure_of(Path(structure), self.inner, chains=CHAINS, generator=generator)
        device = tomogram.plan.device
        made = posterior_of(self.inner, gamma=gamma, temper=temper, structure=energy)
        self.posterior = _moved_to(made, device)
        self._cells = [mask.to(device) for mask in regions(self.inner).values()]
        self.run: LangevinRun | None = None
        self.records: list[Tensor] = []
        self.generator = generator_of(seed, 0, WALK)

    def deviation(self, number: int) -> Tensor:
        """Draw `number` (from 1) less the estimate, (z, y, x): working voxels in the tomogram."""
        stretch, chain = divmod(number - 1, CHAINS)
        if stretch + 1 < len(self.records):  # walked on already: again from the start
            self.run, self.records, self.generator = None, [], generator_of(self.seed, 0, WALK)
        while len(self.records) <= stretch:
            self._walk()
        assert self.run is not None
        spectrum = rfft(self.run.last[chain].cpu() - self.estimate) * (radius(self.inner.shape) >= SLOWEST)
        inner = irfft(spectrum, self.inner.shape)[self.part]
        if self.region.whole:
            return inner
        return self.region.faded(inner, self.around.deviation(number))

    def facts(self) -> dict[str, Any]:
        """Acceptance, step, R-hat and effective sample size per (shell, region); plain data."""
        assert self.run is not None
        made: dict[str, Any] = {
            "chains": CHAINS, "burn_in": BURN_IN, "steps": STRETCH * len(self.records), "step": self.run.step,
            "acceptance": self.run.acceptance, "gamma": self.posterior.gamma, "temper": self.posterior.temper,
            "region_zyx": [[s.start, s.stop] for s in self.region.box],
            "structure_energy": self.posterior.further is not None,
        }  # fmt: skip
        records = torch.cat(self.records, dim=1)
        if records.shape[1] < FEWEST_DRAWS:
            return {**made, "message": "too few steps for chains to be compared"}
        names = [f"{region}, shell {shell + 1}" for region in regions(self.inner) for shell in range(SHELLS)]
        moving = records.std(dim=(0, 1)) > 0  # a shell that holds nothing cannot be judged
        told = [name for name, kept in zip(names, moving.tolist(), strict=True) if kept]
        found = diagnose(records[..., moving.cpu()], told)
        cells = [
            {"cell": name, "rhat": round(float(r), 4), "ess": round(float(e), 1)}
            for name, r, e in zip(found.names, found.rhat, found.ess, strict=True)
        ]
        return {**made, "converged": found.converged, "cells": cells, "message": found.message}

    @staticmethod
    def work(
        tomogram: WorkingTomogram, number: int, *, seed: int, turns: str, region: int = 48,
        structure: Path | None = None, **_: Any,
    ) -> list[int]:  # fmt: skip
        """Working voxels that take as long to restore as a draw does, with its share of 16 of the burn-in."""
        whole, box = math.prod(tomogram.plan.frame.working_zyx), box_voxels(tomogram, region)
        steps = CHAINS * BURN_IN / 16 + STRETCH
        return [round(WORK_SHARE * whole + (STEP_SHARE if structure is None else JUDGED_SHARE) * steps * box)]

    @staticmethod
    def made_from() -> dict[str, str]:
        return Learned.made_from()

    # -- the walk ----------------------------------------------------------------------------------

    def _starts(self) -> Tensor:
        """Draws of the learned sampler, inflated, on the box's continued grid, (chains, z, y, x)."""
        axes, box = covering_axes(self.inner.plan.frame), self.region.box
        draws = (self.around.deviation(chain + 1)[box].contiguous() for chain in range(CHAINS))
        starts = [self.estimate + INFLATED * continued(draw, axes) for draw in draws]
        return torch.stack(starts).to(self.tomogram.plan.device)

    def _walk(self) -> None:
        """One stretch more, after the burn-in."""
        first = self.run is None
        start = self._starts() if self.run is None else self.run.last
        self.run = walk(
            self.posterior, start, burn_in=BURN_IN if first else 0, steps=STRETCH,
            step=None if self.run is None else self.run.step, generator=self.generator,
            functionals=self._powers, scheme="exact",
        )  # fmt: skip
        self.records.append(self.run.records.cpu())
        self.inner.advance(float(self.inner.halves[0].numel()))

    def _powers(self, volumes: Tensor) -> Tensor:
        """Logarithm of the power by region and shell, (chains, f)."""
        shape = self.inner.shape
        rows = []
        for volume in volumes:
            power = rfft(volume).abs().square() * multiplicity(shape, device=volume.device)
            rows.append(torch.cat([sums_by_shell(power, mask, shape) for mask in self._cells]))
        return torch.stack(rows).clamp(min=torch.finfo(torch.float64).tiny).log()


def _moved_to(posterior: WedgePosterior, device: torch.device) -> WedgePosterior:
    names = ("measured", "support", "noise_power", "reference_power")
    return replace(posterior, **{name: getattr(posterior, name).to(device) for name in names})
