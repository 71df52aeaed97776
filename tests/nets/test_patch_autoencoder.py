"""The autoencoder of patches: nothing past the codes, no seams, the same result however a volume is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cryoaae.nets.patch_autoencoder import PatchAutoencoder
from cryoaae.nets.unet import UNet

PATCH, STEP, DIM = 8, 4, 5


def network(**keywords: object) -> PatchAutoencoder:
    torch.manual_seed(0)
    return PatchAutoencoder(patch=PATCH, dim=DIM, widths=(4, 8), units=16, **keywords)  # type: ignore[arg-type]


def volume(*shape: int) -> Tensor:
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))


def test_patches_are_laid_where_their_windows_were_and_blend_to_what_they_agree_on() -> None:
    made = network()
    field = torch.randn(1, 24, 16, 20, generator=torch.Generator().manual_seed(2))
    windows = field.unfold(1, PATCH, STEP).unfold(2, PATCH, STEP).unfold(3, PATCH, STEP)
    made.decoded = lambda codes: windows.reshape(-1, PATCH, PATCH, PATCH)  # type: ignore[method-assign]
    out = made.decode([torch.zeros(1, DIM, *windows.shape[1:4])])
    assert torch.allclose(out[:, 0], field, atol=1e-4), "to the very faces"


def test_codes_have_the_order_of_their_windows() -> None:
    made, x = network(), volume(16, 12, 8)
    (codes,) = made.encode(x)
    assert codes.shape == (2, DIM, 3, 2, 1)
    alone = made.encode(x[1:, :, 8:16, 4:12, :])[0][0, :, 0, 0, 0]
    assert torch.allclose(codes[1, :, 2, 1, 0], alone, atol=1e-5)
    changed = codes.clone()
    changed[1, :, 2, 1, 0] += 1
    moved = (made.decode([changed]) - made.decode([codes])).detach().abs().amax(dim=1)
    assert float(moved[0].max()) == 0
    inside = torch.zeros_like(moved[1], dtype=torch.bool)
    inside[8:, 4:] = True
    assert float(moved[1][~inside].max()) == 0
    assert bool((moved[1][inside] > 0).float().mean() > 0.9)


def test_what_is_a_patch_away_from_a_cut_does_not_know_of_it() -> None:
    made, x = network(), volume(32, 32, 32)
    whole, part = made(x), made(x[..., STEP : STEP + 24])
    inner = slice(made.reach, 24 - made.reach)
    shifted = slice(STEP + made.reach, STEP + 24 - made.reach)
    assert torch.allclose(part[..., inner], whole[..., shifted], atol=1e-5)


def test_only_the_linear_estimate_is_seen_and_only_the_mean_of_a_law_is_decoded() -> None:
    made, x = network(variational=True), volume(8, 8, 8)
    (law,) = made.encode(x)
    assert law.shape[1] == 2 * DIM
    other = x.clone()
    other[:, 0] += 1
    assert torch.equal(made.encode(other)[0], law)
    wider = law.clone()
    wider[:, DIM:] += 1
    assert torch.equal(made.decode([wider]), made.decode([law]))


def test_codes_begin_in_the_units_of_their_prior() -> None:
    made, x = network(), 5 + 3 * volume(24, 24, 24)
    made.standardise(x)
    codes = made.encode(x)[0].detach().movedim(1, -1).reshape(-1, DIM)
    assert torch.allclose(codes.mean(dim=0), torch.zeros(DIM), atol=1e-4)
    assert torch.allclose(codes.std(dim=0), torch.ones(DIM), atol=1e-4)
    unet = UNet(widths=(4, 8), code=DIM)
    torch.nn.init.normal_(unet.last.weight)
    before = unet(x)
    unet.standardise(x)
    assert torch.allclose(unet(x), before, rtol=1e-3, atol=1e-4), "scaled, and scaled back"
    assert torch.allclose(unet.encode(x)[-1].square().mean(dim=(0, 2, 3, 4)), torch.ones(DIM), atol=1e-3)


def test_sizes_that_are_no_whole_patches_are_refused() -> None:
    for shape in ((8, 8, 10), (4, 8, 8)):
        with pytest.raises(ValueError, match="whole patches of 8"):
            network().encode(volume(*shape))
    with pytest.raises(ValueError, match="halved 2 times"):
        PatchAutoencoder(patch=6, widths=(4, 8))
