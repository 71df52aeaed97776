"""Say what a file is and, for a tomogram, which tilt geometry its spectrum shows."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.checkpoint import load_checkpoint
from cryoaae.io.mrc import open_volume
from cryoaae.io.store import SubtomogramStore
from cryoaae.io.tilts import read_tilts
from cryoaae.io.weights import load_weights
from cryoaae.metrics.tilt_geometry import TiltGeometry, estimate_tilt_geometry
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.inspection import inspection_figure
from cryoaae.reports.style import png
from cryoaae.volume import Volume

# The spectrum is taken of at most this much of a tomogram, from its middle: edges of the wedge are
# sharp to a degree long before, and the search stays at seconds.
MAX_BLOCK_VOXELS = 160
MIN_BLOCK_VOXELS = 24
TOLERANCE_DEG = 5.0
SIGN_CONVENTION = (
    "the projection at tilt t measures the plane through the tilt axis with direction "
    "(kx, kz) = (cos t, -sin t), so an edge seen at angle a in the xz spectrum is tilt -a"
)
VOLUME_SUFFIXES = {".mrc", ".rec", ".map", ".ali", ".st", ".mrcs", ".ccp4"}
TILT_SUFFIXES = {".tlt", ".rawtlt"}


def inspect(
    path: Path | str,
    *,
    stated: MissingWedge | None = None,
    voxel_size_angstrom: float | None = None,
    output: Path | str | None = None,
) -> dict[str, Any]:
    """Inspect a file: a volume, a list of tilts, weights, a checkpoint, a store of subtomograms or a run folder.

    Parameters
    ----------
    path : path
        The file or folder.
    stated : MissingWedge, optional
        The tilt geometry the user believes in; a volume whose spectrum disagrees gets a warning.
    voxel_size_angstrom : float, optional
        Overrides the header.
    output : path, optional
        Folder for <name>_inspect.png and .json.

    Returns
    -------
    dict
        Plain data: "kind", "path", facts, "sentences" for people and "warnings".

    Raises
    ------
    InputError
        The file does not exist, cannot be read or is of no known kind.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file or folder", "check the name")
    if path.is_dir():
        return _inspect_run(path)
    suffix = path.suffix.lower()
    if suffix in VOLUME_SUFFIXES:
        return _inspect_file(path, stated, voxel_size_angstrom, output)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        **dict.fromkeys(TILT_SUFFIXES, _inspect_tilts),
        ".safetensors": _inspect_weights,
        ".ckpt": _inspect_checkpoint,
        ".h5": _inspect_store,
    }
    if suffix not in readers:
        known = " ".join(sorted(VOLUME_SUFFIXES | readers.keys()))
        raise InputError(
            path, f"no known kind of file ({suffix or 'no suffix'})", f"known: {known}, run folders"
        )
    return readers[suffix](path)


# -- volumes --------------------------------------------------------------------------------------


def _inspect_file(
    path: Path, stated: MissingWedge | None, voxel: float | None, output: Path | str | None
) -> dict[str, Any]:
    volume = open_volume(path, voxel_size_angstrom=voxel, lenient=True)
    result, geometry, block = describe_volume(volume, stated)
    result = {"kind": "volume", "path": str(path), **result}
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        figure = inspection_figure(
            block,
            volume.voxel_size_angstrom,
            geometry,
            stated,
            title=path.name,
            facts=result["sentences"][:3],
        )
        result["figure"] = str(folder / f"{path.stem}_inspect.png")
        write_bytes(Path(result["figure"]), png(figure))
        write_text(folder / f"{path.stem}_inspect.json", json.dumps(result, indent=1) + "\n")
    return result


def describe_volume(
    volume: Volume, stated: MissingWedge | None = None
) -> tuple[dict[str, Any], TiltGeometry | None, NDArray[np.float32]]:
    """Describe a volume.

    Returns
    -------
    (dict, TiltGeometry or None, array)
        Facts as plain data; the estimated geometry; the central block (z, y, x) it was estimated on.
    """
    statistics = _statistics(volume)
    block = central_block(volume, MAX_BLOCK_VOXELS)
    geometry = None
    warnings: list[str] = []
    if min(block.shape) < MIN_BLOCK_VOXELS:
        warnings.append(f"thinner than {MIN_BLOCK_VOXELS} voxels: too small to estimate the tilt geometry")
    elif statistics["non_finite"]:
        warnings.append(f"{statistics['non_finite']} values are not finite: tilt geometry not estimated")
    elif statistics["std"] > 0:
        geometry = estimate_tilt_geometry(torch.from_numpy(block))
    if statistics["std"] == 0:
        warnings.append("the volume is constant")
    if stated is not None and geometry is not None:
        warnings += compare_with_stated(geometry, stated)
    elif stated is not None:
        warnings.append("the spectrum shows no clear missing wedge, so the stated tilts could not be checked")
    result = {
        "shape_zyx": list(volume.shape),
        "voxel_size_angstrom": volume.voxel_size_angstrom,
        "origin_angstrom_xyz": list(volume.origin_angstrom_xyz),
        "dtype": str(volume.data.dtype),
        "header": {str(k): v for k, v in volume.header.items() if _is_plain(v)},
        "statistics": statistics,
        "tilt_geometry": None if geometry is None else _geometry_facts(geometry),
        "sign_convention": SIGN_CONVENTION,
        "sentences": _sentences(volume, statistics, geometry),
        "warnings": warnings,
    }
    return result, geometry, block


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, (str, int, float, bool)) and not (
        isinstance(value, float) and not math.isfinite(value)
    )


def _statistics(volume: Volume) -> dict[str, Any]:
    """Count, moments and range in float64, a few sections at a time."""
    count, total, squares, non_finite = 0, 0.0, 0.0, 0
    low, high = math.inf, -math.inf
    z, y, x = volume.shape
    step = max(1, 2**22 // (y * x))
    shift: float | None = None  # near the mean, so that squares of offset data do not cancel
    for start in range(0, z, step):
        values = volume.block(slice(start, start + step)).astype(np.float64)
        finite = values[np.isfinite(values)]
        non_finite += values.size - finite.size
        if finite.size == 0:
            continue
        shift = float(finite.mean()) if shift is None else shift
        count += finite.size
        total += float((finite - shift).sum())
        squares += float(((finite - shift) ** 2).sum())
        low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if count == 0 or shift is None:
        return {"mean": None, "std": 0.0, "min": None, "max": None, "non_finite": non_finite}
    mean = total / count
    std = math.sqrt(max(squares / count - mean**2, 0.0))
    return {"mean": mean + shift, "std": std, "min": low, "max": high, "non_finite": non_finite}


def central_block(volume: Volume, size: int) -> NDArray[np.float32]:
    """Middle of a volume, (z, y, x) float32, at most `size` voxels an axis; reads nothing else."""
    starts = [max(0, (n - size) // 2) for n in volume.shape]
    z, y, x = (slice(s, s + min(n, size)) for s, n in zip(starts, volume.shape, strict=True))
    return volume.block(z, y, x)


def _geometry_facts(geometry: TiltGeometry) -> dict[str, Any]:
    facts = asdict(geometry)
    facts["tilt_axis"] = _axis_name(geometry.tilt_axis_deg)
    return facts


def _axis_name(axis_deg: float) -> str:
    return {0.0: "y", 90.0: "x"}.get(axis_deg, f"{axis_deg:.1f} degrees from y towards x")


def _sentences(volume: Volume, statistics: dict[str, Any], geometry: TiltGeometry | None) -> list[str]:
    z, y, x = volume.shape
    size = " x ".join(f"{n * volume.voxel_size_angstrom / 10:.0f}" for n in (x, y, z))
    voxel = f"{volume.voxel_size_angstrom:.4g} A"
    lines = [f"{x} x {y} x {z} voxels (x y z) of {voxel}: {size} nm, {volume.data.dtype}"]
    if statistics["mean"] is not None:
        lines.append("mean {mean:.4g}, std {std:.4g}, from {min:.4g} to {max:.4g}".format(**statistics))
    if geometry is None:
        return [*lines, "no clear missing wedge in the power spectrum"]
    (lo, hi), (low, high) = geometry.tilt_range_deg, geometry.plane_range_deg
    lines.append(
        f"tilt axis {_axis_name(geometry.tilt_axis_deg)}, tilt range {lo:.1f} to {hi:.1f} degrees "
        f"(power falls to half at {low:.1f} and {high:.1f} degrees in the spectrum)"
    )
    lines.append(f"sign: {SIGN_CONVENTION}")
    if geometry.floor > 0.1:
        lines.append(f"the wedge is not empty ({100 * geometry.floor:.0f} % of the power inside): restored?")
    return lines


def compare_with_stated(geometry: TiltGeometry, stated: MissingWedge) -> list[str]:
    """Warn where a stated tilt geometry disagrees with the spectrum by more than 5 degrees."""
    axis, lo, hi = _in_frame_of(stated, geometry.tilt_axis_deg)
    turn = abs(axis - geometry.tilt_axis_deg)
    if turn > TOLERANCE_DEG:
        said, seen = _axis_name(stated.tilt_axis_deg), _axis_name(geometry.tilt_axis_deg)
        return [f"stated tilt axis {said}, but the spectrum shows {seen}; see --tilt-axis"]
    seen_lo, seen_hi = geometry.tilt_range_deg

    def off(a: float, b: float) -> float:
        return max(abs(a - seen_lo), abs(b - seen_hi))

    if off(lo, hi) <= TOLERANCE_DEG and off(lo, hi) <= off(-hi, -lo) + 1.0:
        return []
    said = "{:g} to {:g}".format(*stated.tilt_range_deg) + (", flipped" if stated.flipped else "")
    seen = f"{seen_lo:.1f} to {seen_hi:.1f}"
    if off(-hi, -lo) <= TOLERANCE_DEG:
        remedy = "drop --flip-tilts" if stated.flipped else "use --flip-tilts"
        return [f"stated tilts {said} degrees have the opposite sign to the spectrum ({seen}); {remedy}"]
    return [f"stated tilts {said} degrees, but the spectrum shows {seen}; check --tilts or --tilt-range"]


def _in_frame_of(stated: MissingWedge, axis_deg: float) -> tuple[float, float, float]:
    """Axis and range of a wedge with its axis turned by half turns to be nearest `axis_deg`.

    An axis turned by 180 degrees is the same line; its tilts change sign.
    """
    lo, hi = stated.tilt_range_deg
    if stated.flipped:
        lo, hi = -hi, -lo
    turns = round((axis_deg - stated.tilt_axis_deg) / 180.0)
    if turns % 2:
        lo, hi = -hi, -lo
    return stated.tilt_axis_deg + 180.0 * turns, lo, hi


# -- everything else ------------------------------------------------------------------------------


def _inspect_tilts(path: Path) -> dict[str, Any]:
    tilts = sorted(read_tilts(path))
    steps = np.diff(tilts)
    step = float(np.median(steps)) if steps.size else 0.0
    lines = [f"{len(tilts)} tilts from {tilts[0]:g} to {tilts[-1]:g} degrees, typically {step:g} apart"]
    warnings = [
        f"gap of {gap:g} degrees after {at:g}"
        for at, gap in zip(tilts, steps, strict=False)
        if gap > 2.5 * step
    ]
    return {"kind": "tilts", "path": str(path), "tilts_deg": tilts, "sentences": lines, "warnings": warnings}


def _inspect_weights(path: Path) -> dict[str, Any]:
    tensors, metadata = load_weights(path)
    parameters = sum(t.numel() for t in tensors.values())
    lines = [f"weights: {len(tensors)} tensors, {parameters:,} numbers"]
    lines += [f"{key}: {value}" for key, value in metadata.items()]
    facts = {"tensors": len(tensors), "numbers": parameters, "metadata": metadata}
    return {"kind": "weights", "path": str(path), **facts, "sentences": lines, "warnings": []}


def _inspect_checkpoint(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    plain = {key: value for key, value in state.items() if _is_plain(value)}
    lines = [
        f"checkpoint with {', '.join(sorted(state))}",
        *(f"{key}: {value}" for key, value in plain.items()),
    ]
    return {"kind": "checkpoint", "path": str(path), **plain, "sentences": lines, "warnings": []}


def _inspect_store(path: Path) -> dict[str, Any]:
    store = SubtomogramStore(path)
    counts = {kind: Counter(getattr(store.facts, kind)) for kind in ("tomograms", "classes")}
    size = f"{store.box}^3 voxels of {store.voxel_size_angstrom:.4g} A"
    lines = [f"{len(store)} subtomograms of {size}, from {store.about['kind']}, {store.about['density']}"]
    for kind, found in counts.items():
        named = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in found.most_common(8))
        lines.append(f"{len(found)} {kind}: {named}{', ...' if len(found) > 8 else ''}")
    lo, hi = zip(*(wedge.tilt_range_deg for wedge in store.facts.wedges), strict=True)
    lines.append(f"{len(store.facts.wedges)} wedges, tilts from {min(lo):.1f} to {max(hi):.1f} degrees")
    facts = {"subtomograms": len(store), "about": store.about, **counts}
    return {"kind": "store", "path": str(path), **facts, "sentences": lines, "warnings": []}


def _inspect_run(path: Path) -> dict[str, Any]:
    record = path / "run.json"
    if not record.exists():
        raise InputError(path, "a folder without run.json", "give a file, or the folder of a run")
    try:
        run = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            record, f"cannot be read ({error})", "the run may have been cut off; see its log"
        ) from error
    lines = [f"{key}: {run[key]}" for key in ("command", "state", "started", "finished") if key in run]
    weights = path / "model.safetensors"
    result: dict[str, Any] = {"kind": "run", "path": str(path), "run": run, "warnings": []}
    if weights.exists():
        model = _inspect_weights(weights)
        result["model"] = {key: model[key] for key in ("tensors", "numbers", "metadata")}
        lines += model["sentences"]
    else:
        result["warnings"].append("no model.safetensors: the run has not finished")
    return result | {"sentences": lines}
