"""STAR files as text: every value is kept as it was written, so that what is not touched stays the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text

MAX_STAR_BYTES = 2_000_000_000
LABEL = re.compile(r"^\s*_(\S+)", re.MULTILINE)
VERSION = re.compile(r"^#\s*version\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class StarFile:
    """The blocks of a STAR file, in order.

    Parameters
    ----------
    blocks : dict
        Name to a pandas table (a loop) or a dict (label to value); every value is a string.
    version : str
        RELION's number in "# version 50001", by which it reads a file; empty where there is none.
    """

    blocks: dict[str, Any]
    version: str = ""

    def table(self, *labels: str) -> tuple[str, Any] | None:
        """Name and pandas table of the first block that has all labels; a single entry becomes one row."""
        import pandas as pd

        for name, block in self.blocks.items():
            if block is not None and set(labels) <= set(block):
                return name, pd.DataFrame([block]) if isinstance(block, dict) else block
        return None


def read_star(path: Path | str) -> StarFile:
    """Read a STAR file.

    Raises
    ------
    InputError
        When the file is missing, empty or no STAR file.
    """
    import starfile

    path = Path(path)
    text = _text(path)
    labels = sorted(set(LABEL.findall(text)))
    if not labels:
        raise InputError(path, "not a STAR file: no line starts with _label", "give a particle or tomogram STAR")
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=labels)
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(path, f"not a readable STAR file ({said})", "write it again") from error
    found = VERSION.search(text)
    return StarFile(dict(blocks), found.group(1) if found else "")


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(path, "0 bytes", "copy or write the file again")
        if size > MAX_STAR_BYTES:
            raise InputError(path, f"{size} bytes: too large for a STAR file", "check the name")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the name") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "not a text file", "give a STAR file") from error


def write_star(path: Path | str, star: StarFile, *, overwrite: bool = False) -> None:
    """Write a STAR file whole or not at all; tables keep their order, columns and values.

    Comments other than RELION's version, and spacing, are not kept.
    """
    import starfile

    text = starfile.to_string(star.blocks, na_rep="nan")
    if star.version:
        text = re.sub(r"^data_", f"# version {star.version}\n\ndata_", text, flags=re.MULTILINE)
    write_text(Path(path), text, overwrite=overwrite)


def numbers(path: Path, table: Any, labels: Sequence[str], default: float | None = None) -> NDArray[np.float64]:
    """Columns of a table as float64 (rows, labels).

    Parameters
    ----------
    path : path
        Named in errors.
    table : pandas table
    labels : sequence of str
    default : float, optional
        For labels the table lacks; without it they are an error.

    Raises
    ------
    InputError
        Naming the row and value that is not a finite number.
    """
    out = np.empty((len(table), len(labels)))
    for i, label in enumerate(labels):
        if label not in table:
            if default is None:
                raise InputError(path, f"has no column {label}", "give a file with it")
            out[:, i] = default
            continue
        for row, text in enumerate(table[label]):
            try:
                out[row, i] = float(text)
            except (TypeError, ValueError):
                out[row, i] = np.nan
            if not np.isfinite(out[row, i]):
                raise InputError(path, f"row {row + 1}: {label} is {text!r}, not a finite number", "correct the row")
    return out
