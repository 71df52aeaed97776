"""What is to be restored: inputs with their wedges, outputs that may be written, and what is done already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import check_output
from cryoaae.io.project import TomogramInput
from cryoaae.io.weights import digest
from cryoaae.restoration.done import RestoreResult, check_record, result_if_done, settings_of
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.fitted_on import resolve_with_model

MRC_SUFFIXES = (".mrc", ".rec", ".map")


@dataclass(frozen=True)
class Work:
    """One tomogram of a batch.

    Parameters
    ----------
    tomogram : TomogramInput
    paths : tuple of Path
        To write: the mean, then the halves.
    settings : dict
        What the outputs are made with, for their record.
    result : RestoreResult, optional
        If it is done already.
    report : Path, optional
        Page beside the mean, where asked for.
    """

    tomogram: TomogramInput
    paths: tuple[Path, ...]
    settings: dict[str, Any]
    result: RestoreResult | None
    report: Path | None


def resolve_work(
    inputs: Any,
    output: Path,
    model: Any,
    geometry: dict[str, Any],
    options: RestoreOptions,
    *,
    overwrite: bool,
    dtype: str,
    opening: dict[str, Any],
    report: bool,
) -> list[Work]:
    """Inputs with their wedges, and output files that may be written or need not be.

    Raises
    ------
    InputError
    """
    items = resolve_with_model(inputs, model, geometry, opening)
    weights, work = digest(dict(model.state_dict())), []
    for item in items:
        paths = _paths(item, output, len(items), halves=options.halves)
        settings = settings_of(item, weights, options, dtype, opening)
        done = None if overwrite else result_if_done(paths, item.paths, settings)
        page = paths[0].with_suffix(".html") if report else None
        work.append(Work(item, paths, settings, done, page))
        for path in () if done else (*paths, *([page] if page else [])):
            # A folder that is not there yet is made, if its own folder is.
            made = path.parent == output and not output.exists()
            check_output(output if made else path, item.paths, overwrite=overwrite)
        check_record(paths, overwrite=overwrite)
    return work


def _paths(item: TomogramInput, output: Path, count: int, *, halves: bool) -> tuple[Path, ...]:
    """Output files of one tomogram: the mean, then the halves."""
    if output.suffix.lower() in MRC_SUFFIXES:
        if count > 1:
            raise InputError(output, f"one file for {count} tomograms", "give a folder")
        mean = output
    else:
        mean = output / f"{item.name}_restored.mrc"
    if not halves or not item.has_halves:
        return (mean,)
    return (mean, *(mean.with_name(f"{mean.stem}_{half}{mean.suffix}") for half in ("even", "odd")))
