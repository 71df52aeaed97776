"""What is fitted together is kept in memory or, when that is too much, in files; what fits nowhere is refused first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae.errors import ResourceError
from cryoaae.fitting import session as sessions
from cryoaae.fitting.loop import Loop
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.project import Tomogram
from cryoaae.patches.source import source_bytes

SIZE = 44
SMALL = FitSettings.from_spectrum(
    patch_size=16, block_size=36, blocks=2, renew_every=2, batch_size=1, widths=(4, 8), working_bin=1,
    minutes=None, steps=4, warm_up_steps=2, evaluations=2, refills=1,
)  # fmt: skip


def fitted(tomograms: list[Tomogram], scratch: Path, settings: FitSettings, go: Callable[..., None]) -> Loop:
    torch.manual_seed(0)
    loop = prepare(tomograms, settings, device=torch.device("cpu"), scratch=scratch, init=None).loop
    go(loop)
    return loop


def test_files_give_the_same_fit_as_memory(tomogram, go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [tomogram(), replace(tomogram(), name="u")]
    in_memory = fitted(pair, tmp_path / "a", SMALL, go)
    assert not (tmp_path / "a").exists()
    # Enough for either of the two, not for both with their filled copies.
    size = source_bytes(pair[0].volumes[0].shape, 2, 1)
    monkeypatch.setattr(sessions, "IN_MEMORY_BYTES", 3 * size)
    in_files = fitted(pair, tmp_path / "b", SMALL, go)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"t.npy", "u.npy", "t_filled.npy", "u_filled.npy"}
    assert sum(path.stat().st_size for path in (tmp_path / "b").iterdir()) == pytest.approx(4 * size, rel=0.01)
    for a, b in zip(in_memory.average.parameters(), in_files.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_fit_that_fits_nowhere_is_refused(tomogram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoaae.runs.resources.available_memory_bytes", lambda: 1e9)
    with pytest.raises(ResourceError, match=r"GB of memory, 1\.0 GB are free"):
        prepare([tomogram()], SMALL, device=torch.device("cpu"), scratch=tmp_path / "s", init=None)
    assert not (tmp_path / "s").exists()


def test_the_size_of_a_source_is_foretold(tomogram, tmp_path: Path) -> None:
    for settings in (SMALL, replace(SMALL, working_bin=2)):
        session = prepare([tomogram()], settings, device=torch.device("cpu"), scratch=tmp_path, init=None)
        (source,) = session.feed.pool.sources
        shape = tomogram().volumes[0].shape
        assert source.density.numel() * 4 == source_bytes(shape, 2, settings.working_bin or 1)
