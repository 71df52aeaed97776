"""Patches of a volume: what they add up, and that blending them leaves no seams."""

from __future__ import annotations

import itertools

import pytest
import torch

from cryoaae.sampling.places import Places

SHAPE = (9, 11, 8)


@pytest.mark.parametrize(("patch", "step"), [(1, 1), (3, 2), (4, 3), (5, 1), (8, 8)])
def test_sums_and_blends_are_those_of_the_patches(patch: int, step: int) -> None:
    places = Places(SHAPE, patch, step)
    field = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    parts = [
        field[z : z + patch, y : y + patch, x : x + patch].sum() for z, y, x in itertools.product(*places.starts)
    ]
    torch.testing.assert_close(places.sums(field), torch.stack(parts), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(places.blended(torch.ones(len(places))), torch.ones(SHAPE))
    # A place has a say inside its patch and nowhere else, most in its middle.
    for index in (0, len(places) // 2, len(places) - 1):
        window = places.blended(torch.eye(len(places))[index])
        inside = (torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij"), dim=-1)
                  - places.centres_zyx[index]).abs().amax(dim=-1) <= (patch - 1) / 2  # fmt: skip
        assert torch.equal(window > 0, inside)


@pytest.mark.parametrize(("patch", "step"), [(0, 1), (9, 2), (13, 2), (3, 4), (3, 0)])
def test_patches_that_do_not_cover_are_refused(patch: int, step: int) -> None:
    with pytest.raises(ValueError, match="patches of"):
        Places(SHAPE, patch, step)
