"""A restorer for any tomogram as a model to fit: one phase, the error against the truth of simulations.

    loss = sum_k w(k) |F(f(y) - x)(k)|^2 / (the same of the Wiener estimate)

As a share of what the linear filter leaves, half of it in the patch and half in its tomogram, so that quiet and noisy
tomograms weigh alike and neither empty nor crowded patches weigh too much. w whitens by the noise and weighs what the
tilts did not measure as the self-supervised loss does (`models.pair_fitting`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.models.phase import Phase
from cryoaae.nets.unet import UNet
from cryoaae.patches.spectra import interpolate
from cryoaae.physics.fourier import multiplicity, radius, rfft, taper


@dataclass(frozen=True)
class SceneBatch:
    """Patches of simulated tomograms for one step, on the device.

    Parameters
    ----------
    inputs : (b, 2, p, p, p)
        Tomogram and its Wiener estimate; larger than the targets where a margin is shown.
    targets : (b, 1, p, p, p)
        Truth, in the tomogram's units.
    kept : (b, 1, p, p, p // 2 + 1) bool
        What the tilts measured.
    shell_weight : (b, shells)
    baseline : (b,)
        Error of the Wiener estimate over its tomogram, as `squared_error` gives it.
    condition : (b, c)
        See `patches.imaging`.
    """

    inputs: Tensor
    targets: Tensor
    kept: Tensor
    shell_weight: Tensor
    baseline: Tensor
    condition: Tensor


def squared_error(error: Tensor, kept: Tensor, shell_weight: Tensor, hidden_weight: float) -> Tensor:
    """Whitened squared error a voxel of each patch, (b,), tapered so that faces do not leak in Fourier space."""
    box, device = error.shape[-3:], error.device
    spectrum = rfft(error * taper(box, device=device))[:, 0]
    position = (radius(box, device=device) * 2).clamp(max=1.0)
    weight = torch.stack([interpolate(curve, position) for curve in shell_weight]) * multiplicity(box, device=device)
    weight = weight * torch.where(kept[:, 0], 1.0, hidden_weight)
    return (weight * (spectrum.real**2 + spectrum.imag**2)).sum(dim=(-3, -2, -1)) / error[0].numel()


class GeneralFitting(nn.Module):
    """Fit a network on simulated tomograms.

    Parameters
    ----------
    network : UNet
        With two input channels and conditions.
    hidden_weight : float
        Weight of what was not measured.
    margin : int
        Voxels of the inputs ahead of the targets, which are shown and not judged; as many as are left lie behind.
    precision : torch.dtype
        Of the network's layers; weights, steps and the error stay in float32.
    """

    def __init__(
        self,
        network: UNet,
        hidden_weight: float = 2.0,
        margin: int = 0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network, self.hidden_weight, self.margin, self.precision = network, hidden_weight, margin, precision

    def phases(self) -> list[Phase]:
        """One phase: the network's weights descend the error."""
        return [Phase("scenes", list(self.network.parameters()), self._losses, orthogonal=True)]

    def _losses(self, batch: SceneBatch) -> dict[str, Tensor]:
        return {"scenes": self.error(batch)}

    def held_out_loss(self, batch: SceneBatch) -> Tensor:
        """The same on scenes kept out of fitting."""
        return self.error(batch)

    def error(self, batch: SceneBatch) -> Tensor:
        """Share of the Wiener estimate's error that is left, mean over the batch."""
        linear = batch.inputs[:, 1:]
        z, y, x = (slice(self.margin, self.margin + n) for n in batch.targets.shape[-3:])
        lower = torch.autocast(linear.device.type, self.precision, enabled=self.precision != torch.float32)
        with lower:
            added = self.network(batch.inputs, batch.condition)
        estimates = linear + added.float(), linear
        errors = [estimate[..., z, y, x] - batch.targets for estimate in estimates]
        left, linear_left = (
            squared_error(error, batch.kept, batch.shell_weight, self.hidden_weight) for error in errors
        )
        return (left / (0.5 * linear_left + 0.5 * batch.baseline)).mean()
