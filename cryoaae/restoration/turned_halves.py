"""Boxes turned and put through the wedge again: what a sampler of errors can be fitted by without their truth.

Of the halves:

    input = T R ( y + (1 - T) (f(y) + n) ),      target = R y' - f(input),      noise = R n'

y: a box of one half, its wedge filled by its own restoration and noise; y': the other half there; n': fresh noise of
one half (`restoration.fresh_noise`); R: any rotation; T: the wedge. The target holds the error of what was restored,
and noise that is independent of it, where R turned the measured coefficients to. Some of them lie in the wedge T: they
were hidden from the input. The own wedge is filled leniently, as in `restoration.held_out`, with what was made when
nothing was hidden.

Of a draw x' = f(y) + d (conditional EM):

    input = T R x' + n,                          target = R x' - f(input),      no noise

Here all is known, in the wedge too, but only as well as the sampler that made d knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoaae.models.deviation_fitting import Told, White, draws_of
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.half_deviations import HalfBatch, band_sizes
from cryoaae.models.restorer import KERNEL_REACH
from cryoaae.nets.deviation import Deviation, Seen, linear_posterior
from cryoaae.nets.error_size import ErrorSize
from cryoaae.patches.source import choose_held_out
from cryoaae.patches.spectra import coloured_noise, radial_kernel
from cryoaae.patches.turning import Turner
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import random_rotations
from cryoaae.restoration.draw_sources import covering, covering_axes
from cryoaae.restoration.fresh_noise import FreshNoise
from cryoaae.restoration.held_out import half_noise
from cryoaae.restoration.learned_draws import Faced, see
from cryoaae.restoration.sampled_region import SampledRegion
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import FACE_VOXELS, WorkingTomogram


@dataclass(frozen=True)
class TurnedHalf:
    """A turned box as the general restorer sees it, and what is known of its error.

    Parameters
    ----------
    seen : Seen
        A batch of one.
    target : (z, y, x)
    noise : (f, z, y, x)
        Fresh fields; zero where the target has none.
    prior : (COLOURED, z, y, x // 2 + 1)
        See `nets.deviation.linear_posterior`.
    regions : (REGIONS, z, y, x // 2 + 1) bool
        What the target measured and the input has too, and what was hidden from the input.
    sizes : (REGIONS, bands)
        Root mean square of the target by region and band.
    fitted, kept_out : (z, y, x) bool
        Voxels in the tomogram and out of, or in, the boxes kept out of fitting.
    """

    seen: Seen
    target: Tensor
    noise: Tensor
    prior: Tensor
    regions: Tensor
    sizes: Tensor
    fitted: Tensor
    kept_out: Tensor

    def batch(self, draws: int, *, kept_out: bool, coarse: int, generator: torch.Generator) -> HalfBatch:
        """A batch of one, with noise for so many draws.

        Noise is alike everywhere, so that every draw may have it from other places, and with another sign.
        """
        fields = []
        for field in torch.randint(len(self.noise), (draws,), generator=generator).tolist():
            offset = [int(torch.randint(n, (1,), generator=generator)) for n in self.target.shape]
            sign = 2 * int(torch.randint(2, (1,), generator=generator)) - 1
            fields.append(sign * self.noise[field].roll(offset, dims=(0, 1, 2)))
        where = self.kept_out if kept_out else self.fitted
        return HalfBatch(
            _widened(self.seen), self.target[None], torch.stack(fields)[:, None], self.prior[None], self.regions[None],
            self.sizes[None], where[None], White.draw(draws, 1, self.target.shape, coarse, generator),
        )  # fmt: skip


class TurnedHalves:
    """Makes turned boxes of a tomogram.

    Parameters
    ----------
    tomogram : WorkingTomogram
        With two halves, and the restorer whose errors are meant.
    edge : int
        Of the boxes, where the tomogram is not thinner; working voxels.
    held_out_fraction : float
        Share of the tomogram kept out of fitting.
    seed : int
        Of the boxes kept out.
    """

    def __init__(
        self, tomogram: WorkingTomogram, *, edge: int, held_out_fraction: float, seed: int
    ) -> None:
        self.tomogram, self.edge = tomogram, edge
        self.faced = [Faced.of(tomogram, half=half) for half in (0, 1)]
        generator = torch.Generator().manual_seed(seed)
        self.noise = half_noise(tomogram, generator=generator)
        z, y, x = tomogram.core_shape
        self.kept_out = torch.zeros((z, y, x), dtype=torch.bool)
        for low, high in choose_held_out((z, y, x), held_out_fraction, generator=generator).long():
            self.kept_out[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))] = True

    def make(self, seed: int, *, held_out: bool = False) -> TurnedHalf:
        """Turn a box of a half at random, or one about a place that was kept out; a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        box = self._cut(self._middle(held_out, generator), generator)
        first = box.forth(self._filled(box, generator))
        fresh = box.fresh(generator)
        # What ends at a box's faces is spread by about one of its Fourier voxels: erode.
        measured = box.faced.wedge.rotated(box.rotation).support(box.shape, margin=1.0)
        regions = torch.stack([measured & box.given, measured & ~box.given])
        noise = torch.stack([box.turner(_repeated(field, box.like)) for field in fresh])
        return self._shown(box, box.measured(first), box.back(box.forth(box.halves[1 - box.half])), noise, regions)

    def redraw(self, seed: int, sampler: Deviation) -> TurnedHalf:
        """Turn a draw given a half of a random box, and measure it again; a function of seed and sampler."""
        generator = torch.Generator().manual_seed(seed)
        box = self._cut(self._middle(False, generator), generator)
        given = box.halves[box.half]
        white = White.draw(1, 1, box.shape, sampler.spec.coarse, generator)
        told = Told(_widened(self._seen(box.faced.like(given))), box.prior[None], white)
        with torch.no_grad():
            deviation = draws_of(sampler, told)[0, 0]
        drawn = box.turner(box.faced.like(box.restored(given)).density + deviation)
        again = box.measured(drawn) + _repeated(box.fresh(generator)[0], box.like)
        regions = torch.stack([box.given, ~box.given])
        return self._shown(box, again, box.back(drawn), torch.zeros(1, *box.shape), regions)

    def _shown(self, box: _Box, given: Tensor, known: Tensor, noise: Tensor, regions: Tensor) -> TurnedHalf:
        """What is seen of the turned box where `given` (on the restorer's grid) was measured, and of `known` missed."""
        shown = box.back(given)
        target = box.faced.like(known).density - box.faced.like(box.restored(shown)).density
        away = _facing_mask(box.like, torch.ones(shown.shape, dtype=torch.bool))
        kept = box.turner.mask(_facing_mask(box.like, self.kept_out[box.where]))
        inside = box.turner.mask(away) & away
        return TurnedHalf(
            self._seen(box.faced.like(shown)), target, noise, box.prior, regions,
            band_sizes(target, regions, inside), inside & ~kept, inside & kept,
        )  # fmt: skip

    def _cut(self, middle: Sequence[int], generator: torch.Generator) -> _Box:
        """A box about a voxel, one of its halves, and a turn."""
        half = int(torch.randint(2, (1,), generator=generator))
        region = SampledRegion.about(self.tomogram, self.edge, middle)
        rotation = random_rotations(1, generator=generator)[0]
        return _Box(region, region.cut(self.tomogram), self.faced[half], half, rotation)

    def _middle(self, held_out: bool, generator: torch.Generator) -> list[int]:
        """Voxel in the middle of a box: anywhere, or in a place kept out of fitting."""
        bin_ = self.tomogram.plan.frame.working_bin
        if held_out and bool(self.kept_out.any()):
            places = torch.nonzero(self.kept_out)
            return (bin_ * places[int(torch.randint(len(places), (1,), generator=generator))]).tolist()
        at = torch.rand(3, generator=generator) * torch.tensor(self.tomogram.core_shape)
        return (bin_ * at.long()).tolist()

    def _filled(self, box: _Box, generator: torch.Generator) -> Tensor:
        """A half (z, y, x) with what its wedge lacks, of its own restoration and noise."""
        inner = box.inner
        given, shape = inner.halves[box.half], inner.shape
        put = _of_one(inner, given) + coloured_noise(self.noise, shape, generator)
        measured = inner.wedge.solid().support(shape, object_zyx=inner.core_shape)
        return irfft(torch.where(measured, rfft(given), rfft(put)), shape)[box.part]

    def _seen(self, shown: Faced) -> Seen:
        """What the general restorer sees of a whole box."""
        device = self.tomogram.plan.device
        network = GeneralRestorer.bundled().network.to(device)
        kernel = radial_kernel(shown.spectra.fsc, reach=KERNEL_REACH).to(device)
        told, scale = shown.told(self.tomogram.voxel_size_angstrom), shown.scale
        with torch.inference_mode():
            seen = see(network, shown.density[None, None].to(device), kernel, told.to(device), scale.to(device))
        restored = seen.restored.cpu().clone()
        size = ErrorSize.bundled()(restored[0, 0], shown.inside).log()[None, None]
        features = [level.to(torch.float16).cpu().clone() for level in seen.features]
        return Seen(features, seen.linear.cpu().clone(), restored, told, scale, size)


class _Box:
    """A box of a tomogram, its halves (z, y, x) as they lie there, and how it is turned.

    The general restorer knows boxes on a grid of its own (`Faced`): `forth` and `back` go there, turned, and back.
    """

    def __init__(
        self, region: SampledRegion, inner: WorkingTomogram, faced: Faced, half: int, rotation: Tensor
    ) -> None:
        self.where, self.inner, self.faced, self.half, self.rotation = region.box, inner, faced, half, rotation
        self.part = covering(inner.plan.frame)
        self.halves = [each[self.part] for each in inner.halves]
        self.like = faced.like(self.halves[half])
        self.shape, self.turner = self.like.shape, Turner(self.like.shape, rotation)
        self.given = self.like.wedge.support(self.shape)
        self.prior = linear_posterior(faced.spectra, self.given, self.shape)

    def forth(self, volume: Tensor) -> Tensor:
        """A volume of the box, turned, on the restorer's grid."""
        return self.turner(self.faced.like(volume).density)

    def back(self, turned: Tensor) -> Tensor:
        """What lies in the box of what was turned, as halves are."""
        return self.like.back(turned) * self.faced.contrast

    def measured(self, turned: Tensor) -> Tensor:
        """What the wedge leaves of what was turned."""
        return irfft(rfft(turned) * self.given, self.shape)

    def restored(self, volume: Tensor) -> Tensor:
        """A volume of the box, restored by itself."""
        return _of_one(self.inner, continued(volume, covering_axes(self.inner.plan.frame)))[self.part]

    def fresh(self, generator: torch.Generator) -> list[Tensor]:
        """Noise of halves; without their faces, where it is louder."""
        return FreshNoise(self.inner, _without_faces(self.part), generator=generator).draw(generator)


def _of_one(inner: WorkingTomogram, half: Tensor) -> Tensor:
    """A half restored by itself, without its half turns; all of the network's part, whose errors samplers learn."""
    return replace(inner, halves=[half], turns=((),), yielding=False).restore([half])


def _widened(seen: Seen) -> Seen:
    """Features as they are computed with; they are kept at half precision."""
    return seen._replace(features=[level.float() for level in seen.features])


def _repeated(field: Tensor, like: Faced) -> Tensor:
    """A periodic field (z, y, x) on the grid that the general restorer knows."""
    turned = torch.rot90(field, like.quarters, (-2, -1))
    index = [torch.arange(n) % m for n, m in zip(like.shape, turned.shape, strict=True)]
    z, y, x = torch.meshgrid(*index, indexing="ij")
    return turned[z, y, x]


def _without_faces(part: Sequence[slice]) -> tuple[slice, slice, slice]:
    """Of a box too thin for that, its middle."""
    z, y, x = (
        slice(s.start + cut, s.stop - cut) for s in part for cut in [min(FACE_VOXELS, (s.stop - s.start - 1) // 2)]
    )
    return z, y, x


def _facing_mask(faced: Faced, mask: Tensor) -> Tensor:
    """A mask (z, y, x) bool of a box, without its faces, on the grid that the general restorer knows."""
    where, inner = torch.zeros(faced.shape, dtype=torch.bool), _without_faces([slice(0, n) for n in mask.shape])
    away = torch.zeros_like(mask)
    away[inner] = mask[inner]
    where[faced.part] = torch.rot90(away, faced.quarters, (-2, -1))
    return where
