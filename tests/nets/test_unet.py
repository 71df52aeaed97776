"""What restoring relies on: reach, homogeneity, silence."""

from __future__ import annotations

import pytest
import torch

from cryoaae.nets import boxes
from cryoaae.nets.unet import UNet


def awake(widths: tuple[int, ...], **keywords: object) -> UNet:
    """A network whose last layer is not zero."""
    torch.manual_seed(0)
    net = UNet(in_channels=1, widths=widths, **keywords)  # type: ignore[arg-type]
    torch.nn.init.normal_(net.last.weight)
    return net.eval()


@pytest.mark.parametrize("widths", [(4,), (4, 6), (2, 4, 4)])
def test_beyond_a_box_nothing_further_than_the_reach_is_seen_and_no_halo_is_wasted(widths: tuple[int, ...]) -> None:
    net = awake(widths)
    start = -(-(net.reach + 4) // net.multiple) * net.multiple
    box = slice(start, start + net.multiple)
    x = torch.randn(1, 1, 2 * start + net.multiple, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net(x)[0, 0, box].square().sum().backward()
    seen = torch.nonzero(x.grad.abs().amax(dim=(0, 1, 3, 4))).flatten()  # type: ignore[union-attr]
    assert int(seen.min()) == box.start - net.reach
    assert int(seen.max()) == box.stop - 1 + net.reach


@pytest.mark.parametrize(("widths", "keywords"), [
    ((4,), {}), ((4, 6), {"convolutions": 1}), ((4, 6, 8), {"conditions": 3}), ((2, 4, 4), {"bias": True}),
])  # fmt: skip
def test_box_by_box_it_gives_the_same(
    widths: tuple[int, ...], keywords: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = awake(widths, **keywords)
    generator, told = torch.Generator().manual_seed(1), None
    if net.gains is not None:
        torch.nn.init.normal_(net.gains.second.weight, std=0.3)
        told = torch.randn(1, 3, generator=generator)
    x, sizes = torch.randn(1, 1, 24, 32, 40, generator=generator), []
    net.down[0].register_forward_hook(lambda _m, _i, out: sizes.append(out[0, 0].numel()))
    with torch.inference_mode():
        whole = net(x, told)
        monkeypatch.setattr(boxes, "BOX_VOXELS", 6000)
        made = net(x, told)
    assert len(sizes) > 3
    assert max(sizes[1:]) <= 6000
    assert torch.allclose(made, whole, atol=1e-5 * float(whole.std()))
    wanted = net(x.clone().requires_grad_(), told)  # with gradients in one piece
    assert torch.allclose(wanted, whole, atol=1e-5 * float(whole.std()))


def test_silence_in_is_silence_out_and_scale_passes_through() -> None:
    net = awake((4, 8))
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float(net(torch.zeros_like(x)).abs().max()) == 0
        assert torch.allclose(net(3 * x), 3 * net(x), rtol=1e-4, atol=1e-4)


def test_biases_would_break_it() -> None:
    net = awake((4, 8), bias=True)
    with torch.no_grad():
        assert float(net(torch.zeros(1, 1, 8, 8, 8)).abs().max()) > 0


def test_starts_as_nothing() -> None:
    torch.manual_seed(0)
    net = UNet(in_channels=2, widths=(4, 8))
    assert float(net(torch.randn(1, 2, 8, 8, 8)).detach().abs().max()) == 0


def test_every_level_is_awake_at_the_start() -> None:
    """Signals keep their size through the network, so that the deep path learns from the first step."""
    torch.manual_seed(0)
    net = UNet(in_channels=1, widths=(8, 16, 16))
    sizes = []
    for block in (*net.down, *net.up):
        block.register_forward_hook(lambda _m, _i, out: sizes.append(float(out.detach().std())))
    net(torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert min(sizes) > 0.05
    assert max(sizes) < 4
