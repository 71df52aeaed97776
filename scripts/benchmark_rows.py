"""The book of rows that a benchmark keeps under docs/benchmarks: read, append, and where a row comes from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoaae.io.atomic import write_text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a book; none where there is no book yet."""
    return json.loads(path.read_text()) if path.exists() else []


def append(path: Path, row: Mapping[str, Any]) -> None:
    """One row a line, so that a new one changes nothing else."""
    lines = ",\n".join(json.dumps(r) for r in [*read_rows(path), row])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"[\n{lines}\n]\n")


def machine(device: str = "cpu") -> str:
    """What a row was measured on, in words."""
    if device != "cpu":
        import torch

        return f"GPU {torch.cuda.get_device_name(device)}"
    return f"{platform.machine()}, {os.cpu_count()} cores, CPU"


def provenance(device: str = "cpu") -> dict[str, str]:
    """Date, commit (with + where files differ from it) and machine."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=folder).stdout.strip()

    changed = "+" if git("status", "--porcelain", "--untracked-files=no", "--", ":/cryoaae", ":/scripts") else ""
    return {
        "date": time.strftime("%F"), "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + changed,
        "machine": machine(device),
    }  # fmt: skip
