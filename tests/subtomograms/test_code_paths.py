"""Principal modes of styles, and arcs between them: laws that hold for any codes."""

from __future__ import annotations

import math

import pytest
import torch

from cryoaae.subtomograms.code_paths import between, code_modes


def styles(n: int = 40, dim: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, dim, generator=generator) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])[:dim]) + 7


def test_modes_add_up_to_the_covariance_and_are_one_standard_deviation() -> None:
    z = styles()
    modes = code_modes(z)
    centred = z - z.mean(dim=0)
    assert torch.allclose(modes.directions.T @ modes.directions, centred.T @ centred / len(z), atol=1e-4)
    along = torch.stack([modes.coordinates(one) for one in z])
    assert torch.allclose(along.square().mean(dim=0), torch.ones(5), atol=1e-4)
    assert torch.allclose(along.mean(dim=0), torch.zeros(5), atol=1e-4)
    assert float(modes.shares.sum()) == pytest.approx(1.0, abs=1e-5)
    assert modes.shares.tolist() == sorted(modes.shares.tolist(), reverse=True)


def test_moving_along_a_mode_changes_no_other_coordinate_and_nothing_outside_the_modes() -> None:
    z = styles(n=3)  # three styles span two modes
    modes = code_modes(z)
    assert len(modes.directions) == 2
    away = torch.full((5,), 9.0)
    moved = modes.moved(away, 1, -1.5)
    before, after = modes.coordinates(away), modes.coordinates(moved)
    assert float(after[1]) == pytest.approx(-1.5, abs=1e-4)
    assert float(after[0]) == pytest.approx(float(before[0]), abs=1e-3)
    assert torch.allclose(modes.moved(moved, 1, float(before[1])), away, atol=1e-4)


@pytest.mark.parametrize("z", [torch.zeros(0, 4), torch.ones(1, 4), torch.ones(6, 4)])
def test_too_few_or_equal_styles_have_no_modes(z: torch.Tensor) -> None:
    if len(z) == 0:
        with pytest.raises(ValueError, match="no styles"):
            code_modes(z)
    else:
        assert code_modes(z).directions.shape == (0, 4)


def test_the_way_between_keeps_its_ends_its_plane_and_an_even_length_and_turn() -> None:
    a, b = styles()[:2]
    way = between(a, b, 7)
    assert torch.allclose(way[0], a, atol=1e-4)
    assert torch.allclose(way[-1], b, atol=1e-4)
    lengths = torch.linalg.vector_norm(way, dim=1)
    assert torch.allclose(lengths.diff(), lengths.diff()[:1].expand(6), atol=1e-4)
    unit = way / lengths[:, None]
    turns = torch.arccos((unit[:-1] * unit[1:]).sum(dim=1).clamp(-1, 1))
    assert torch.allclose(turns, turns[:1].expand(6), atol=1e-3)
    assert torch.linalg.matrix_rank(way, atol=1e-3) == 2
    assert torch.allclose(between(b, a, 7), way.flip(0), atol=1e-4)


@pytest.mark.parametrize(
    ("a", "b"), [((1.0, 0.0), (-2.0, 0.0)), ((1.0, 1.0), (2.0, 2.0)), ((0.0, 0.0), (3.0, 4.0))]
)
def test_styles_without_a_plane_are_joined_by_a_straight_line(a: tuple, b: tuple) -> None:
    first, second = torch.tensor(a), torch.tensor(b)
    middle = between(first, second, 3)[1]
    assert torch.allclose(middle, (first + second) / 2)
    assert math.isfinite(float(middle.sum()))
