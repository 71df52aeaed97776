"""What the weights of a restorer say of themselves; read without torch, and without the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoaae.errors import InputError


def read_weights_header(path: Path) -> tuple[str, dict[str, Any]]:
    """Digest and spec of a restorer's weights; the weights themselves are not read.

    Raises
    ------
    InputError
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as archive:
            header = archive.metadata() or {}
        data = json.loads(header["data"])
        digest, spec = str(header["digest"]), dict(data["spec"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(path, "not the weights of a restorer", "give a run folder of `cryoaae fit`") from error
    if "voxel_size_angstrom" not in spec:
        raise InputError(path, "not the weights of a restorer", "give a run folder of `cryoaae fit`")
    return digest, spec


def is_general(spec: Mapping[str, Any]) -> bool:
    """Whether a spec is that of a general restorer, which is for a range of voxel sizes."""
    return isinstance(spec["voxel_size_angstrom"], list)
