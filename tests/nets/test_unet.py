"""What restoring relies on: reach, homogeneity, silence."""

from __future__ import annotations

import pytest
import torch

from cryoaae.nets.unet import UNet


def awake(widths: tuple[int, ...], **keywords: object) -> UNet:
    """A network whose last layer is not zero."""
    torch.manual_seed(0)
    net = UNet(in_channels=1, widths=widths, **keywords)  # type: ignore[arg-type]
    torch.nn.init.normal_(net.last.weight)
    return net.eval()


@pytest.mark.parametrize("widths", [(4,), (4, 6), (2, 4, 4)])
def test_nothing_further_than_the_radius_is_seen(widths: tuple[int, ...]) -> None:
    net = awake(widths)
    n = 2 * net.radius + 2 * net.multiple
    n += -n % net.multiple
    x = torch.randn(1, 1, n, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    at = n // 2
    net(x)[0, 0, at].sum().backward()
    seen = torch.nonzero(x.grad.abs().amax(dim=(0, 1, 3, 4))).flatten()  # type: ignore[union-attr]
    reach = max(at - int(seen.min()), int(seen.max()) - at)
    assert reach <= net.radius
    assert reach >= net.radius // 2  # not a bound that wastes work


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
