"""Tilt angles from files, and whether they can be meant."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

from cryoaae.errors import InputError

log = logging.getLogger("cryoaae")

TILT_SUFFIXES = (".tlt", ".rawtlt")
MAX_TILT_BYTES = 1_000_000
# A series that stays below 1.6 of whatever unit is one of 90 degrees given in radians.
RADIANS_BELOW = 1.6


def read_tilts(path: Path | str, *, expected: int | None = None) -> tuple[float, ...]:
    """Read a .tlt or .rawtlt file: one angle in degrees a line.

    Blank lines, CRLF, commas, comments (#) and a byte order mark are passed over; an angle that
    comes twice counts once, with a warning.

    Parameters
    ----------
    path : path
        The file.
    expected : int, optional
        Number of projections the file must hold an angle for.

    Returns
    -------
    tuple of float
        Angles in degrees, in the order of the file.

    Raises
    ------
    InputError
        Naming the line or the angle that is wrong.
    """
    path = Path(path)
    tilts = _parse(path, _read_text(path))
    if expected is not None and len(tilts) != expected:
        raise InputError(
            path, f"{len(tilts)} angles for {expected} projections", "give the series' own tilt file"
        )
    if len(tilts) < 2:
        raise InputError(path, f"{len(tilts)} tilt angle(s)", "give one angle a line, in degrees")
    check_tilt_range(min(tilts), max(tilts), source=str(path))
    unique = tuple(dict.fromkeys(tilts))
    if len(unique) < len(tilts):
        log.warning("%s: %d tilt angles come more than once; counted once", path, len(tilts) - len(unique))
    return unique


def _read_text(path: Path) -> str:
    if path.suffix.lower() not in TILT_SUFFIXES:
        raise InputError(
            path, f"suffix {path.suffix or '(none)'} is not read", f"give {' or '.join(TILT_SUFFIXES)}"
        )
    try:
        if path.stat().st_size > MAX_TILT_BYTES:
            raise InputError(path, "too large for a list of angles", "give a .tlt file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the name") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "not a text file", "give one angle a line, in degrees") from error


def _parse(path: Path, text: str) -> list[float]:
    tilts = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.split("#", 1)[0].strip()
        words = [
            word
            for word in re.split(r"\s*[,;]\s*" if re.search("[,;]", content) else r"\s+", content)
            if word
        ]
        if len(words) > 1 and not re.search("[,;]", content):
            raise InputError(
                path, f"line {number} has {len(words)} columns", "give one angle a line, in degrees"
            )
        for word in words:
            try:
                value = float(word)
            except ValueError as error:
                raise InputError(
                    path, f"line {number}: {word[:40]!r} is not a number", "correct the line"
                ) from error
            if not math.isfinite(value):
                raise InputError(path, f"line {number}: angle {word[:40]} is not finite", "correct the line")
            tilts.append(value)
    return tilts


def check_tilt_range(lo: float, hi: float, source: str = "--tilt-range") -> None:
    """Refuse a tilt range, in degrees, that cannot be meant.

    Raises
    ------
    InputError
        When an end is not finite or beyond 90 degrees, when the range is reversed or has no width,
        or looks like radians.
    """
    text = f"tilt range {lo:g} to {hi:g}"
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise InputError(source, f"{text} is not finite", "give two numbers in degrees")
    if max(abs(lo), abs(hi)) > 90:
        raise InputError(source, f"{text} degrees goes beyond 90", "give angles from -90 to 90 degrees")
    if lo > hi:
        raise InputError(source, f"{text} degrees is reversed", f"give {hi:g} {lo:g}")
    if lo == hi:
        raise InputError(source, f"{text} degrees has no width", "give the lowest and the highest angle")
    if max(abs(lo), abs(hi)) < RADIANS_BELOW:
        raise InputError(source, f"{text} looks like radians", "give degrees")
    if lo == -90 and hi == 90:
        log.warning("%s: tilt range -90 to 90 degrees leaves no wedge missing", source)


def parse_tilt_axis(axis: float | str) -> float:
    """Tilt axis in degrees from y towards x, from "y", "x" or a number.

    Raises
    ------
    InputError
        When it is none of them.
    """
    named = {"y": 0.0, "x": 90.0}
    if isinstance(axis, str) and axis.strip().lower() in named:
        return named[axis.strip().lower()]
    try:
        value = float(axis)
    except ValueError:
        value = float("nan")
    if not -360 <= value <= 360:
        raise InputError("--tilt-axis", f"{axis!r} is not an axis", "give y, x or degrees from y towards x")
    return value
