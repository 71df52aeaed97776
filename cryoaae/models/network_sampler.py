"""A U-Net as sampler, with noise injected below its encoder; fitted by `models.network_fitting`.

    u = w + U(w, y),        m = u + W (y - A u),        x = m + g d(features of U, noise)

w: what a Wiener filter of the half-map spectrum makes of y; W: such a filter again, of what u leaves open, so that what
was measured is put back; d: `nets.deviation`, as in `sample`; g: widths by (shell, angle), in the wedge and outside.
It is to networks what `sampling.linear_sampler` is to dense matrices, and judged by the same posterior, which is known.

Boxes are centred on what they hold, so that places in a box are not alike: the network is told rings about the centre,
and noise is as loud from ring to ring as the structure is, with powers that are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cryoaae.models.deviation_fitting import Told, White, draws_of
from cryoaae.nets.deviation import REGIONS, Deviation, DeviationSpec, Seen, bands
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.fourier import radius
from cryoaae.sampling.basis import FourierBasis
from cryoaae.sampling.linear_sampler import half_map_powers

# Rings about the centre of the box that the network tells apart.
RINGS = 4
# A ring whose halves share less than this of the mean is taken to hold as much.
LEAST_SHARED = 1e-3


class HalfStatistics(NamedTuple):
    """What halves share, and where: known before anything is learned."""

    signal: Tensor  # (d,): power
    noise: Tensor  # (d,): of one half
    size: Tensor  # (z, y, x): how loud the structure is there beside its whole, logarithm

    @classmethod
    def of(cls, even: Tensor, odd: Tensor, basis: FourierBasis, measured: Tensor) -> HalfStatistics:
        """From halves (b, d), measured where `measured` (d,) says so."""
        return cls(*half_map_powers(even, odd, basis, measured), _size(even, odd, basis))


class NetworkSampler(nn.Module):
    """Draws given observations; boxes and coordinates are those of a basis.

    Parameters
    ----------
    basis : FourierBasis
        A cube; its edge a multiple of four voxels.
    measured : (d,) bool
        What is observed.
    known : HalfStatistics
    widths : sequence of int
        Channels of the U-Net at its three resolutions.

    Notes
    -----
    `spread` holds g, a number a cell; `cell` (d,) is the cell of each coordinate.
    """

    measured: Tensor
    signal: Tensor
    noise: Tensor
    size: Tensor
    shell: Tensor
    cell: Tensor
    spread: Tensor
    prior: Tensor
    rings: Tensor

    def __init__(
        self, basis: FourierBasis, measured: Tensor, known: HalfStatistics, widths: Sequence[int] = (8, 32, 64)
    ) -> None:
        super().__init__()
        self.basis = basis
        first, second, third = widths
        self.unet = UNet(in_channels=RINGS + 3, widths=widths, bias=True)
        self.deviation = Deviation(DeviationSpec(features=(first, second, third)))
        # The structure's own unevenness, until something else is learned.
        nn.init.ones_(self.deviation.by_size)
        shell = basis.each((basis.radius * basis.shape[0]).round()).long()
        # Of the signal's power, what the network is thought to leave open, by shell; logarithms.
        self.open = nn.Parameter(torch.zeros(int(shell.max()) + 1))
        cell = (2 * basis.cells()[0] + measured).unique(return_inverse=True)[1]
        buffers = {
            "measured": measured, "signal": known.signal.float(), "noise": known.noise.float(),
            "size": known.size.float(), "shell": shell, "cell": cell, "spread": torch.ones(int(cell.max()) + 1),
            "rings": _rings(basis.shape),
        }  # fmt: skip
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.register_buffer("prior", _prior(basis, self.left_open, measured))

    @property
    def left_open(self) -> Tensor:
        """Variance (d,) that the Wiener filter leaves."""
        return torch.where(self.measured, self.signal * self.noise / (self.signal + self.noise), self.signal)

    def mean(self, y: Tensor) -> Tensor:
        """Estimate (b, d) from observations (b, d)."""
        return self.restored(self.seen(y))

    def restored(self, seen: Seen) -> Tensor:
        """The same from what was seen of them."""
        return self.basis.coefficients(seen.restored[:, 0])

    def seen(self, y: Tensor) -> Seen:
        """What the U-Net sees of observations (b, d), and what it makes of them."""
        linear = self._volume(self._put_back(torch.zeros_like(y), y, self.signal))
        whitened = self._volume(y / (self.signal + self.noise).sqrt())
        where = torch.broadcast_to(self.rings[:1], linear.shape)
        given = torch.stack([*(linear * ring for ring in self.rings), linear, whitened, where], dim=1)
        features = self.unet.encode(given)
        guess = self.basis.coefficients(linear + self.unet.decode(list(features))[:, 0])
        restored = self._volume(self._put_back(guess, y, self.signal * self.open.exp()[self.shell]))
        count = len(y)
        return Seen(
            features, linear[:, None], restored[:, None], y.new_zeros(count, CONDITIONS), y.new_ones(count),
            self.size.expand_as(linear)[:, None],
        )  # fmt: skip

    def deviations(self, seen: Seen, count: int, *, generator: torch.Generator) -> Tensor:
        """Deviations (count, b, d) from what was made of observations; nothing is learned there of how it sees."""
        known = Seen([level.detach() for level in seen.features], *(part.detach() for part in seen[1:]))
        places = len(seen.scale)
        white = White.draw(count, places, self.basis.shape, self.deviation.spec.coarse, generator)
        prior = self.prior.expand(places, *self.prior.shape)
        return self.spread[self.cell] * self.basis.coefficients(draws_of(self.deviation, Told(known, prior, white)))

    def draws(self, y: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
        """Draws (count, b, d) given observations (b, d)."""
        seen = self.seen(y)
        return self.restored(seen) + self.deviations(seen, count, generator=generator)

    def _put_back(self, guess: Tensor, y: Tensor, power: Tensor) -> Tensor:
        """A guess (b, d) with the data put back, for errors of the guess of some power (d,)."""
        return guess + self.measured * power / (power + self.noise) * (y - guess)

    def _volume(self, coefficients: Tensor) -> Tensor:
        return self.basis.volume(coefficients).float()


def _prior(basis: FourierBasis, power: Tensor, measured: Tensor) -> Tensor:
    """As `nets.deviation.linear_posterior`, up to the last shell: (COLOURED, z, y, x // 2 + 1)."""
    k = radius(basis.shape)
    windows = bands(k, last=torch.ones_like(k))
    regions = [basis.on_half_spectrum(torch.where(part, power, 0.0)).sqrt() for part in (measured, ~measured)]
    assert len(regions) == REGIONS
    return torch.cat([windows * region for region in regions])


def _size(even: Tensor, odd: Tensor, basis: FourierBasis) -> Tensor:
    """`HalfStatistics.size`: root mean square of what halves share, by ring."""
    power = (basis.volume(even) * basis.volume(odd)).mean(dim=0)
    ring = _distance(basis.shape).round().long()
    count = torch.bincount(ring.flatten())
    by_ring = torch.zeros(len(count), dtype=power.dtype).index_add_(0, ring.flatten(), power.flatten()) / count
    return (by_ring / power.mean()).clamp(min=LEAST_SHARED)[ring].log() / 2


def _rings(shape_zyx: Sequence[int]) -> Tensor:
    """Overlapping rings (RINGS, z, y, x) about the centre that add up to one; the last has no end."""
    position = (_distance(shape_zyx) / (max(shape_zyx) / 2) * (RINGS - 1)).clamp(max=RINGS - 1)
    return torch.stack([(1 - (position - j).abs()).clamp(min=0) for j in range(RINGS)])


def _distance(shape_zyx: Sequence[int]) -> Tensor:
    """Of each voxel from the centre, voxels."""
    axes = [torch.arange(n) - n // 2 for n in shape_zyx]
    return torch.linalg.vector_norm(torch.stack(torch.meshgrid(*axes, indexing="ij")).float(), dim=0)
