"""Memory that a container may use: its limit, less what is taken, files it may drop not counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoaae.runs import resources


def test_cached_files_do_not_count_as_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    monkeypatch.setattr(resources, "Path", lambda name: tmp_path / Path(name).name)
    assert resources.available_memory_bytes() == 100_000
    (tmp_path / "memory.stat").write_text("anon 250000\ninactive_file 600000\nslab_reclaimable 50000\n")
    assert resources.available_memory_bytes() == 750_000
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.available_memory_bytes() > 1_000_000
