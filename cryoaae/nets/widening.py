"""A wider network that does the same, to train further: what was learned is kept, and there is room for more.

New channels get random filters, so that they differ; whatever reads them starts with a weight of zero, so that the
output is what it was (T. Chen, I. Goodfellow, J. Shlens, Net2Net, ICLR 2016, without their copies of channels).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.nets.unet import UNet


def widened(network: UNet, widths: Sequence[int]) -> UNet:
    """Give a U-Net more channels.

    Parameters
    ----------
    network : UNet
        Left as it is.
    widths : sequence of int
        Channels at each resolution, none fewer than the network has.

    Returns
    -------
    UNet
        With the same output for every input; its new filters come from torch's global generator.

    Raises
    ------
    ValueError
        If a level would be narrower, or there are more or fewer levels.
    """
    if len(widths) != network.levels or any(new < old for new, old in zip(widths, network.widths, strict=True)):
        raise ValueError(f"a network of {network.widths} channels cannot be widened to {tuple(widths)}")
    old = network.state_dict()
    wider = UNet(
        in_channels=old["down.0.0.conv.weight"].shape[1], widths=widths, convolutions=network.convolutions,
        bias="down.0.0.conv.bias" in old, conditions=network.conditions,
    )  # fmt: skip
    new = wider.state_dict()
    for name, weight in new.items():
        _keep(name, weight, old[name], network, wider)
    wider.load_state_dict(new)
    return wider


def _keep(name: str, weight: Tensor, old: Tensor, network: UNet, wider: UNet) -> None:
    """Write the old weights into their places of the new ones, and zeros where old channels read new ones."""
    if name.startswith("gains."):
        if name.startswith("gains.second."):
            weight.zero_()
            weight[_places(network.blocks, wider.blocks)] = old
        else:
            weight.copy_(old)
        return
    if old.ndim == 1:
        weight[: len(old)] = old
        return
    outputs = torch.arange(old.shape[0])
    kind, _, rest = name.partition(".")
    level, _, layer = rest.partition(".")
    # The first convolution on the way up reads two sets of channels, one after the other.
    if kind == "up" and layer.startswith("0."):
        narrow, broad = network.widths[int(level)], wider.widths[int(level)]
        inputs = _places([narrow, narrow], [broad, broad])
    else:
        inputs = torch.arange(old.shape[1])
    weight[outputs] = 0
    weight[outputs[:, None], inputs] = old


def _places(old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Where the channels of blocks one after another lie when each block is wider."""
    starts = [sum(new[:i]) for i in range(len(new))]
    return torch.cat([start + torch.arange(count) for start, count in zip(starts, old, strict=True)])
