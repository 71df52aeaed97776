"""A 3-D autoencoder of overlapping patches, without skips: a volume of any size by way of codes alone.

    code = E(window of p voxels) every p / 2 voxels,     out = sum over windows of w A(code) / sum of w

Every voxel away from the faces lies in eight windows, whose decoded patches are blended with strictly positive weights.
Windows start at multiples of half a patch, so what comes out does not depend on how a tomogram is cut into tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cryoaae.draws import Draws
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import initialise
from cryoaae.nets.volumetric import STRIDE, VolumeDecoder, VolumeTrunk

# Windows that are encoded or decoded at once.
CHUNK = 512


class PatchAutoencoder(nn.Module):
    """Encoder and decoder of patches in place of a U-Net.

    Parameters
    ----------
    in_channels : int
        Channels of the input, of which the last alone is seen: the linear estimate, for what that leaves out is noise.
    patch : int
        Edge of a window, a multiple of 2 and of 2^len(widths).
    dim : int
        Length of a code.
    widths : sequence of int
        Channels after each halving of a patch.
    units : int
        Of the hidden layers next to the code.
    variational : bool
        Whether the encoder gives a Gaussian law, for a divergence that is taken per code (KL).

    Notes
    -----
    As a U-Net's, its features are a list; there is one, the codes (b, dim, z, y, x) on the grid of the windows, or
    their means and logarithms of standard deviations (b, 2 dim, z, y, x), of which the decoder takes the means.
    """

    adds_to_linear = False
    gains = None
    ramp: Tensor
    scale: Tensor

    def __init__(
        self,
        in_channels: int = 2,
        patch: int = 16,
        dim: int = 64,
        widths: Sequence[int] = (16, 32, 64),
        units: int = 256,
        variational: bool = False,
    ) -> None:
        super().__init__()
        if patch % STRIDE ** len(widths):
            raise ValueError(f"a patch of {patch} voxels cannot be halved {len(widths)} times")
        self.patch, self.code_dim, self.variational = patch, dim, variational
        kind = "gaussian" if variational else "deterministic"
        self.encoder = Encoder(VolumeTrunk(patch, widths, units), dim, kind=kind)
        self.decoder = VolumeDecoder(dim, patch, widths, units)
        ramp = torch.sin(math.pi * (torch.arange(patch) + 0.5) / patch).square()
        self.register_buffer("ramp", ramp, persistent=False)
        # Standard deviation of the input; in between all is in its units.
        self.register_buffer("scale", torch.tensor(1.0))
        # From torch's own generator, as other networks are.
        initialise(self, Draws.seeded(int(torch.randint(2**31, (1,)))))

    @property
    def multiple(self) -> int:
        """Spatial sizes must be multiples of this, and twice as large at least."""
        return self.patch // 2

    @property
    def reach(self) -> int:
        """How far beyond a box it looks, in voxels, if the box starts and ends at multiples of `multiple`."""
        return self.patch

    @property
    def voxel_channels(self) -> float:
        """Numbers kept for each voxel of the input: windows, decoded patches and codes."""
        return 8 * (2.0 + self.code_dim / self.patch**3)

    @property
    def last(self) -> nn.Module:
        """The layer that patches come from."""
        *_, layer = (part for part in self.decoder.modules() if isinstance(part, nn.ConvTranspose3d))
        return layer

    def encode(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """(b, c, z, y, x) -> codes of all windows, [(b, dim, z / step - 1, ...)].

        Raises
        ------
        ValueError
            If a size is not a multiple of half a patch, or less than a patch.
        """
        p, step = self.patch, self.multiple
        if any(n % step or n < p for n in x.shape[-3:]):
            raise ValueError(f"{tuple(x.shape[-3:])} voxels are not whole patches of {p}, half a patch apart")
        windows = x[:, -1].unfold(1, p, step).unfold(2, p, step).unfold(3, p, step)  # (b, gz, gy, gx, p, p, p)
        grid = windows.shape[:4]
        codes = torch.cat([self._encoded(part) for part in windows.reshape(-1, 1, p, p, p).split(CHUNK)])
        return [codes.unflatten(0, grid).movedim(-1, 1)]

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Take the scale of volumes (b, c, z, y, x), and bring their codes to mean 0 and variance 1 by the last layer.

        As drawn, codes hardly differ from patch to patch, and a decoder learns next to nothing from them
        (data-dependent initialisation, Salimans and Kingma 2016).
        """
        self.scale.copy_(x[:, -1].std().clamp(min=1e-6))
        codes = self.encode(x)[0][:, : self.code_dim].movedim(1, -1).flatten(0, -2)
        mean, std = codes.mean(dim=0), codes.std(dim=0).clamp(min=1e-6)
        head = self.encoder.mean
        assert head.bias is not None
        head.weight.div_(std)
        head.bias.sub_(mean).div_(std)

    def _encoded(self, windows: Tensor) -> Tensor:
        found = self.encoder(windows / self.scale)
        return found.mean if found.log_std is None else torch.cat([found.mean, found.log_std], dim=-1)

    def decode(self, features: list[Tensor], condition: Tensor | None = None) -> Tensor:
        """Codes of all windows -> (b, 1, z, y, x)."""
        codes = features[-1][:, : self.code_dim].movedim(1, -1)  # (b, gz, gy, gx, dim)
        grid = codes.shape[:4]
        patches = self.decoded(codes.reshape(-1, self.code_dim))
        r = self.ramp
        patches = (patches * (r[:, None, None] * r[:, None] * r)).unflatten(0, grid)
        weight = torch.ones((), device=codes.device)
        for axis, count in enumerate(grid[1:]):
            shape = [-1 if other == axis else 1 for other in range(3)]
            weight = weight * self._laid(count).reshape(shape)
        return (self._overlapped(patches) / weight)[:, None]

    def decoded(self, codes: Tensor) -> Tensor:
        """Patches of codes, (n, dim) -> (n, p, p, p)."""
        return self.scale * torch.cat([self.decoder(part)[:, 0] for part in codes.split(CHUNK)])

    def _overlapped(self, patches: Tensor) -> Tensor:
        """Add patches (b, gz, gy, gx, p, p, p) where they lie, (b, z, y, x)."""
        step, (gz, gy, gx) = self.multiple, patches.shape[1:4]
        total = patches.new_zeros(len(patches), *(step * (g + 1) for g in (gz, gy, gx)))
        for half in itertools.product((0, 1), repeat=3):
            z, y, x = (slice(h * step, (h + 1) * step) for h in half)
            part = patches[..., z, y, x].permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, step * gz, step * gy, step * gx)
            total = total + nn.functional.pad(part, [n for h in reversed(half) for n in (h * step, (1 - h) * step)])
        return total

    def _laid(self, count: int) -> Tensor:
        """Sum of the windows' weights along an axis, (voxels,)."""
        first, second = self.ramp.chunk(2)
        return torch.cat([first, (first + second).repeat(count - 1), second])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(b, c, z, y, x) -> (b, 1, z, y, x)."""
        return self.decode(self.encode(x, condition), condition)
