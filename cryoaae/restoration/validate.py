"""Validate: what of a restoration can be trusted, measured on the user's own data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import make_folder, write_bytes, write_text
from cryoaae.io.project import TomogramInput, open_tomogram
from cryoaae.io.weights import digest
from cryoaae.models.general import GeneralRestorer, load_any
from cryoaae.models.restorer import Restorer
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.batch import each_tomogram
from cryoaae.restoration.checks import Checked, Checks
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.fitted_on import check_voxel_size, resolve_with_model
from cryoaae.restoration.general import settled
from cryoaae.restoration.plain import plain
from cryoaae.restoration.working import FACE_VOXELS, WorkingTomogram, normalisation_of
from cryoaae.runs.progress import NullProgress, Progress, duration
from cryoaae.runs.provenance import file_facts, same_files
from cryoaae.runs.resources import set_threads
from cryoaae.volume import Volume

# A part of at most this many working voxels an axis is checked: more of it would only narrow intervals.
REGION = 96
# Turns of the tomogram, in multiples of the width of the narrowest hidden sector.
TURNS = (1, 2, 3)
PASSES_FIRST, PASSES_STRIP, PASSES_A_TURN = 6, 2, 12
PASSES_SINGLE, PASSES_A_TURN_SINGLE = 2, 4
# Working voxels an axis must have for anything to be left between its faces.
THINNEST = 2 * FACE_VOXELS + 8


@dataclass(frozen=True)
class ValidateOptions:
    """How to validate.

    Parameters
    ----------
    hold_out_deg : float
        Width of the narrowest sector of tilts that is hidden; twice and three times as much too.
    seed : int
        Of every random draw.
    device : str
        ``auto``, ``cpu`` or ``cuda[:i]``.
    allow_scale : bool
        Accept a voxel size that differs from the one the model was fitted on.
    """

    hold_out_deg: float = 15.0
    seed: int = 0
    device: str = "auto"
    allow_scale: bool = False

    def __post_init__(self) -> None:
        if not 5 <= self.hold_out_deg <= 30:
            raise InputError("--hold-out-deg", f"{self.hold_out_deg:g} degrees", "give 5 to 30")

    @property
    def turns_deg(self) -> list[float]:
        return [self.hold_out_deg * n for n in TURNS]


def validate(
    inputs: Sequence[Path | str | TomogramInput] | Path | str | TomogramInput = (),
    output: Path | str = "",
    *,
    model: Restorer | GeneralRestorer | Path | str | None = None,
    even: Sequence[Path | str] | Path | str = (),
    odd: Sequence[Path | str] | Path | str = (),
    tilts: Sequence[Path | str] | Path | str | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: str | float = "y",
    flip_tilts: bool = False,
    voxel_size_angstrom: float | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    options: ValidateOptions | None = None,
    opening: dict[str, Any] | None = None,
    **keywords: Any,
) -> list[dict[str, Any]]:
    """Check on the user's own data what of a restoration can be trusted; write report.html and report.json.

    A report that stands already, of the same data, model and options, is left as it is.

    Parameters
    ----------
    inputs : paths or TomogramInput
        Single volumes, or inputs resolved already; or give `even` and `odd`.
    output : path
        Folder to write to; with several tomograms one folder in it for each.
    model : Restorer, GeneralRestorer or path, optional
        A fitted restorer, its weights, or its run folder. Default: the general restorer that comes with the package.
    even, odd, tilts, tilt_range, tilt_axis, flip_tilts
        As on the command line; see `io.project.resolve_inputs`.
    voxel_size_angstrom : float, optional
        Overrules the files' headers.
    threads : int, optional
    overwrite : bool
        Replace an existing report.
    progress : Progress, optional
    options : ValidateOptions, optional
    opening : dict, optional
        Further keywords of `io.project.open_tomogram`.
    **keywords
        Fields of `ValidateOptions`.

    Returns
    -------
    list of dict
        What each report.json holds: "verdict" (trusted, caution, do not use) and "reasons" first.

    Raises
    ------
    InputError
        Before any work, when an input or the output folder is wrong.
    ItemsFailedError
        When some of several tomograms failed; the others have their reports.
    InterruptedRunError
    """
    chosen = replace(options or ValidateOptions(), **keywords)
    set_threads(threads)
    told = progress or NullProgress()
    planned = _plan(
        inputs, Path(output), model, chosen, overwrite=overwrite,
        opening={"voxel_size_angstrom": voxel_size_angstrom, **(opening or {})},
        geometry={
            "even": even, "odd": odd, "tilts": tilts, "tilt_range": tilt_range, "tilt_axis": tilt_axis,
            "flip_tilts": flip_tilts,
        },
    )  # fmt: skip
    for work in planned:
        make_folder(work.folder)
    return each_tomogram(planned, lambda work: work.done or work.finish(told), lambda work: work.name, told)


def plan_validation(
    inputs: Sequence[Path | str | TomogramInput] | Path | str | TomogramInput = (),
    output: Path | str = "",
    *,
    model: Restorer | GeneralRestorer | Path | str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    options: ValidateOptions | None = None,
    opening: dict[str, Any] | None = None,
    **geometry: Any,
) -> list[str]:
    """Check everything `validate` would, and say what it would do and how long it takes; writes nothing.

    Raises
    ------
    InputError
    """
    set_threads(threads)
    work = _plan(
        inputs, Path(output), model, options or ValidateOptions(), overwrite=overwrite, opening=opening or {},
        geometry=geometry,
    )  # fmt: skip
    return [item.describe() for item in work]


@dataclass(frozen=True)
class _Work:
    """One tomogram to validate."""

    name: str
    folder: Path
    volumes: list[Volume]
    wedge: MissingWedge
    model: Restorer
    model_name: str
    options: ValidateOptions
    made_from: dict[str, Any]
    done: dict[str, Any] | None

    @cached_property
    def region(self) -> tuple[slice, slice, slice]:
        """The part that is checked: around the first box kept out of fitting, in tomogram voxels."""
        bin_ = int(self.model.spec.working_bin)
        edge = REGION * bin_
        boxes = self.kept_out_boxes
        slices = []
        for axis, n in enumerate(self.volumes[0].shape):
            middle = (boxes[0][0][axis] + boxes[0][1][axis]) * bin_ // 2 if boxes else n // 2
            start = min(max(0, middle - edge // 2), max(0, n - edge)) // bin_ * bin_
            slices.append(slice(start, min(n, start + edge)))
        z, y, x = slices
        return z, y, x

    @cached_property
    def known(self) -> dict[str, Any] | None:
        """What the model says of this tomogram, if it was fitted on it."""
        digests = {volume.digest() for volume in self.volumes}
        entries = (t for t in self.model.spec.tomograms if digests & set(t["digests"]))
        return next(entries, None)

    @property
    def kept_out_boxes(self) -> list[Any]:
        """Boxes kept out of fitting, working voxels of the whole tomogram."""
        return list((self.known or {}).get("held_out_boxes", []))

    @property
    def fitted_wedge(self) -> MissingWedge | None:
        """What fitting was shown of this tomogram, if tilts were hidden from it."""
        shown = (self.known or {}).get("fitted_range_deg")
        if shown is None:
            return None
        low, high = self.wedge.tilt_range_deg
        fitted = max(low, shown[0]), min(high, shown[1])
        return self.wedge.narrowed(fitted) if fitted[0] < fitted[1] and fitted != (low, high) else None

    @property
    def passes(self) -> int:
        if len(self.volumes) < 2:
            return PASSES_SINGLE + PASSES_A_TURN_SINGLE * len(self.options.turns_deg)
        strip = 0 if self.fitted_wedge is None else PASSES_STRIP
        return PASSES_FIRST + strip + PASSES_A_TURN * len(self.options.turns_deg)

    def tomogram(self, advance: Callable[[float], None] = lambda _: None) -> WorkingTomogram:
        """The checked part on the working grid."""
        cut = [volume.cut(*self.region) for volume in self.volumes]
        return WorkingTomogram.of(
            cut, self.wedge, self.model, options=RestoreOptions(device=self.options.device),
            normalisation=normalisation_of(self.volumes, self.model), advance=advance,
        )  # fmt: skip

    def describe(self) -> str:
        """What would be done, and how long it takes by a pass timed now."""
        if self.done is not None:
            return f"{self.name}: done already -> {self.folder}"
        tomogram = self.tomogram()
        started = time.perf_counter()
        tomogram.restore(tomogram.halves[:1])
        seconds = self.passes * (time.perf_counter() - started)
        size = " x ".join(str(s.stop - s.start) for s in self.region)
        turns = ", ".join(f"{turn:g}" for turn in self.options.turns_deg)
        what = "a single volume: bounds only; " if len(self.volumes) < 2 else ""
        return (
            f"{self.name}: {what}{size} voxels (z, y, x) restored {self.passes} times, tilts hidden by turns of "
            f"{turns} degrees both ways, null tests; about {duration(1.5 * seconds)} -> {self.folder}"
        )

    def finish(self, told: Progress) -> dict[str, Any]:
        """Do every check and write the report; return what it holds."""
        result, panels = self._checked(told)
        _write(result, panels, self.folder)
        return result

    def _checked(self, told: Progress) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Every check's result, and the volumes to be drawn."""
        started = time.perf_counter()
        told.start(f"validating {self.name}", 1.0, "checks")
        done = 0.0

        def advance(voxels: float) -> None:
            nonlocal done
            told.check()
            share = voxels / (self.passes * math.prod(tomogram.shape))
            told.advance(min(share, 1 - done))
            done = min(1.0, done + share)

        tomogram = self.tomogram(advance)
        checked = Checked(
            self.name, self.model_name, self.volumes, self.region, self.kept_out_boxes, self.known is not None,
            self.fitted_wedge,
        )  # fmt: skip
        result, panels = Checks(checked, tomogram, self.options.turns_deg, seed=self.options.seed).run()
        told.finish()
        seconds = round(time.perf_counter() - started, 1)
        return {**result, "seconds": seconds, "made_from": self.made_from}, panels


def _plan(
    inputs: Any,
    output: Path,
    model: Any,
    options: ValidateOptions,
    *,
    overwrite: bool,
    opening: dict[str, Any],
    geometry: dict[str, Any],
) -> list[_Work]:
    restorer = load_any(model) if model is None or isinstance(model, str | Path) else model
    items = resolve_with_model(inputs, restorer, geometry, opening)
    weights, work = digest(dict(restorer.state_dict())), []
    for item in items:
        folder = output if len(items) == 1 else output / item.name
        made_from = {
            "model": weights, "options": {"hold_out_deg": options.hold_out_deg, "seed": options.seed},
            "opening": {k: v for k, v in opening.items() if v}, "wedge": item.wedge.facts(),
        }  # fmt: skip
        done = None if overwrite else _result_if_done(folder, item.paths, made_from)
        if done is None and (folder / "report.json").exists() and not overwrite:
            raise InputError(
                folder, "holds a report of other data, another model or options", "give another folder, or --overwrite"
            )
        if folder.exists() and not folder.is_dir():
            raise InputError(folder, "is a file", "give a folder")
        opened = open_tomogram(item, **opening)
        volumes = list(opened.volumes)
        own = settled(restorer, volumes, item.wedge, of_mean=False)
        check_voxel_size(volumes[0].voxel_size_angstrom, own, item.name, allow_scale=options.allow_scale)
        thin = min(volumes[0].shape) // int(own.spec.working_bin)
        if thin < THINNEST:
            raise InputError(
                item.name, f"only {thin} working voxels thick: nothing can be checked away from its faces",
                f"{THINNEST} are needed",
            )  # fmt: skip
        name = str(model) if isinstance(model, str | Path) else "the general restorer" if model is None else "model"
        inputs_facts = {"inputs": [file_facts(path) for path in item.paths]}
        work.append(
            _Work(
                item.name, folder, volumes, item.wedge, own, name, options, {**made_from, **inputs_facts}, done
            )
        )  # fmt: skip
    return work


def _result_if_done(folder: Path, inputs: Sequence[Path], made_from: dict[str, Any]) -> dict[str, Any] | None:
    """What a report holds that was made from the same."""
    try:
        found = json.loads((folder / "report.json").read_text())
        made = dict(found["made_from"])
        same = same_files(made.pop("inputs"), inputs) and made == plain(made_from)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same else None


def _write(result: dict[str, Any], panels: list[tuple[str, Any]], folder: Path) -> None:
    from cryoaae.reports.validation_figures import validation_figures
    from cryoaae.reports.validation_page import validation_report

    figures = validation_figures(result, panels)
    (folder / "report.json").unlink(missing_ok=True)  # it comes last: with it the report is whole
    for name, data in figures.items():
        write_bytes(folder / f"{name}.png", data)
    write_text(folder / "report.html", validation_report(result, figures).render())
    write_text(folder / "report.json", json.dumps(result, indent=1) + "\n")
