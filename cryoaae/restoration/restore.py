"""Restore tomograms: a fitted network over both halves, streamed from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import assert_unchanged, create_volume
from cryoaae.io.project import TomogramInput, open_tomogram
from cryoaae.models.general import GeneralRestorer, load_any
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.batch import each_tomogram
from cryoaae.restoration.contrast import transfer_of
from cryoaae.restoration.done import RestoreResult, forget, remember
from cryoaae.restoration.engine import Outputs, RestoreOptions, plan_restoration, restore_volumes
from cryoaae.restoration.fitted_on import check_voxel_size, wedge_by_content
from cryoaae.restoration.general import caveats, seen_by, settled
from cryoaae.restoration.sampler_weights import weights_beside
from cryoaae.restoration.scratch import Scratch
from cryoaae.restoration.work import MRC_SUFFIXES, Work, resolve_work
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import keep_freed_memory, preflight, set_threads
from cryoaae.volume import DENSITY_SIGN, Volume

if TYPE_CHECKING:
    from torch import nn


def restore_array(
    even: NDArray[Any],
    odd: NDArray[Any] | None,
    model: nn.Module,
    wedge: MissingWedge | None = None,
    *,
    voxel_size_angstrom: float,
    density: str = "auto",
    progress: Progress | None = None,
    options: RestoreOptions | None = None,
    **keywords: Any,
) -> NDArray[np.float32]:
    """Restore a tomogram held in arrays.

    Parameters
    ----------
    even, odd : (z, y, x)
        The two halves; `odd` is None for a single volume.
    model : Restorer or GeneralRestorer
        A fitted restorer, or a general one.
    wedge : MissingWedge, optional
        Needed for `keep_measured`, `symmetries` and a general restorer, but for tomograms that the model was fitted on.
        Without it nobody knows what was measured, and the network has its say everywhere (`data_consistency`).
    voxel_size_angstrom : float
        Must be within 10 % of what the model was fitted on.
    density : {"auto", "bright", "dark"}
        Whether structures are bright or dark, where a general restorer has to know; auto: the data tell.
    progress : Progress, optional
        Told of the progress, asked whether to stop.
    options : RestoreOptions, optional
    **keywords
        Fields of `RestoreOptions`.

    Returns
    -------
    (z, y, x) float32, or (2, z, y, x) with ``halves=True``
        In the units of the input.

    Raises
    ------
    InputError
        When the voxel size is off, the halves differ in shape, or the density is constant.
    InterruptedRunError
        When `progress` says so.
    """
    chosen = replace(options or RestoreOptions(), **keywords)
    arrays = [np.asarray(a) for a in (even, odd) if a is not None]
    if any(a.ndim != 3 or a.shape != arrays[0].shape for a in arrays):
        raise InputError(
            "halves", f"shapes {[a.shape for a in arrays]}", "give volumes (z, y, x) of one shape"
        )
    if density not in DENSITY_SIGN:
        raise InputError("density", f"{density!r} is none of {', '.join(DENSITY_SIGN)}", "give one of them")
    volumes = [Volume(a, voxel_size_angstrom, contrast=DENSITY_SIGN[density]) for a in arrays]
    if wedge is None:
        wedge = wedge_by_content(volumes[0], model)
    model = settled(model, volumes, wedge, of_mean=not chosen.halves)
    check_voxel_size(voxel_size_angstrom, model, "array", allow_scale=chosen.allow_scale)
    volumes, shape = seen_by(model, volumes), volumes[0].shape
    plan = plan_restoration(shape, model, chosen)
    # Working copies lie in memory here, next to the arrays themselves.
    preflight(
        plan.memory_bytes + plan.disk_bytes + 4 * np.prod(shape) * (1 + 2 * chosen.halves), 0, Path.cwd()
    )
    halves = [np.empty(shape, np.float32) for _ in volumes] if chosen.halves else []
    outputs = Outputs(np.empty(shape, np.float32), list(halves))
    told = progress or NullProgress()
    told.start("restoring", float(np.prod(shape)), "voxels")
    restore_volumes(volumes, outputs, model, plan, chosen, wedge=wedge, scratch=Scratch(None), progress=told)
    told.finish()
    return np.stack(halves) if halves else outputs.mean


def restore(
    inputs: Sequence[Path | str | TomogramInput] | Path | str | TomogramInput = (),
    output: Path | str = "",
    *,
    model: nn.Module | Path | str | None = None,
    even: Sequence[Path | str] | Path | str = (),
    odd: Sequence[Path | str] | Path | str = (),
    tilts: Sequence[Path | str] | Path | str | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: str | float = "y",
    flip_tilts: bool = False,
    voxel_size_angstrom: float | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    dtype: str = "float32",
    uncertainty: int = 0,
    calibrate: bool = True,
    seed: int = 0,
    report: bool = False,
    progress: Progress | None = None,
    options: RestoreOptions | None = None,
    opening: dict[str, Any] | None = None,
    **keywords: Any,
) -> list[RestoreResult]:
    """Restore tomograms from files to files; what is done already is left as it is.

    Parameters
    ----------
    inputs : paths or TomogramInput
        Single volumes, or inputs resolved already; or give `even` and `odd`.
    output : path
        An MRC file for one tomogram, or a folder.
    model : Restorer, GeneralRestorer or path, optional
        A fitted restorer, its weights, or its run folder. Default: the general restorer that comes with the package.
    even, odd, tilts, tilt_range, tilt_axis, flip_tilts
        As on the command line; see `io.project.resolve_inputs`.
    voxel_size_angstrom : float, optional
        Overrules the files' headers.
    threads : int, optional
        Threads of the processor.
    overwrite : bool
        Replace existing outputs.
    dtype : str
        ``float32`` or ``float16``.
    uncertainty : int
        Draws from which the spread is made that is written beside the mean, X_std.mrc; 0: none.
    calibrate : bool
        Bring the spread to the errors that two halves and hidden tilts show.
    seed : int
        Of the draws.
    report : bool
        Write a page of pictures beside each mean, X.html.
    progress : Progress, optional
        Told of the progress, asked whether to stop.
    options : RestoreOptions, optional
    opening : dict, optional
        Further keywords of `io.project.open_tomogram` (``lenient``, ``fill_nonfinite``).
    **keywords
        Fields of `RestoreOptions`.

    Returns
    -------
    list of RestoreResult

    Raises
    ------
    InputError
        Before any work, when an input, an output path or the voxel size is wrong.
    ResourceError
        When memory or disk is too small.
    ItemsFailedError
        When some of several tomograms failed; the others are written.
    """
    chosen = replace(options or RestoreOptions(), **keywords)
    set_threads(threads)
    keep_freed_memory()
    geometry = {
        "even": even, "odd": odd, "tilts": tilts, "tilt_range": tilt_range, "tilt_axis": tilt_axis,
        "flip_tilts": flip_tilts,
    }  # fmt: skip
    restorer = load_any(model) if model is None or isinstance(model, str | Path) else model
    opening = {"voxel_size_angstrom": voxel_size_angstrom, **(opening or {})}
    work = resolve_work(
        inputs, Path(output), restorer, geometry, chosen, overwrite=overwrite, dtype=dtype, opening=opening,
        report=report,
    )  # fmt: skip
    means = {item.paths[0]: item.tomogram for item in work}
    spreads = _spreads(
        means, restorer, chosen, draws=uncertainty, seed=seed, calibrate_spread=calibrate, opening=opening,
        overwrite=overwrite, weights=weights_beside(model),
    )  # fmt: skip
    if Path(output).suffix.lower() not in MRC_SUFFIXES:
        Path(output).mkdir(exist_ok=True)
    told = progress or NullProgress()

    def done(item: Work) -> RestoreResult:
        facts: dict[str, Any] = {"overwrite": overwrite, "dtype": dtype, "opening": opening}
        result = item.result or _restore_item(item, restorer, chosen, told, **facts)
        result = replace(result, report=_report(item, result, opening))
        spread = spreads.get(item.paths[0])
        if spread is None:
            return result
        spread.write(told)
        return replace(result, spread=spread.path)

    return each_tomogram(work, done, lambda item: item.tomogram.name, told)


def plan_restore(
    inputs: Sequence[Path | str | TomogramInput] | Path | str | TomogramInput = (),
    output: Path | str = "",
    *,
    model: nn.Module | Path | str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    dtype: str = "float32",
    uncertainty: int = 0,
    calibrate: bool = True,
    seed: int = 0,
    report: bool = False,
    opening: dict[str, Any] | None = None,
    options: RestoreOptions | None = None,
    **geometry: Any,
) -> list[str]:
    """Check everything `restore` would, and say what it would do, a line a tomogram; writes nothing.

    Parameters
    ----------
    inputs, output, model, threads, overwrite, dtype, uncertainty, calibrate, seed, report, opening, options
        As for `restore`.
    **geometry
        ``even``, ``odd``, ``tilts``, ``tilt_range``, ``tilt_axis``, ``flip_tilts`` of `restore`.

    Raises
    ------
    InputError
    """
    chosen = options or RestoreOptions()
    set_threads(threads)
    restorer = load_any(model) if model is None or isinstance(model, str | Path) else model
    opening = opening or {}
    work = resolve_work(
        inputs, Path(output), restorer, geometry, chosen, overwrite=overwrite, dtype=dtype, opening=opening,
        report=report,
    )  # fmt: skip
    means = {item.paths[0]: item.tomogram for item in work}
    spreads = _spreads(
        means, restorer, chosen, draws=uncertainty, seed=seed, calibrate_spread=calibrate, opening=opening,
        overwrite=overwrite, weights=weights_beside(model),
    )  # fmt: skip
    lines = []
    for item in work:
        name, written = item.tomogram.name, [*item.paths, *([item.report] if item.report else [])]
        outputs = ", ".join(map(str, written))
        if item.result is not None:
            lines.append(f"{name}: done already -> {outputs}")
            continue
        tomogram = open_tomogram(item.tomogram, **opening)
        like, halves = tomogram.volumes[0], len(item.paths) > 1
        own = settled(restorer, tomogram.volumes, tomogram.wedge, of_mean=not halves)
        check_voxel_size(like.voxel_size_angstrom, own, name, allow_scale=chosen.allow_scale)
        plan = plan_restoration(like.shape, own, replace(chosen, halves=halves))
        transfer = transfer_of(chosen.contrast_transfer, name)
        lines.append(
            f"{name}: {' x '.join(map(str, like.shape))} voxels -> {outputs}; "
            f"needs {plan.memory_bytes / 1e9:.1f} GB of memory, {plan.disk_bytes / 1e9:.2f} GB of scratch"
            + (f"; contrast transfer undone: {transfer}" if transfer else "")
        )
        said = caveats(restorer, own, tomogram.wedge, undone=transfer is not None)
        lines.extend(f"{name}: {words}" for words in said)
    return lines + [spread.describe() for spread in spreads.values()]


def _spreads(
    means: dict[Path, Any], restorer: Any, options: RestoreOptions, *, draws: int, **keywords: Any
) -> dict[Path, Any]:
    """Spreads to be made beside the means; what makes them, and takes a second to load, is loaded if there are any."""
    if not draws:
        return {}
    if options.precision != RestoreOptions.precision:
        raise InputError(
            "--precision", "draws are those of a restoration in float32", "leave it out, or --uncertainty"
        )
    from cryoaae.restoration.spread_beside import spreads_beside

    return spreads_beside(means, restorer, options, draws=draws, **keywords)


def _report(item: Work, result: RestoreResult, opening: dict[str, Any]) -> Path | None:
    """The page beside the mean, where asked for, made unless it stands; what draws is loaded only then."""
    if item.report is not None and not (result.skipped and item.report.exists()):
        from cryoaae.restoration.restoration_report import write_restoration_report

        write_restoration_report(result, item.tomogram, item.report, opening)
    return item.report


def _restore_item(
    item: Work,
    model: Any,
    options: RestoreOptions,
    progress: Progress,
    *,
    overwrite: bool,
    dtype: str,
    opening: dict[str, Any],
) -> RestoreResult:
    name, paths = item.tomogram.name, item.paths
    options = replace(options, contrast_transfer=transfer_of(options.contrast_transfer, name))
    tomogram = open_tomogram(item.tomogram, **opening)
    volumes = list(tomogram.volumes)
    like, shape = volumes[0], volumes[0].shape
    general, model = model, settled(model, volumes, tomogram.wedge, of_mean=len(paths) == 1)
    for words in caveats(general, model, tomogram.wedge, undone=options.contrast_transfer is not None):
        progress.message(f"{name}: {words}")
    check_voxel_size(
        like.voxel_size_angstrom, model, like.source or name, allow_scale=options.allow_scale
    )
    plan = plan_restoration(shape, model, replace(options, halves=len(paths) > 1))
    folder, voxels = paths[0].resolve().parent, int(np.prod(shape))
    written = voxels * np.dtype(dtype).itemsize * len(paths)
    preflight(plan.memory_bytes, plan.disk_bytes + written, folder)
    with ExitStack() as stack:
        label = f"restore, model {item.settings['model'][:16]}"
        facts: dict[str, Any] = {"like": like, "dtype": dtype, "label": label, "overwrite": overwrite}
        arrays = [stack.enter_context(create_volume(path, shape, **facts)) for path in paths]
        progress.start(f"restoring {name}", float(voxels), "voxels")
        seconds, network = restore_volumes(
            seen_by(model, volumes),
            Outputs(arrays[0], arrays[1:]),
            model,
            plan,
            options,
            wedge=tomogram.wedge,
            scratch=Scratch(folder),
            progress=progress,
        )
        for volume in volumes:
            assert_unchanged(volume)
        forget(paths)  # the outputs are replaced on leaving
    progress.finish()
    undone = str(options.contrast_transfer or "")
    result = RestoreResult(
        name, paths, seconds, voxels / seconds, network / seconds, plan.tile, undone=undone,
        general=isinstance(general, GeneralRestorer),
    )  # fmt: skip
    remember(result, item.tomogram.paths, item.settings)
    return result
