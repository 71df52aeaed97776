"""The page beside a restoration: its parts add up, its share is right, and it stands where the restoration does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.io.mrc import write_volume
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import restoration_report
from cryoaae.restoration.restoration_report import filled_share, middle, without_margin
from cryoaae.restoration.restore import plan_restore, restore

WEDGE = MissingWedge((-60.0, 60.0))
SHAPE = (20, 22, 24)


class Same(torch.nn.Module):
    """A restorer that changes nothing."""

    halo, multiple = 0, 1
    spec = SimpleNamespace(working_bin=1, voxel_size_angstrom=10.0)

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.gain * y


@pytest.fixture
def given(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(50, 4, SHAPE).astype(np.float32)
    path = tmp_path / "in" / "ts.mrc"
    path.parent.mkdir()
    write_volume(path, noise, voxel_size_angstrom=10.0)
    return path


def made(given: Path, output: Path, **keywords: object) -> list:
    return restore([given], output, model=Same(), device="cpu", tilt_range=(-60, 60), report=True, **keywords)


@pytest.mark.parametrize("shape", [(7, 9, 40), (60, 46, 51)])
def test_what_is_shown_is_the_middle_with_what_lies_around_it_or_its_mirror_image(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoration_report, "LARGEST_ZYX", (10, 20, 50))
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = middle(volume)
    shown = tuple(min(pair) for pair in zip(shape, (10, 20, 50), strict=True))
    assert without_margin(found).shape == shown
    starts = [(size - length) // 2 for size, length in zip(shape, shown, strict=True)]
    expected = volume[tuple(slice(a, a + n) for a, n in zip(starts, shown, strict=True))]
    assert np.array_equal(without_margin(found), expected)
    margin = restoration_report.MARGIN
    beside = found[margin - 1, margin:-margin, margin:-margin]
    rows, columns = (slice(a, a + n) for a, n in zip(starts[1:], shown[1:], strict=True))
    assert np.array_equal(beside, volume[max(starts[0] - 1, 0), rows, columns])


def test_the_share_is_one_of_a_wave_in_the_wedge_and_none_of_one_that_was_measured() -> None:
    z, _, x = np.meshgrid(*[np.arange(48)] * 3, indexing="ij")
    for wave, share in ((np.cos(2 * np.pi * z / 6), 1.0), (np.cos(2 * np.pi * x / 6), 0.0)):
        volume = torch.from_numpy(wave.astype(np.float32))
        filled = volume - WEDGE.solid().measured(volume)
        assert filled_share(volume.numpy(), filled.numpy()) == pytest.approx(share, abs=0.02)


def test_a_page_is_written_beside_the_mean_and_made_again_only_if_it_is_gone(given: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mrc"
    (first,) = made(given, output)
    page = tmp_path / "out.html"
    assert first.report == page
    assert "was predicted" in page.read_text()
    assert page.read_text().count("data:image/png") == 2
    written = page.stat().st_mtime_ns
    assert made(given, output)[0].skipped
    assert page.stat().st_mtime_ns == written
    page.unlink()
    assert made(given, output)[0].report == page
    assert page.exists()


def test_a_page_of_somebody_else_is_not_replaced(given: Path, tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("mine")
    options = {"model": Same(), "tilt_range": (-60, 60), "report": True}
    for asked in (plan_restore, restore):
        with pytest.raises(InputError, match=r"out\.html"):
            asked([given], tmp_path / "out.mrc", **options)
    assert (tmp_path / "out.html").read_text() == "mine"
    assert not (tmp_path / "out.mrc").exists()
