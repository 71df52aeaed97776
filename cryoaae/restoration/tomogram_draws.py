"""The draws of one tomogram: what they are made from, what they take, and making those that do not stand yet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text
from cryoaae.io.mrc import assert_unchanged
from cryoaae.io.project import TomogramInput, open_tomogram
from cryoaae.io.weights import digest
from cryoaae.matching.frozen import REFERENCE_FILE, load_energy
from cryoaae.patches.normalise import Normalisation
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.restoration.contrast import Transfers, transfer_facts, transfer_of
from cryoaae.restoration.draw_sources import TURNS, DrawSource, covering_axes
from cryoaae.restoration.draw_store import FARED, DrawStore
from cryoaae.restoration.draw_volumes import DrawVolumes
from cryoaae.restoration.engine import RestoreOptions, plan_restoration
from cryoaae.restoration.fitted_on import check_voxel_size
from cryoaae.restoration.found_errors import PASSES
from cryoaae.restoration.general import settled
from cryoaae.restoration.learned_draws import sampler_of
from cryoaae.restoration.plain import plain
from cryoaae.restoration.sampler_weights import fitted_weights, weights_beside
from cryoaae.restoration.samplers import SAMPLERS, sampler_named
from cryoaae.restoration.validate import REGION, THINNEST
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.runs.progress import Progress, duration
from cryoaae.runs.provenance import file_facts
from cryoaae.volume import Volume

MOST_DRAWS = 999
# Principal modes that are written where no number is given, at the most.
MODES = 4
BOOTSTRAP = "bootstrap"
# Options that are some samplers' alone, and the least box for spectra to be told in.
FURTHER, TEMPERS, LEAST_REGION = ("gamma", "temper", "region", "at", "structure", "weights"), ("data", "posterior"), 16
# Arrays on the working grid that are held at once (one of them eight times as large), and bytes a voxel of a box.
WORKING_ARRAYS, BOX_BYTES = 20, 250
# The same for each voxel of the part on which errors are found, draws in it and all.
PART_BYTES = 650
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
        One of `restoration.samplers.SAMPLERS`.
    modes : int, optional
        Principal modes to write; default: 4, or as many as there are draws.
    keep_draws : bool
        Write the draws on the tomogram's own grid.
    seed : int
        Of every random draw, together with the draw's number.
    turns : str
        Of the bootstrap: ``any``; ``quarter``: quarter turns alone, several times as fast; ``tilt-axis``: for filaments
        and membranes that all lie in one way.
    symmetries : bool
        As for `restore`, by default too: mean over the half turns that keep the wedge.
    calibrate : bool
        Bring the spread to the errors that two halves and hidden tilts show.
    contrast_transfer : ContrastTransfer or mapping, optional
        As for `restore`: undone in all that is written on the tomogram's own grid.
    gamma : float
        Temperature, of samplers that weigh or walk; at another than 1 nothing is calibrated.
    temper : {"data", "posterior"}
        What the temperature of `langevin` divides: the likelihood, or likelihood and reference.
    region : int
        Edge in working voxels of the box that `importance` and `langevin` are confined to; learned draws around it.
    at : (z, y, x), optional
        Voxel in the middle of the box; default: that of the tomogram.
    structure : path, optional
        Of `langevin`: run folder of a fit with `reference_steps`, whose discriminator joins the energy.
    weights : path, optional
        Of `learned`: the sampler's, of `cryoaae fit --posterior`; ``general``: those that come along. Default: those of
        the run that the model is from, if it has any.
    device : str
        ``auto``, ``cpu`` or ``cuda[:i]``.
    allow_scale : bool
        Accept a voxel size that differs from the one the model was fitted on.
    """

    draws: int = 16
    sampler: str = "learned"
    modes: int | None = None
    keep_draws: bool = True
    seed: int = 0
    turns: str = "any"
    symmetries: bool = RestoreOptions.symmetries
    calibrate: bool = True
    gamma: float = 1.0
    temper: str = "data"
    region: int = 48
    at: tuple[int, int, int] | None = None
    structure: Path | None = None
    weights: Path | str | None = None
    contrast_transfer: Transfers | None = None
    device: str = "auto"
    allow_scale: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.draws <= MOST_DRAWS:
            raise InputError("--draws", f"{self.draws} draws", f"give 2 to {MOST_DRAWS}")
        if not 0 <= self.mode_count <= self.draws:
            raise InputError("--modes", f"{self.modes} modes of {self.draws} draws", f"give 0 to {self.draws}")
        if self.turns not in TURNS:
            raise InputError("--turns", f"'{self.turns}' is not known", f"give {', '.join(TURNS[:-1])} or {TURNS[-1]}")
        if self.seed < 0:
            raise InputError("--seed", f"{self.seed}", "give 0 or more")
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise InputError("--gamma", f"a temperature of {self.gamma:g}", "give a number above 0")
        if self.temper not in TEMPERS:
            raise InputError("--temper", f"'{self.temper}' is not known", f"give {' or '.join(TEMPERS)}")
        if self.region < LEAST_REGION:
            raise InputError("--region", f"{self.region} working voxels", f"give {LEAST_REGION} or more")
        takes = sampler_named(self.sampler).takes
        for name in FURTHER:
            if name not in takes and getattr(self, name) != getattr(SampleOptions, name):
                able = " or ".join(known for known, made in SAMPLERS.items() if name in made.takes)
                raise InputError(f"--{name}", f"the {self.sampler} sampler has none", f"add --sampler {able}")
        if self.sampler != BOOTSTRAP and self.turns != TURNS[0]:
            raise InputError("--turns", f"the {self.sampler} sampler turns nothing", f"add --sampler {BOOTSTRAP}")

    @property
    def further(self) -> dict[str, Any]:
        """Options that this sampler takes beside seed and turns."""
        return {name: getattr(self, name) for name in sampler_named(self.sampler).takes}

    def by_run(self, model: Any) -> SampleOptions:
        """The same with the weights of a model's run, where it has some and no others were asked for."""
        found = weights_beside(model)
        if found is None or self.weights is not None or "weights" not in sampler_named(self.sampler).takes:
            return self
        return replace(self, weights=found)

    @property
    def mode_count(self) -> int:
        """Principal modes that are written."""
        return min(MODES, self.draws) if self.modes is None else self.modes

    @property
    def restoring(self) -> RestoreOptions:
        return RestoreOptions(
            symmetries=self.symmetries, device=self.device, allow_scale=self.allow_scale,
            contrast_transfer=self.contrast_transfer,
        )  # fmt: skip


def _walked_by(run: Path | None) -> str | None:
    """What a run's discriminator is known by.

    Raises
    ------
    InputError
        If it has none.
    """
    if run is None:
        return None
    load_energy(run, "reference")
    return str(file_facts(run / REFERENCE_FILE)["sha256"])


@dataclass(frozen=True)
class TomogramDraws:
    """Makes the draws of one tomogram, those that do not stand yet.

    Parameters
    ----------
    item : TomogramInput
    folder : Path
        Of the draws on the working grid.
    model : Restorer or GeneralRestorer
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
    def _opened(self) -> list[Volume]:
        return list(open_tomogram(self.item, **self.opening).volumes)

    @cached_property
    def restorer(self) -> Any:
        """The restorer of this tomogram, of its halves one by one."""
        return settled(self.model, self._opened, self.item.wedge, of_mean=False)

    @cached_property
    def volumes(self) -> list[Volume]:
        if sampler_named(self.options.sampler).needs_halves and len(self._opened) < 2:
            raise InputError(
                self.item.name, f"a single volume; the {self.options.sampler} sampler needs two halves",
                "give --even and --odd, or --sampler learned",
            )  # fmt: skip
        voxel = self._opened[0].voxel_size_angstrom
        check_voxel_size(voxel, self.restorer, self.item.name, allow_scale=self.options.allow_scale)
        return self._opened

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """All that decides the draws, wherever the inputs lie."""
        inputs = [{k: v for k, v in file_facts(path).items() if k != "path"} for path in self.item.paths]
        chosen = {name: getattr(self.options, name) for name in ("sampler", "seed", "turns", "symmetries")}
        further = {k: v for k, v in self.options.further.items() if k != "weights"}
        chosen |= {k: _walked_by(v) if k == "structure" else v for k, v in further.items()}
        fitted = fitted_weights(self.options.weights)
        chosen |= {} if fitted is None else {"weights": digest(dict(sampler_of(fitted).state_dict()))}
        made: dict[str, Any] = plain({
            "model": digest(dict(self.model.state_dict())), "options": chosen, "inputs": inputs,
            "opening": {k: v for k, v in self.opening.items() if v}, "wedge": self.item.wedge.facts(),
            **({} if self.transfer is None else {"contrast_transfer": transfer_facts(self.transfer)}),
            **sampler_named(self.options.sampler).made_from(),
        })  # fmt: skip
        return made

    @property
    def transfer(self) -> ContrastTransfer | None:
        """What is undone of this tomogram's contrast."""
        return transfer_of(self.options.contrast_transfer, self.item.name)

    @cached_property
    def store(self) -> DrawStore:
        return DrawStore(self.folder, self.made_from)

    def open_store(self, *, overwrite: bool) -> None:
        """Make the folder of the draws; with `overwrite`, draws that stand are made again."""
        self.store.open(self.working_voxel_angstrom, overwrite=overwrite)

    @property
    def working_voxel_angstrom(self) -> float:
        return self.volumes[0].voxel_size_angstrom * int(self.restorer.spec.working_bin)

    def missing(self) -> list[int]:
        """Numbers of the draws that do not stand."""
        return [n for n in range(1, self.options.draws + 1) if not self.store.path(n).exists()]

    def tomogram(self, advance: Callable[[float], None]) -> WorkingTomogram:
        options = replace(self.options.restoring, contrast_transfer=self.transfer)
        return WorkingTomogram.of(self.volumes, self.item.wedge, self.restorer, options=options, advance=advance)

    def draw(self, told: Progress) -> DrawVolumes:
        """Make the draws that are missing."""
        options, store = self.options, self.store

        def advance(voxels: float) -> None:
            told.check()
            told.advance(voxels)

        tomogram, todo = self.tomogram(advance), self.missing()
        work = math.prod(tomogram.shape) + sum(self._boxes(tomogram)) * len(todo)
        told.start(f"sampling {self.item.name}", float(len(tomogram.halves) * work), "voxels")
        estimate = store.estimate(lambda: tomogram.restore(tomogram.halves))
        volumes = DrawVolumes(tomogram, estimate, self.volumes[0], store, told.check)
        sampler = sampler_named(options.sampler)
        if todo:
            source = sampler(tomogram, estimate, seed=options.seed, turns=options.turns, **options.further)
            for number in todo:
                store.write(number, source.deviation(number))
                told.check()
            self._note(source)
        for volume in self.volumes:
            assert_unchanged(volume)
        return volumes

    def _note(self, source: DrawSource) -> None:
        """Keep what a sampler says of how it fared."""
        if hasattr(source, "facts"):
            write_text(self.folder / FARED, json.dumps(plain(source.facts())) + "\n")

    @property
    def fared(self) -> dict[str, Any] | None:
        """What the sampler said; None of those that say nothing."""
        path = self.folder / FARED
        return dict(json.loads(path.read_text())) if path.exists() else None

    def _boxes(self, tomogram: WorkingTomogram) -> list[int]:
        """Working voxels of the boxes of a draw; all draws take about as many as the first."""
        sampler = sampler_named(self.options.sampler)
        further = self.options.further
        return sampler.work(tomogram, 1, seed=self.options.seed, turns=self.options.turns, **further)

    @cached_property
    def blank(self) -> WorkingTomogram:
        """The tomogram's geometry, with blank inputs."""
        options = self.options
        plan = plan_restoration(self.volumes[0].shape, self.restorer, options.restoring)
        turns = self.item.wedge.half_turns() if options.symmetries else ((),)
        edge = math.ceil(TIMED / plan.grid.multiple) * plan.grid.multiple
        nothing = [torch.zeros(edge, edge, edge) for _ in self.volumes]
        unit, voxel = Normalisation(0.0, 1.0), self.working_voxel_angstrom
        return WorkingTomogram(nothing, self.item.wedge, self.restorer, plan, unit, voxel, turns=turns)

    @property
    def not_calibrated_because(self) -> str | None:
        """Why the spread is not to be calibrated, in words; None where it is, as far as the inputs tell."""
        if not self.options.calibrate:
            return "it was not asked for"
        if self.options.gamma != 1:
            return f"the temperature is {self.options.gamma:g}; only that of 1 means a law of errors"
        if len(self.volumes) < 2:
            return "a single volume has no second half that its errors could be found from"
        if min(self.volumes[0].shape) // int(self.restorer.spec.working_bin) < THINNEST:
            return "the tomogram is too thin for anything to be found away from its faces"
        return None

    @property
    def part_voxels(self) -> int:
        """Working voxels of the part on which errors are found, as continued as the whole; 0 if none are looked for."""
        if self.not_calibrated_because is not None:
            return 0
        frame = self.blank.plan.frame
        sizes = (axis.size for axis in covering_axes(frame))
        beyond = (n - size for n, size in zip(frame.working_zyx, sizes, strict=True))
        return math.prod(min(axis.size, REGION) + b for axis, b in zip(covering_axes(frame), beyond, strict=True))

    def bytes_needed(self, files: int) -> tuple[float, float]:
        """Memory and disk, with so many volumes of the tomogram's size to be written."""
        plan, shape = self.blank.plan, self.volumes[0].shape
        working = math.prod(plan.frame.working_zyx)
        memory = plan.memory_bytes + 4 * (WORKING_ARRAYS + plan.frame.working_bin) * working
        cover = math.prod(axis.size for axis in covering_axes(plan.frame))
        kept = 2 if self.part_voxels else 1  # as drawn, and calibrated
        memory += PART_BYTES * self.part_voxels
        disk = 4 * (kept * self.options.draws * cover + working + (files + 2) * math.prod(shape)) + plan.disk_bytes
        return memory + BOX_BYTES * max(self._boxes(self.blank)), disk

    def cost(self, files: int) -> str:
        """Time, by a pass of the network timed now, memory and disk, in words."""
        self.blank.restore(self.blank.halves)  # the first pass of a process is slower
        started = time.perf_counter()
        self.blank.restore(self.blank.halves)
        pace = (time.perf_counter() - started) / self.blank.halves[0].numel()
        working, boxes = math.prod(self.blank.plan.frame.working_zyx), sum(self._boxes(self.blank))
        voxels = 2 * working + len(self.missing()) * boxes + PASSES // 2 * self.part_voxels
        seconds = BESIDES_NETWORK * pace * voxels
        memory, disk = self.bytes_needed(files)
        return f"about {duration(seconds)}, {memory / 1e9:.1f} GB of memory and {disk / 1e9:.2f} GB of disk"
