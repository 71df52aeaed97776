"""The draws of one tomogram: what they are made from, what they take, and making those that do not stand yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError
from cryoaae.io.mrc import assert_unchanged
from cryoaae.io.project import TomogramInput, open_tomogram
from cryoaae.io.weights import digest
from cryoaae.patches.normalise import Normalisation
from cryoaae.restoration.draw_sources import TURNS, covering_axes, sampler_named
from cryoaae.restoration.draw_store import DrawStore
from cryoaae.restoration.draw_volumes import DrawVolumes
from cryoaae.restoration.engine import RestoreOptions, plan_restoration
from cryoaae.restoration.fitted_on import check_voxel_size
from cryoaae.restoration.plain import plain
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.runs.progress import Progress, duration
from cryoaae.runs.provenance import file_facts
from cryoaae.volume import Volume

MOST_DRAWS = 999
# Arrays on the working grid that are held at once (one of them eight times as large), and bytes a voxel of a box.
WORKING_ARRAYS, BOX_BYTES = 20, 250
# Least edge of the box that a dry run times, working voxels; turning and filtering come on top of the network.
TIMED, BESIDES_NETWORK = 48, 1.3


@dataclass(frozen=True)
class SampleOptions:
    """How to sample.

    Parameters
    ----------
    draws : int
        How many; more draws later go on from those that stand.
    sampler : str
        One of `restoration.draw_sources.SAMPLERS`.
    modes : int
        Principal modes to write.
    keep_draws : bool
        Write the draws on the tomogram's own grid.
    seed : int
        Of every random draw, together with the draw's number.
    turns : str
        ``any``, or ``tilt-axis``: for filaments and membranes that all lie in one way.
    symmetries : bool
        As for `restore`, by default too: mean over the half turns that keep the wedge.
    device : str
        ``auto``, ``cpu`` or ``cuda[:i]``.
    allow_scale : bool
        Accept a voxel size that differs from the one the model was fitted on.
    """

    draws: int = 16
    sampler: str = "bootstrap"
    modes: int = 4
    keep_draws: bool = True
    seed: int = 0
    turns: str = "any"
    symmetries: bool = RestoreOptions.symmetries
    device: str = "auto"
    allow_scale: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.draws <= MOST_DRAWS:
            raise InputError("--draws", f"{self.draws} draws", f"give 2 to {MOST_DRAWS}")
        if not 0 <= self.modes <= self.draws:
            raise InputError("--modes", f"{self.modes} modes of {self.draws} draws", f"give 0 to {self.draws}")
        if self.turns not in TURNS:
            raise InputError("--turns", f"'{self.turns}' is not known", f"give {' or '.join(TURNS)}")
        if self.seed < 0:
            raise InputError("--seed", f"{self.seed}", "give 0 or more")
        sampler_named(self.sampler)

    @property
    def restoring(self) -> RestoreOptions:
        return RestoreOptions(symmetries=self.symmetries, device=self.device, allow_scale=self.allow_scale)


@dataclass(frozen=True)
class TomogramDraws:
    """Makes the draws of one tomogram, those that do not stand yet.

    Parameters
    ----------
    item : TomogramInput
    folder : Path
        Of the draws on the working grid.
    model : Restorer
    options : SampleOptions
    opening : dict
        Keywords of `io.project.open_tomogram`.
    """

    item: TomogramInput
    folder: Path
    model: Any
    options: SampleOptions
    opening: dict[str, Any]

    @cached_property
    def volumes(self) -> list[Volume]:
        opened = list(open_tomogram(self.item, **self.opening).volumes)
        check_voxel_size(
            opened[0].voxel_size_angstrom, self.model, self.item.name, allow_scale=self.options.allow_scale
        )
        return opened

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """All that decides the draws, wherever the inputs lie."""
        inputs = [{k: v for k, v in file_facts(path).items() if k != "path"} for path in self.item.paths]
        chosen = {name: getattr(self.options, name) for name in ("sampler", "seed", "turns", "symmetries")}
        made: dict[str, Any] = plain({
            "model": digest(dict(self.model.state_dict())), "options": chosen, "inputs": inputs,
            "opening": {k: v for k, v in self.opening.items() if v}, "wedge": self.item.wedge.facts(),
        })  # fmt: skip
        return made

    @cached_property
    def store(self) -> DrawStore:
        return DrawStore(self.folder, self.made_from)

    def open_store(self, *, overwrite: bool) -> None:
        """Make the folder of the draws; with `overwrite`, draws that stand are made again."""
        self.store.open(self.working_voxel_angstrom, overwrite=overwrite)

    @property
    def working_voxel_angstrom(self) -> float:
        return self.volumes[0].voxel_size_angstrom * int(self.model.spec.working_bin)

    def missing(self) -> list[int]:
        """Numbers of the draws that do not stand."""
        return [n for n in range(1, self.options.draws + 1) if not self.store.path(n).exists()]

    def tomogram(self, advance: Callable[[int], None]) -> WorkingTomogram:
        return WorkingTomogram.of(
            self.volumes, self.item.wedge, self.model, options=self.options.restoring, advance=advance
        )

    def draw(self, told: Progress, *, each: Callable[[int, DrawVolumes], None]) -> DrawVolumes:
        """Make the draws that are missing; `each` is called with every number once its draw stands."""
        options, store = self.options, self.store

        def advance(voxels: int) -> None:
            told.check()
            told.advance(float(voxels))

        tomogram, todo = self.tomogram(advance), self.missing()
        work = math.prod(tomogram.shape) + sum(self._boxes(tomogram)) * len(todo)
        told.start(f"sampling {self.item.name}", float(len(tomogram.halves) * work), "voxels")
        estimate = store.estimate(lambda: tomogram.restore(tomogram.halves))
        volumes = DrawVolumes(tomogram, estimate, self.volumes[0], store, told.check)
        sampler = sampler_named(options.sampler)
        source = sampler(tomogram, estimate, seed=options.seed, turns=options.turns) if todo else None
        for number in range(1, options.draws + 1):
            if source is not None and number in todo:
                store.write(number, source.deviation(number))
            told.check()
            each(number, volumes)
        for volume in self.volumes:
            assert_unchanged(volume)
        return volumes

    def _boxes(self, tomogram: WorkingTomogram) -> list[int]:
        """Working voxels of the boxes of a draw; all draws take about as many as the first."""
        sampler = sampler_named(self.options.sampler)
        return sampler.work(tomogram, 1, seed=self.options.seed, turns=self.options.turns)

    @cached_property
    def blank(self) -> WorkingTomogram:
        """The tomogram's geometry, with blank inputs."""
        options = self.options
        plan = plan_restoration(self.volumes[0].shape, self.model, options.restoring)
        turns = self.item.wedge.half_turns() if options.symmetries else ((),)
        edge = math.ceil(TIMED / plan.grid.multiple) * plan.grid.multiple
        nothing = [torch.zeros(edge, edge, edge) for _ in self.volumes]
        unit, voxel = Normalisation(0.0, 1.0), self.working_voxel_angstrom
        return WorkingTomogram(nothing, self.item.wedge, self.model, plan, unit, voxel, turns=turns)

    def bytes_needed(self, files: int) -> tuple[float, float]:
        """Memory and disk, with so many volumes of the tomogram's size to be written."""
        plan, shape = self.blank.plan, self.volumes[0].shape
        working = math.prod(plan.frame.working_zyx)
        memory = plan.memory_bytes + 4 * (WORKING_ARRAYS + plan.frame.working_bin) * working
        cover = math.prod(axis.size for axis in covering_axes(plan.frame))
        disk = 4 * (self.options.draws * cover + working + (files + 2) * math.prod(shape)) + plan.disk_bytes
        return memory + BOX_BYTES * max(self._boxes(self.blank)), disk

    def cost(self, files: int) -> str:
        """Time, by a pass of the network timed now, memory and disk, in words."""
        self.blank.restore(self.blank.halves)  # the first pass of a process is slower
        started = time.perf_counter()
        self.blank.restore(self.blank.halves)
        pace = (time.perf_counter() - started) / self.blank.halves[0].numel()
        working, boxes = math.prod(self.blank.plan.frame.working_zyx), sum(self._boxes(self.blank))
        seconds = BESIDES_NETWORK * pace * (2 * working + len(self.missing()) * boxes)
        memory, disk = self.bytes_needed(files)
        return f"about {duration(seconds)}, {memory / 1e9:.1f} GB of memory and {disk / 1e9:.2f} GB of disk"
