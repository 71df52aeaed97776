"""What a clustering of particles was made with, as lines of text: read from its run folder, without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_cryoaae.run_folder import CONFIG, RECORD, WEIGHTS, read_json, read_yaml

Lines = list[tuple[str, str]]

ALIGNMENT, AUTOENCODER = "alignment", "autoencoder"
REFERENCES = "references.safetensors"
NO_WEIGHTS = (("digest", "no weights here"),)
PARTICLES = (
    ("wedge", "each particle's own, from its store"),
    ("normalisation", "noise of the background 1; signal and noise by shell, measured on all particles"),
)


def clustering_lines(folder: Path) -> Lines:
    """Model, inputs and command of a run of `cryoaae cluster`; nothing of any other folder."""
    record = read_json(folder / RECORD)
    if record is None or record.get("command") != "cluster":
        return []
    by = str(read_yaml(folder / CONFIG).get("by", AUTOENCODER))
    lines = [("run folder", str(folder)), ("state", state_of(record)), ("clustered by", by)]
    lines += [*_model_lines(folder), *(("store", str(fact["path"])) for fact in record.get("inputs", []))]
    return [*lines, ("versions", versions_of(record)), ("same again", cluster_command(folder, record))]


def cluster_command(folder: Path, record: Mapping[str, Any]) -> str:
    """The command that clusters the same particles in the same way again."""
    chosen = read_yaml(folder / CONFIG)
    labelled = [str(path) for path in chosen.get("labelled") or ()]
    stores = [str(fact["path"]) for fact in record.get("inputs", []) if str(fact["path"]) not in labelled]
    by, model = str(chosen.get("by", AUTOENCODER)), chosen.get("model")
    words = ["cryoaae", "cluster", *stores, "-o", str(folder), "--by", by]
    if not (model and by == ALIGNMENT):  # which has the classes of its references
        words += ["--clusters", str(chosen.get("clusters") or "auto")]
    words += [word for path in labelled for word in ("--labels", path)]
    return shlex.join([*words, *(("--model", str(model)) if model else ("--config", str(folder / CONFIG)))])


def state_of(record: Mapping[str, Any]) -> str:
    """How far a run went, and when it ended."""
    finished = record.get("finished")
    return f"{record.get('state', 'unknown')}" + (f", {finished}" if finished else "")


def versions_of(record: Mapping[str, Any]) -> str:
    """Versions of the libraries that a record names."""
    return ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items())


def _model_lines(folder: Path) -> Lines:
    """What a run keeps of the particles: an autoencoder, references, or nothing that is here."""
    digest, facts = _header(folder / WEIGHTS)
    if "standard" not in facts:
        digest, facts = _header(folder / REFERENCES)
        return [("digest", digest), _size(facts, _grid(facts)), *PARTICLES] if "settings" in facts else [*NO_WEIGHTS]
    standard = facts["standard"]
    return [("digest", digest), _size(standard, int(standard["working_box"])), *PARTICLES]


def _size(facts: Mapping[str, Any], working: int) -> tuple[str, str]:
    box, voxel = int(facts["box"]), float(facts["voxel_size_angstrom"])
    text = f"{voxel:.4g} Å, box {box}; works on {working} voxels of {voxel * box / working:.4g} Å"
    return "voxel size", text


def _grid(facts: Mapping[str, Any]) -> int:
    """Edge of the grid that references were aligned on; never more than the box."""
    box = int(facts["box"])
    return min(int(facts["settings"].get("working_box") or box), box - box % 2)


def _header(weights: Path) -> tuple[str, dict[str, Any]]:
    """Digest of weights and what they say of themselves; empty where there are none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as archive:
            header = archive.metadata() or {}
        return str(header["digest"]), dict(json.loads(header["data"]))
    except (SafetensorError, OSError, ValueError, KeyError):
        return "", {}
