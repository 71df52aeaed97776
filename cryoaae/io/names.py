"""What the name of a file says about which tomogram, and which half of it, it holds."""

from __future__ import annotations

import re
from pathlib import Path

from cryoaae.io.tilts import TILT_SUFFIXES

MAP_SUFFIXES = (".mrc", ".rec", ".map", ".st", ".ali")
PACKED_SUFFIXES = (".gz", ".bz2")
# What a store of subtomograms is known by.
STORE_SUFFIXES = (".h5", ".hdf5")
PIXEL_TOKEN = re.compile(r"[_-]\d+(?:\.\d+)?apx", re.IGNORECASE)
HALF_TOKEN = re.compile(r"(?:^|(?<=[_.\-\s]))(evn|even|odd|half1|half2)(?=[_.\-\s]|$)", re.IGNORECASE)
SIDES = {"evn": "even", "even": "even", "half1": "even", "odd": "odd", "half2": "odd"}


def match_name(path: Path) -> str:
    """Return a tomogram's name: the file's without tokens, or if nothing is left, its folder's."""
    for name in (_stem(path), *(folder.name for folder in path.absolute().parents)):
        bare = re.sub(r"[_.\-\s]{2,}", "_", HALF_TOKEN.sub("", PIXEL_TOKEN.sub("", name))).strip("_.- \t\n")
        if bare:
            return bare
    return path.name


def _stem(path: Path) -> str:
    name = path.name
    for suffixes in (PACKED_SUFFIXES, MAP_SUFFIXES + TILT_SUFFIXES):
        if name.lower().endswith(suffixes):
            name = name[: name.rindex(".")]
    return name


def side_of(path: Path) -> str:
    """Return "even", "odd" or "": which half the name, or else the folder, says a file is."""
    for name in (_stem(path), path.absolute().parent.name):
        found = {SIDES[token.lower()] for token in HALF_TOKEN.findall(name)}
        if len(found) == 1:
            return found.pop()
    return ""


def file_beside(star: Path, entry: object) -> Path | None:
    """File named in a STAR: from the working folder, or any folder above the STAR (the project's root)."""
    text = str(entry) if entry is not None else ""
    if text in ("", "None", "nan", "<NA>"):
        return None
    for folder in (Path(), *star.absolute().parents):
        if (folder / text).exists():
            return folder / text
    return Path(text)
