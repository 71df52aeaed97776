"""What an output was made from, written beside it: work that is done is not done again.

A batch that was stopped at its seventh tomogram goes on there; an output of other inputs, weights or
settings is never taken for the one asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text
from cryoaae.io.project import TomogramInput
from cryoaae.restoration.contrast import transfer_facts, transfer_of
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.runs.provenance import file_facts, same_files, versions

FORMAT = "cryoaae restoration 1"
# Of a result: what is not in its record.
APART = ("paths", "skipped", "spread", "report")
# How the work is done, not what comes out.
OF_NO_MATTER = ("allow_scale", "device", "tile", "tile_shift", "memory_bytes", "halves")


@dataclass(frozen=True)
class RestoreResult:
    """What one restoration wrote and how fast it was.

    Parameters
    ----------
    name : str
    paths : tuple of Path
        Mean first, then the halves where asked for.
    seconds : float
    voxels_per_second : float
        Voxels of the tomogram (not of each half) over `seconds`.
    network_share : float
        Share of the time spent in the network, transfers included.
    tile : (z, y, x)
        Core of a tile in working voxels.
    skipped : bool
        Whether it was done already, from the same inputs, weights and settings; the numbers are of then.
    spread : Path, optional
        Spread of the mean, where asked for.
    undone : str
        Contrast transfer that was undone, in words; empty for none.
    general : bool
        Whether a general restorer made it, which was fitted on no tomogram.
    report : Path, optional
        Page of pictures, where asked for.
    """

    name: str
    paths: tuple[Path, ...]
    seconds: float
    voxels_per_second: float
    network_share: float
    tile: tuple[int, int, int]
    skipped: bool = False
    spread: Path | None = None
    undone: str = ""
    general: bool = False
    report: Path | None = None


def record_path(paths: Sequence[Path]) -> Path:
    """Where the record of an output (mean first) lies."""
    return paths[0].with_suffix(".json")


def settings_of(
    item: TomogramInput, model_digest: str, options: RestoreOptions, dtype: str, opening: dict[str, Any]
) -> dict[str, Any]:
    """Everything besides the inputs' data that decides the densities, as plain data."""
    transfer = transfer_of(options.contrast_transfer, item.name)
    apart = (*OF_NO_MATTER, "contrast_transfer")
    return {
        "model": model_digest,
        "dtype": dtype,
        "opening": {key: value for key, value in opening.items() if value},
        "options": {key: value for key, value in asdict(options).items() if key not in apart},
        "wedge": item.wedge.facts(),
        **({} if transfer is None else {"contrast_transfer": transfer_facts(transfer)}),
    }


def result_if_done(
    paths: tuple[Path, ...], inputs: Sequence[Path], settings: dict[str, Any]
) -> RestoreResult | None:
    """Return the result as recorded, if all outputs stand and were made from the same."""
    record = _read(record_path(paths))
    if record is None or record["settings"] != settings or not all(path.is_file() for path in paths):
        return None
    if not set(record["outputs"]) >= {path.name for path in paths} or not same_files(record["inputs"], inputs):
        return None
    try:
        result = RestoreResult(**record["result"], paths=paths, skipped=True)
    except TypeError:  # of another version
        return None
    z, y, x = result.tile
    return replace(result, tile=(z, y, x))


def check_record(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to put the record in place of a file that is not one.

    Raises
    ------
    InputError
    """
    path = record_path(paths)
    if path.exists() and not overwrite and _read(path) is None:
        raise InputError(path, "is in the place of the record of the restoration", "give another output name")


def forget(paths: Sequence[Path]) -> None:
    """Remove the record: the outputs are about to change."""
    record_path(paths).unlink(missing_ok=True)


def remember(result: RestoreResult, inputs: Sequence[Path], settings: dict[str, Any]) -> None:
    """Write the record of outputs that now stand."""
    kept = {key: value for key, value in asdict(result).items() if key not in APART}
    record = {
        "format": FORMAT,
        "versions": versions(),
        "inputs": [file_facts(path) for path in inputs],
        "settings": settings,
        "outputs": [path.name for path in result.paths],
        "result": kept,
    }
    write_text(record_path(result.paths), json.dumps(record, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(record, dict) and record.get("format") == FORMAT
    whole = is_ours and {"inputs", "settings", "outputs", "result"} <= record.keys()
    return record if whole else None
