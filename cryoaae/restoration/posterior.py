"""Sample: draws of what a tomogram may look like, about its restoration, and their spread.

    x_k = mean + d_k,      mean: what `restore` writes,      d_k: a sampler's deviation (restoration.draw_sources)

Draws are made one after the other and kept on the working grid (restoration.draw_store), their spread is brought to
the errors that the tomogram shows (restoration.calibrated_draws), and spread and modes are made from the files. What
is finer than the working grid is the same in all draws: nothing is said of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output, make_folder, write_text
from cryoaae.io.mrc import open_volume
from cryoaae.io.project import TomogramInput
from cryoaae.models.general import GeneralRestorer, load_any
from cryoaae.models.restorer import Restorer
from cryoaae.restoration.batch import each_tomogram
from cryoaae.restoration.calibrated_draws import calibrate
from cryoaae.restoration.done import record_path
from cryoaae.restoration.draw_store import principal_modes, weighted_sum
from cryoaae.restoration.draw_volumes import DrawVolumes
from cryoaae.restoration.fitted_on import resolve_with_model
from cryoaae.restoration.plain import plain
from cryoaae.restoration.recalibration import FORMAT as CALIBRATION
from cryoaae.restoration.restore import restore
from cryoaae.restoration.sample_report import FORMAT, facts_of_draws, write_report
from cryoaae.restoration.sampler_weights import fitted_weights, said_of_weights
from cryoaae.restoration.tomogram_draws import SampleOptions, TomogramDraws
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import preflight, set_threads
from cryoaae.volume import Volume

DRAW_FILES, MODE_FILES = "draw_[0-9][0-9][0-9].mrc", "mode_[0-9][0-9].mrc"


def sample(
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
    options: SampleOptions | None = None,
    opening: dict[str, Any] | None = None,
    **keywords: Any,
) -> list[dict[str, Any]]:
    """Write the restored mean, its spread, draws and principal modes, and a report.

    A draw that stands and was made from the same is not made again.

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
        Make everything again.
    progress : Progress, optional
    options : SampleOptions, optional
    opening : dict, optional
        Further keywords of `io.project.open_tomogram`.
    **keywords
        Fields of `SampleOptions`.

    Returns
    -------
    list of dict
        What each report.json holds.

    Raises
    ------
    InputError
        Before any work, when an input, an option or the output folder is wrong.
    ResourceError
        When memory or disk is too small.
    ItemsFailedError
        When some of several tomograms failed; the others are done.
    InterruptedRunError
        The draws that stand are kept; the same command goes on from them.
    """
    chosen = replace(options or SampleOptions(), **keywords)
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


def plan_sampling(
    inputs: Sequence[Path | str | TomogramInput] | Path | str | TomogramInput = (),
    output: Path | str = "",
    *,
    model: Restorer | GeneralRestorer | Path | str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    options: SampleOptions | None = None,
    opening: dict[str, Any] | None = None,
    **geometry: Any,
) -> list[str]:
    """Check everything `sample` would, and say what it would do and take; writes nothing.

    Raises
    ------
    InputError
    """
    set_threads(threads)
    work = _plan(
        inputs, Path(output), model, options or SampleOptions(), overwrite=overwrite, opening=opening or {},
        geometry=geometry,
    )  # fmt: skip
    return [item.describe() for item in work]


@dataclass(frozen=True)
class _Work:
    """One tomogram to sample, and what of it is done."""

    name: str
    folder: Path
    sampling: TomogramDraws
    model_name: str
    done: dict[str, Any] | None
    overwrite: bool

    @property
    def files(self) -> list[str]:
        """Volumes on the tomogram's grid that are to stand in the end."""
        options = self.sampling.options
        draws = [f"draw_{n:03d}.mrc" for n in range(1, options.draws + 1)] if options.keep_draws else []
        return ["mean.mrc", "std.mrc", *draws, *(f"mode_{n:02d}.mrc" for n in range(1, options.mode_count + 1))]

    @property
    def label(self) -> str:
        return f"sample, model {self.sampling.made_from['model'][:16]}"

    def describe(self) -> str:
        if self.done is not None:
            return f"{self.name}: done already -> {self.folder}"
        sampling, options = self.sampling, self.sampling.options
        stand = options.draws - len(sampling.missing())
        size = " x ".join(map(str, sampling.volumes[0].shape))
        return (
            f"{self.name}: {size} voxels (z, y, x), {options.draws} draws by {options.sampler}"
            + said_of_weights(options.weights)
            + (f", {stand} of which stand" if stand else "")
            + f"; {sampling.cost(len(self.files))} -> {self.folder}"
        )

    def finish(self, told: Progress) -> dict[str, Any]:
        """Make what is missing and write the report; return what it holds."""
        started = time.perf_counter()
        sampling, options = self.sampling, self.sampling.options
        self._begin()
        mean = self._restored(told)
        volumes, calibration = calibrate(sampling.draw(told), sampling, told)
        write_text(self.folder / "calibration.json", json.dumps(calibration, indent=1) + "\n")
        self._write_draws(volumes, mean, told)
        volumes.write_spread(options.draws, self.folder / "std.mrc", label=self.label)
        shares = self._write_modes(volumes)
        told.finish()
        fitted = fitted_weights(options.weights)
        result = {
            "format": FORMAT, "name": self.name, "model": self.model_name,
            **facts_of_draws(volumes, options.draws, mean),
            "sampler": options.sampler, "weights": None if fitted is None else str(fitted), "draws": options.draws,
            "modes": shares, "outputs": self.files,
            "options": self.options_beside, "calibrated": calibration["calibrated"], "calibration": calibration,
            "sampling": sampling.fared, "seconds": round(time.perf_counter() - started, 1),
            "made_from": sampling.made_from,
        }  # fmt: skip
        return write_report(plain(result), volumes, self.folder)

    def _begin(self) -> None:
        """Make the folder ready: what was made from something else goes, if it may."""
        preflight(*self.sampling.bytes_needed(len(self.files)), self.folder)
        self.sampling.open_store(overwrite=self.overwrite)  # first: it says whose folder this is
        (self.folder / "report.json").unlink(missing_ok=True)  # it comes last: with it the folder is whole

    def _write_draws(self, volumes: DrawVolumes, mean: Volume, told: Progress) -> None:
        """Write the draws; all of them anew, for with every further draw the factors change a little."""
        for old in self.folder.glob(DRAW_FILES):
            old.unlink()
        for number in range(1, self.sampling.options.draws + 1) if self.sampling.options.keep_draws else ():
            told.check()
            path = self.folder / f"draw_{number:03d}.mrc"
            volumes.write_draw(number, path, mean, label=f"{self.label}, draw {number}")

    @property
    def options_beside(self) -> dict[str, Any]:
        """Options that say nothing of how draws are made."""
        options = self.sampling.options
        return {"modes": options.mode_count, "keep_draws": options.keep_draws, "calibrate": options.calibrate}

    def _restored(self, told: Progress) -> Volume:
        """The mean, restored unless it stands."""
        mean, sampling = self.folder / "mean.mrc", self.sampling
        if not record_path([mean]).exists():  # stopped just before it was written; the folder is ours
            mean.unlink(missing_ok=True)
        restore(
            sampling.item, mean, model=sampling.restorer, options=sampling.options.restoring, opening=sampling.opening,
            overwrite=self.overwrite, progress=told,
        )  # fmt: skip
        return open_volume(mean)

    def _write_modes(self, volumes: DrawVolumes) -> list[float]:
        """Write the principal modes; return their shares of the variance."""
        draws, count = volumes.store.read_all(self.sampling.options.draws), self.sampling.options.mode_count
        for old in self.folder.glob(MODE_FILES):
            old.unlink()
        shares, weights = principal_modes(draws)
        for index in range(count):
            path = self.folder / f"mode_{index + 1:02d}.mrc"
            volumes.write_deviation(weighted_sum(draws, weights[index]), path, label=f"{self.label}, mode {index + 1}")
        return [float(share) for share in shares[:count]]


def _plan(
    inputs: Any,
    output: Path,
    model: Any,
    options: SampleOptions,
    *,
    overwrite: bool,
    opening: dict[str, Any],
    geometry: dict[str, Any],
) -> list[_Work]:
    restorer = load_any(model) if model is None or isinstance(model, str | Path) else model
    options = options.by_run(model)
    items = resolve_with_model(inputs, restorer, geometry, opening)
    name = "the general restorer" if model is None else str(model) if isinstance(model, str | Path) else "model"
    work = []
    for item in items:
        folder = output if len(items) == 1 else output / item.name
        sampling = TomogramDraws(item, folder / "working", restorer, options, opening)
        made = _Work(item.name, folder, sampling, name, None, overwrite)
        if not overwrite:
            made = replace(made, done=_result_if_done(made))
        if made.done is None:
            _check(made)
        work.append(made)
    return work


def _check(work: _Work) -> None:
    """Refuse what could not be written, or would replace something else.

    Raises
    ------
    InputError
    """
    folder, sampling = work.folder, work.sampling
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file", "give a folder")
    _ = sampling.volumes  # the inputs are opened and checked
    sampling.store.check(overwrite=work.overwrite)
    ours = sampling.store.ours()
    others = [path.name for pattern in (DRAW_FILES, MODE_FILES) for path in folder.glob(pattern)]
    for name in (*work.files, *others, "calibration.json", "report.json", "report.html") if folder.exists() else ():
        check_output(folder / name, sampling.item.paths, overwrite=work.overwrite or ours)


def _result_if_done(work: _Work) -> dict[str, Any] | None:
    """What the report holds, if it was made from the same with the same options and everything stands."""
    try:
        found = json.loads((work.folder / "report.json").read_text())
        same = found["made_from"] == work.sampling.made_from and found["options"] == work.options_beside
        same &= found["draws"] == work.sampling.options.draws and found["format"] == FORMAT
        same &= found["calibration"]["format"] == CALIBRATION
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same and all((work.folder / name).is_file() for name in work.files) else None
