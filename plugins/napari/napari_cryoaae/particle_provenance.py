"""What a clustering of particles was made with, as lines of text: read from its run folder, without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_cryoaae.run_folder import CONFIG, RECORD, WEIGHTS, read_json, read_yaml

Lines = list[tuple[str, str]]


def clustering_lines(folder: Path) -> Lines:
    """Model, inputs and command of a run of `cryoaae cluster`; nothing of any other folder."""
    record = read_json(folder / RECORD)
    if record is None or record.get("command") != "cluster":
        return []
    digest, standard = _model(folder / WEIGHTS)
    lines = [("run folder", str(folder)), ("state", state_of(record)), ("digest", digest or "no weights here")]
    if standard:
        box, working = int(standard["box"]), int(standard["working_box"])
        voxel = float(standard["voxel_size_angstrom"])
        lines += [
            ("voxel size", f"{voxel:.4g} Å, box {box}; works on {working} voxels of {voxel * box / working:.4g} Å"),
            ("wedge", "each particle's own, from its store"),
            ("normalisation", "noise of the background 1; signal and noise by shell, measured on all particles"),
        ]
    lines += [("store", str(fact["path"])) for fact in record.get("inputs", [])]
    return [*lines, ("versions", versions_of(record)), ("same again", cluster_command(folder, record))]


def cluster_command(folder: Path, record: Mapping[str, Any]) -> str:
    """The command that clusters the same particles in the same way again."""
    chosen = read_yaml(folder / CONFIG)
    labelled = [str(path) for path in chosen.get("labelled") or ()]
    stores = [str(fact["path"]) for fact in record.get("inputs", []) if str(fact["path"]) not in labelled]
    words = ["cryoaae", "cluster", *stores, "-o", str(folder), "--clusters", str(chosen.get("clusters") or "auto")]
    words += [word for path in labelled for word in ("--labels", path)]
    model = chosen.get("model")
    return shlex.join([*words, *(("--model", str(model)) if model else ("--config", str(folder / CONFIG)))])


def state_of(record: Mapping[str, Any]) -> str:
    """How far a run went, and when it ended."""
    finished = record.get("finished")
    return f"{record.get('state', 'unknown')}" + (f", {finished}" if finished else "")


def versions_of(record: Mapping[str, Any]) -> str:
    """Versions of the libraries that a record names."""
    return ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items())


def _model(weights: Path) -> tuple[str, dict[str, Any]]:
    """Digest of a model of particles, and what it takes particles for; empty where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as archive:
            header = archive.metadata() or {}
        return str(header["digest"]), dict(json.loads(header["data"])["standard"])
    except (SafetensorError, OSError, ValueError, KeyError):
        return "", {}
