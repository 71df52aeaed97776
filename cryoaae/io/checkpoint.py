"""Checkpoints: tensors and plain Python data only, so that reading one can never run code.

A checkpoint is whole or absent (`io.atomic`), and a flipped byte is found: by the CRC-32 of every
tensor and of every member of the archive.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.errors import FittingDivergedError, InputError
from cryoaae.io.atomic import atomic_path

log = logging.getLogger("cryoaae")

FORMAT, VERSION = "cryoaae-checkpoint", 3
LAST, PREVIOUS, NEXT = "last.ckpt", "previous.ckpt", "next.ckpt"
PLAIN = (str, int, float, bool, bytes, type(None))


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Write a state atomically.

    Parameters
    ----------
    path : path
        The file; replaced only by a whole new one.
    state : dict
        Nested dicts, lists and tuples of tensors and plain Python values (no numpy scalars, no paths).

    Raises
    ------
    TypeError
        Naming the entry that is neither tensor nor plain.
    FittingDivergedError
        When a tensor holds NaN or infinity: the last good checkpoint stays.
    """
    own = _owned(state, "state")
    tensors = dict(_tensors(own))
    broken = first_nonfinite(tensors)
    if broken:
        raise FittingDivergedError(
            f"{path}: not written, {broken} is not finite; the last good checkpoint stays"
        )
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "state": own,
        "digest": {name: tensor_crc32(tensor) for name, tensor in tensors.items()},
    }
    with atomic_path(path, check=lambda part: _verify_archive(Path(path), part)) as part:
        torch.save(payload, part)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read and verify a state; tensors come on the CPU.

    Raises
    ------
    InputError
        When the file is no checkpoint, damaged, of a newer version, or holds non-finite weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "give a checkpoint")
    _verify_archive(path, path)
    try:
        # weights_only: nothing in the file is ever executed.
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(path, f"cannot be read safely ({reason})", "give a checkpoint of cryoaae") from error
    _check_payload(path, payload)
    tensors = dict(_tensors(payload["state"]))
    _check_tensors(path, tensors, payload["digest"])
    state: dict[str, Any] = payload["state"]
    return state


def save_rotating(folder: Path | str, state: dict[str, Any]) -> Path:
    """Write `last.ckpt` in a folder and keep the one before as `previous.ckpt`; return the new path.

    At every moment a whole checkpoint stands under one of the two names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    save_checkpoint(folder / NEXT, state)
    if last.exists():
        last.replace(folder / PREVIOUS)
    (folder / NEXT).replace(last)
    return last


def load_latest(folder: Path | str) -> dict[str, Any]:
    """Read `last.ckpt`, or `previous.ckpt` with a warning when the last one is absent or damaged.

    Raises
    ------
    InputError
        What is wrong with the last one, when the previous one cannot be read either.
    """
    folder = Path(folder)
    try:
        return load_checkpoint(folder / LAST)
    except InputError as error:
        if not (folder / PREVIOUS).exists():
            raise
        try:
            state = load_checkpoint(folder / PREVIOUS)
        except InputError:
            raise error from None
        log.warning("%s; falling back to %s", error, folder / PREVIOUS)
        return state


def tensor_crc32(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(flat.numpy().data)


def first_nonfinite(tensors: dict[str, Tensor]) -> str:
    """Name of the first tensor that holds NaN or infinity, or an empty string."""
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            return name
    return ""


def _owned(value: Any, name: str) -> Any:
    """Copy of a state with detached CPU tensors that own no more than their own bytes."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {_key(key, name): _owned(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_owned(item, f"{name}.{i}") for i, item in enumerate(value)])
    if type(value) not in PLAIN:
        raise TypeError(
            f"{name} is a {type(value).__name__}: a checkpoint holds tensors and plain Python data"
        )
    return value


def _key(key: Any, name: str) -> Any:
    if type(key) not in (str, int):
        raise TypeError(f"{name} has a key of type {type(key).__name__}: need str or int")
    return key


def _tensors(value: Any, name: str = "state") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{name}.{i}")


def _verify_archive(path: Path, actual: Path) -> None:
    """Check the CRC of every member: torch does not, so a flipped step or weight would load."""
    try:
        with zipfile.ZipFile(actual) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise InputError(path, "holds compressed members", "give a checkpoint of cryoaae")
            damaged = archive.testzip()
    except InputError:
        raise
    except Exception as error:
        raise InputError(path, f"not a whole checkpoint ({error})", "use the previous one") from error
    if damaged is not None:
        raise InputError(path, f"damaged: checksum of {damaged} is wrong", "use the previous one")


def _check_payload(path: Path, payload: Any) -> None:
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise InputError(path, "not a checkpoint of cryoaae", "give last.ckpt of a run folder")
    version = payload.get("version")
    if not isinstance(version, int) or version < 1:
        raise InputError(path, f"checkpoint version {version!r} is unknown", "give a checkpoint of cryoaae")
    if version < VERSION:
        raise InputError(path, f"checkpoint version {version}, written by an older cryoaae", "fit again")
    if version > VERSION:
        raise InputError(
            path, f"checkpoint version {version}, this program reads {VERSION}", "upgrade cryoaae"
        )
    if not isinstance(payload.get("state"), dict) or not isinstance(payload.get("digest"), dict):
        raise InputError(path, "damaged: state or digest is missing", "use the previous one")


def _check_tensors(path: Path, tensors: dict[str, Tensor], digest: dict[str, int]) -> None:
    if tensors.keys() != digest.keys():
        raise InputError(path, "damaged: its tensors are not those of its digest", "use the previous one")
    for name, tensor in tensors.items():
        if (
            tensor.layout != torch.strided
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise InputError(path, f"{name} claims more values than the file holds", "use the previous one")
        if tensor_crc32(tensor) != digest[name]:
            raise InputError(path, f"damaged: checksum of {name} is wrong", "use the previous one")
    broken = first_nonfinite(tensors)
    if broken:
        raise InputError(path, f"{broken} is not finite", "use the previous one")
