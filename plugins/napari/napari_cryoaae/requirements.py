"""What a panel needs that may not be there, in a sentence; looked for without loading it."""

from __future__ import annotations

from importlib import metadata, util

OLDEST_NAPARI = (0, 9)


def what_is_missing() -> str:
    """Why the panels cannot do their work here; empty where they can."""
    if util.find_spec("torch") is None:
        return "torch is not installed, so nothing can be restored here; install it with: pip install cryoaae"
    version = metadata.version("napari")
    if _leading(version) < OLDEST_NAPARI:
        oldest = ".".join(map(str, OLDEST_NAPARI))
        return f"napari {version} is too old: the panels need {oldest} or later; pip install -U 'cryoaae[gui]'"
    return ""


def _leading(version: str) -> tuple[int, ...]:
    """Major and minor number of a version."""
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
