"""Halves turned and put through the wedge again: what a sampler of errors can be fitted by without their truth.

    input = T R ( y + (1 - T) (f(y) + n) ),      target = R y' - f(input),      noise = R n'

y: a box of one half, its wedge filled by its own restoration and noise; y': the other half there; n': fresh noise of
one half (`restoration.fresh_noise`); R: any rotation; T: the wedge. The target holds the error of what was restored,
and noise that is independent of it, where R turned the measured coefficients to. Some of them lie in the wedge T: they
were hidden from the input. The own wedge is filled leniently, as in `restoration.held_out`, with what was made when
nothing was hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoaae.models.deviation_fitting import White
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.half_deviations import HalfBatch, band_sizes
from cryoaae.models.restorer import KERNEL_REACH
from cryoaae.nets.deviation import Seen, linear_posterior
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
    """A turned box of one half as the general restorer sees it, and what the other half says of its error.

    Parameters
    ----------
    seen : Seen
        A batch of one.
    target : (z, y, x)
    noise : (f, z, y, x)
        Fresh fields.
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
        seen = self.seen._replace(features=[level.float() for level in self.seen.features])
        where = self.kept_out if kept_out else self.fitted
        return HalfBatch(
            seen, self.target[None], torch.stack(fields)[:, None], self.prior[None], self.regions[None],
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
        """Turn a box at random, or one about a place that was kept out of fitting; a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        half = int(torch.randint(2, (1,), generator=generator))
        region = SampledRegion.about(self.tomogram, self.edge, self._middle(held_out, generator))
        inner, faced = region.cut(self.tomogram), self.faced[half]
        part = covering(inner.plan.frame)
        filled = self._filled(inner, half, generator)[part]
        first = faced.like(filled)
        rotation = random_rotations(1, generator=generator)[0]
        turner, given = Turner(first.shape, rotation), first.wedge.support(first.shape)
        turned = first.back(irfft(rfft(turner(first.density)) * given, first.shape)) * faced.contrast
        shown = faced.like(turned)
        restored = _of_one(inner, continued(turned, covering_axes(inner.plan.frame)))[part]
        # Noise is louder at the tomogram's faces.
        fresh = FreshNoise(inner, _without_faces(part), generator=generator).draw(generator)

        def alike(volume: Tensor) -> Tensor:
            """Turned as the input was, and cut and continued as it was."""
            return faced.like(first.back(turner(faced.like(volume).density)) * faced.contrast).density

        target = alike(inner.halves[1 - half][part]) - faced.like(restored).density
        away = _facing_mask(first, torch.ones(filled.shape, dtype=torch.bool))
        kept = turner.mask(_facing_mask(first, self.kept_out[region.box]))
        inside = turner.mask(away) & away
        # What ends at a box's faces is spread by about one of its Fourier voxels: erode.
        measured = first.wedge.rotated(rotation).support(first.shape, margin=1.0)
        regions = torch.stack([measured & given, measured & ~given])
        return TurnedHalf(
            self._seen(shown), target, torch.stack([turner(_repeated(field, first)) for field in fresh]),
            linear_posterior(faced.spectra, given, first.shape), regions,
            band_sizes(target, regions, inside), inside & ~kept, inside & kept,
        )  # fmt: skip

    def _middle(self, held_out: bool, generator: torch.Generator) -> list[int]:
        """Voxel in the middle of a box: anywhere, or in a place kept out of fitting."""
        bin_ = self.tomogram.plan.frame.working_bin
        if held_out and bool(self.kept_out.any()):
            places = torch.nonzero(self.kept_out)
            return (bin_ * places[int(torch.randint(len(places), (1,), generator=generator))]).tolist()
        at = torch.rand(3, generator=generator) * torch.tensor(self.tomogram.core_shape)
        return (bin_ * at.long()).tolist()

    def _filled(self, inner: WorkingTomogram, half: int, generator: torch.Generator) -> Tensor:
        """A half (z, y, x) with what its wedge lacks, of its own restoration and noise."""
        given, shape = inner.halves[half], inner.shape
        put = _of_one(inner, given) + coloured_noise(self.noise, shape, generator)
        measured = inner.wedge.solid().support(shape, object_zyx=inner.core_shape)
        return irfft(torch.where(measured, rfft(given), rfft(put)), shape)

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


def _of_one(inner: WorkingTomogram, half: Tensor) -> Tensor:
    """A half restored by itself, without its half turns."""
    return replace(inner, halves=[half], turns=((),)).restore([half])


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
