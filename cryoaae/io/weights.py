"""Weights of a fitted model: safetensors (nothing in it can run) with plain data and two digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryoaae.errors import FittingDivergedError, InputError
from cryoaae.io.atomic import write_bytes
from cryoaae.io.checkpoint import first_nonfinite

FORMAT, VERSION = "cryoaae-weights", 1


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_weights(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and plain JSON data atomically.

    Parameters
    ----------
    path : path
        The file to make or replace.
    tensors : dict of Tensor
        Weights by name.
    metadata : dict
        Plain data that JSON holds exactly.

    Raises
    ------
    FittingDivergedError
        When a weight is not finite; the old file stays.
    """
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    broken = first_nonfinite(own)
    if broken:
        raise FittingDivergedError(f"{path}: not written, {broken} is not finite")
    text = json.dumps(metadata, allow_nan=False, sort_keys=True)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "digest": digest(own),
        "data": text,
        "data_digest": hashlib.sha256(text.encode()).hexdigest(),
    }
    write_bytes(path, save(own, metadata=header))


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors (on the CPU) and the plain data, with the content digest added as "digest".

    Raises
    ------
    InputError
        When the file is not ours, damaged, of a newer version, or holds non-finite weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "give the model.safetensors of a run folder")
    try:
        with safe_open(path, framework="pt") as archive:
            header = archive.metadata() or {}
            _check_format(path, header)
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            path, f"not a whole safetensors file ({error})", "copy or fit the model again"
        ) from error
    text = header.get("data", "")
    if hashlib.sha256(text.encode()).hexdigest() != header.get("data_digest"):
        raise InputError(path, "damaged: digest of its data is wrong", "copy or fit the model again")
    if digest(tensors) != header.get("digest"):
        raise InputError(path, "damaged: digest of its weights is wrong", "copy or fit the model again")
    broken = first_nonfinite(tensors)
    if broken:
        raise InputError(path, f"weight {broken} is not finite", "fit the model again")
    return tensors, {**json.loads(text), "digest": header["digest"]}


def _check_format(path: Path, header: dict[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise InputError(path, "not weights of cryoaae", "give the model.safetensors of a run folder")
    version = header.get("version", "")
    if not version.isdigit() or int(version) < 1:
        raise InputError(path, f"weights version {version!r} is unknown", "copy or fit the model again")
    if int(version) > VERSION:
        raise InputError(path, f"weights version {version}, this program reads {VERSION}", "upgrade cryoaae")
