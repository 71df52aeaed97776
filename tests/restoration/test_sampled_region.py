"""A box of a tomogram: its voxels are the whole's, and what is drawn in it joins what is drawn around it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.draw_sources import covering
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.sampled_region import SampledRegion
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume

SHAPE = (20, 40, 36)


class Same(torch.nn.Module):
    """A restorer that leaves things as they are."""

    halo, multiple = 0, 2
    spec = SimpleNamespace(working_bin=1, voxel_size_angstrom=10.0, tomograms=[])

    def forward(self, y: Tensor) -> Tensor:
        return y

    restore = forward


@pytest.fixture(scope="module")
def tomogram() -> WorkingTomogram:
    g = torch.Generator().manual_seed(0)
    volumes = [Volume(torch.randn(SHAPE, generator=g).numpy(), 10.0) for _ in "eo"]
    return WorkingTomogram.of(volumes, MissingWedge((-60.0, 60.0)), Same(), options=RestoreOptions())


def test_a_box_holds_the_voxels_of_the_whole(tomogram: WorkingTomogram) -> None:
    region = SampledRegion.about(tomogram, 24, (2, 39, 18))
    assert [(s.start, s.stop) for s in region.box] == [(0, 20), (16, 40), (6, 30)]
    inner = region.cut(tomogram)
    for mine, whole in zip(inner.halves, tomogram.halves, strict=True):
        torch.testing.assert_close(
            mine[covering(inner.plan.frame)], whole[covering(tomogram.plan.frame)][region.box]
        )
    assert inner.normalisation == tomogram.normalisation
    assert SampledRegion.about(tomogram, 48, None).cut(tomogram) is tomogram


def test_the_spread_goes_over_without_a_seam(tomogram: WorkingTomogram) -> None:
    region, g = SampledRegion.about(tomogram, 24, None), torch.Generator().manual_seed(1)
    size = [s.stop - s.start for s in region.box]
    drawn = [region.faded(torch.randn(size, generator=g), torch.randn(SHAPE, generator=g)) for _ in range(200)]
    spread = torch.stack(drawn).var(dim=0)
    for axis in range(3):
        profile = spread.mean(dim=[a for a in range(3) if a != axis])
        assert float((profile - 1).abs().max()) < 0.05
    middle = torch.ones(size), torch.zeros(SHAPE)
    assert float(region.faded(*middle)[10, 20, 18]) == pytest.approx(1.0)
    assert float(region.faded(*middle)[:, 0].abs().max()) == 0.0


@pytest.mark.parametrize("at", [(20, 0, 0), (0, -1, 0), (0, 0, 99)])
def test_a_place_outside_is_refused(tomogram: WorkingTomogram, at: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="outside"):
        SampledRegion.about(tomogram, 24, at)
