"""What a result was made with and from."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cryoaae", "torch", "monai", "numpy", "mrcfile")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def file_facts(path: Path) -> dict[str, Any]:
    """Path, size and digest of a file. Its time is left out: copying changes it, editing need not."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path.resolve()), "bytes": path.stat().st_size, "sha256": digest}


def same_files(facts: Sequence[dict[str, Any]], paths: Sequence[Path]) -> bool:
    """Whether files, wherever they lie now, hold what `file_facts` was told of, in the same order."""
    if len(facts) != len(paths) or [f.get("bytes") for f in facts] != [p.stat().st_size for p in paths]:
        return False
    return all(f.get("sha256") == file_facts(p)["sha256"] for f, p in zip(facts, paths, strict=True))
