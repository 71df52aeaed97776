"""The relative size of a restoration's error."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.nets.error_size import LOOKS, ErrorSize, looks_of, smoothed


@pytest.fixture
def restored() -> torch.Tensor:
    """A quiet half and a loud one."""
    generator = torch.Generator().manual_seed(0)
    noise = smoothed(torch.randn(24, 28, 32, generator=generator), 1.0)
    return noise * torch.linspace(0.1, 3.0, 32)


@pytest.fixture
def drawn() -> ErrorSize:
    torch.manual_seed(1)
    return ErrorSize().requires_grad_(False)


def test_units_do_not_matter(drawn: ErrorSize, restored: torch.Tensor) -> None:
    torch.testing.assert_close(drawn(1e3 * restored), drawn(restored), rtol=1e-3, atol=1e-4)


def test_bright_or_dark_does_not_matter(drawn: ErrorSize) -> None:
    generator = torch.Generator().manual_seed(3)
    skewed = smoothed(torch.rand(24, 28, 32, generator=generator) ** 8, 1.0)
    torch.testing.assert_close(drawn(-skewed), drawn(skewed))


def test_the_mean_square_is_one_where_it_counts(drawn: ErrorSize, restored: torch.Tensor) -> None:
    where = torch.zeros(restored.shape, dtype=torch.bool)
    where[4:-4, 5:20, 7:] = True
    size = drawn(restored, where)
    assert float(size[where].square().mean()) == pytest.approx(1.0, abs=1e-5)
    assert size.min() > 0


def test_looks_know_the_loud_half(restored: torch.Tensor) -> None:
    looks = looks_of(restored).reshape(LOOKS, *restored.shape)
    for sigma in range(4):  # local power, in logarithms
        assert looks[sigma][..., 24:28].mean() > looks[sigma][..., 8:12].mean() + 0.5


def test_silence_is_no_fault(drawn: ErrorSize) -> None:
    assert drawn(torch.zeros(8, 8, 8)).isfinite().all()


def test_a_file_gives_it_back(drawn: ErrorSize, restored: torch.Tensor, tmp_path: Path) -> None:
    drawn.save(tmp_path / "size.safetensors", {"scenes": 3})
    assert torch.equal(ErrorSize.load(tmp_path / "size.safetensors")(restored), drawn(restored))


def test_other_weights_are_refused() -> None:
    with (
        as_file(files("cryoaae") / "weights" / "general.safetensors") as path,
        pytest.raises(InputError, match="error's size"),
    ):
        ErrorSize.load(path)
