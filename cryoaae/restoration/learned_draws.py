"""Deviations by the learned sampler: the general restorer looks at a tomogram once, a draw is little more than noise.

    d_k = sampler(looks, noise of (seed, k)),      looks: what `nets.deviation` tells of the mean of the halves

The sampler knows errors of a network. Where a restoration yields to the data (`data_consistency`), L + h R, its error
is (1 - h) times that of L and h times that of L + R. The two have the error of L in common, so a draw becomes h d_k and
sqrt(1 - h^2) times one of what the Wiener filter L leaves.

Looking takes about as long as a restoration, whatever the number of draws. Noise is one field of the whole tomogram,
and what is done to it looks a few voxels far, so tiles leave no seams and draws do not depend on them. Whatever
restorer the draws are spread about, the general one looks: a fit of one's own has other features. That its errors are
others is left to the calibration (`restoration.recalibration`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.weights import digest
from cryoaae.models.general import GeneralRestorer, quarter_turns
from cryoaae.models.restorer import KERNEL_REACH, convolve
from cryoaae.nets.deviation import (
    MULTIPLE,
    REGIONS,
    Deviation,
    Looks,
    Noise,
    Seen,
    linear_posterior,
    shell_factor,
    signal_scale,
    smooth_noise,
    unevenly,
)
from cryoaae.nets.error_size import ErrorSize
from cryoaae.patches.imaging import conditions
from cryoaae.patches.spectra import Spectra, interpolate, measure_spectra, radial_kernel
from cryoaae.patches.tiling import PaddedAxis, Tile, TileGrid
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.data_consistency import estimator, kept_share
from cryoaae.restoration.draw_sources import covering, generator_of
from cryoaae.restoration.engine import FACE_PAD
from cryoaae.restoration.general import contrast_of
from cryoaae.restoration.sampler_weights import fitted_weights
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.volume import Volume, mean_volume

# Looks are kept at half precision: they say how large noise is, to a thousandth.
KEPT = torch.float16
# What a draw takes beside a restoration of one input.
WORK_SHARE = 0.3


@dataclass(frozen=True)
class Faced:
    """A tomogram as the general restorer knows it: structures bright, the tilt axis along y.

    Parameters
    ----------
    density : (z, y, x)
        The mean of the halves, or the single volume, on a continued working grid of its own.
    axes : three PaddedAxis
        How it was continued.
    spectra : Spectra
        Of its signal and its noise.
    wedge : MissingWedge
    quarters : int
        How often it was turned by a quarter from y towards x.
    contrast : int
        -1 where structures were dark.
    """

    density: Tensor
    axes: tuple[PaddedAxis, PaddedAxis, PaddedAxis]
    spectra: Spectra
    wedge: MissingWedge
    quarters: int
    contrast: int

    @classmethod
    def of(cls, tomogram: WorkingTomogram, half: int | None = None) -> Faced:
        """Measure and turn a tomogram, or one of its halves with the spectra that both show."""
        part = covering(tomogram.plan.frame)
        volumes = [Volume(each[part].contiguous().numpy(), tomogram.voxel_size_angstrom) for each in tomogram.halves]
        made = measure_spectra(volumes, tomogram.wedge, generator=torch.Generator().manual_seed(0))
        if half is not None:
            volumes = [volumes[half]]
        spectra, count = made.on_working_grid(1, 1.0), len(volumes)
        quarters, wedge = quarter_turns(tomogram.wedge)
        whole = mean_volume(volumes)
        told = Spectra(spectra.signal, spectra.noise / count, spectra.freq_max)
        contrast = tomogram.contrast or contrast_of([whole], 1)
        return cls._facing(torch.from_numpy(whole.numpy()), told, wedge.solid(), quarters, contrast)

    @classmethod
    def _facing(
        cls, volume: Tensor, spectra: Spectra, wedge: MissingWedge, quarters: int, contrast: int
    ) -> Faced:
        density = contrast * torch.rot90(volume, quarters, (-2, -1))
        z, y, x = (PaddedAxis.plan(n, working_bin=1, multiple=MULTIPLE, pad=FACE_PAD) for n in density.shape)
        return cls(continued(density.contiguous(), (z, y, x)), (z, y, x), spectra, wedge, quarters, contrast)

    def like(self, volume: Tensor) -> Faced:
        """Another volume (z, y, x) of the same imaging, of any size, that lies as the tomogram does."""
        return self._facing(volume, self.spectra, self.wedge, self.quarters, self.contrast)

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.density.shape
        return z, y, x

    @property
    def part(self) -> tuple[slice, slice, slice]:
        """The tomogram within the grid."""
        z, y, x = (slice(axis.before, axis.before + axis.size) for axis in self.axes)
        return z, y, x

    @property
    def inside(self) -> Tensor:
        """Voxels that lie in the tomogram, (z, y, x) bool."""
        where = torch.zeros(self.shape, dtype=torch.bool)
        where[self.part] = True
        return where

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the signal, (1,)."""
        return torch.tensor([signal_scale(self.spectra)])

    def told(self, voxel_size_angstrom: float) -> Tensor:
        """What networks are told of the imaging, (1, CONDITIONS)."""
        return conditions(self.spectra, self.wedge, voxel_size_angstrom)[None]

    def back(self, volume: Tensor) -> Tensor:
        """What lies in the tomogram of a volume, as the tomogram lies. The sign is left: the law is symmetric."""
        return torch.rot90(volume[self.part], -self.quarters, (-2, -1)).contiguous()


def sampler_of(weights: Path | str | None) -> Deviation:
    """The sampler of weights that were fitted on halves, or the one that comes along.

    Raises
    ------
    InputError
        If the file is missing, damaged, or something else.
    """
    file = fitted_weights(weights)
    if file is None:
        return Deviation.bundled()
    try:
        return Deviation.load(file)
    except InputError as error:
        remedy = "run `cryoaae fit --posterior` again, or give --weights general"
        raise InputError(file, error.problem, remedy) from error


class Learned:
    """Deviations by the learned sampler; see the module. Kinds of turns do not concern it."""

    # On scenes kept out of training the spread in the wedge was off by so much, in all but the coarsest bands.
    knows_places: ClassVar[bool] = True
    wedge_within: ClassVar[float] = 0.12
    centred: ClassVar[bool] = True
    needs_halves: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ("weights",)

    def __init__(
        self,
        tomogram: WorkingTomogram,
        estimate: Tensor,
        *,
        seed: int,
        turns: str,
        weights: Path | str | None = None,
        sampler: Deviation | None = None,
        tile: tuple[int, int, int] | None = None,
        faced: Faced | None = None,
    ) -> None:
        self.tomogram, self.seed, self.device = tomogram, seed, tomogram.plan.device
        self.sampler = (sampler_of(weights) if sampler is None else sampler).to(self.device)
        self.faced, self.tile = faced or Faced.of(tomogram), tile
        self.scale, shape = self.faced.scale, self.faced.shape
        self.condition = self.faced.told(tomogram.voxel_size_angstrom)
        self.amplitude = self._coloured_amplitude()
        self.kept = self._kept()
        first, coarse = self.sampler.spec.full, self.sampler.spec.coarse
        sizes = {"amplitude": len(self.amplitude), "mask": first, "uneven": 1, "half": coarse, "quarter": coarse}
        self.looks = Looks(*(
            torch.zeros(1, channels, *(n // FACTORS[name] for n in shape), dtype=KEPT)
            for name, channels in sizes.items()
        ))  # fmt: skip
        self._look()

    def deviation(self, number: int) -> Tensor:
        """Draw `number` (from 1) less the estimate, (z, y, x): working voxels in the tomogram."""
        shape, generator = self.faced.shape, generator_of(self.seed, number)

        def white(factor: int = 1, *channels: int) -> Tensor:
            return torch.randn(*channels, *(n // factor for n in shape), generator=generator)

        coarse = self.sampler.spec.coarse
        full, uneven, half, quarter = white(), white(), white(2, 1, coarse), white(4, 1, coarse)
        made = torch.zeros(shape)
        spectrum = rfft(full)
        for amplitude, local in zip(self.amplitude, self.looks.amplitude[0], strict=True):
            made += irfft(spectrum * amplitude, shape) * local.float()
        noise = Noise(made[None, None], half, quarter, made[None, None])  # of the first and last nothing is read
        for tile in self._tiles(self.sampler.draw_reach):
            inner = self._structured(tile, noise)
            made[tile.core_slices] += float(self.scale) * inner[tile.inner_slices]
        made *= unevenly(self.looks.uneven[0, 0].float(), smooth_noise(shape, uneven))
        if self.kept is not None:
            kept, left = self.kept
            made = irfft(kept * rfft(made) + left * rfft(white()), shape)
        return self.faced.back(made)

    @staticmethod
    def work(tomogram: WorkingTomogram, number: int, *, seed: int, turns: str, **_: Any) -> list[int]:
        """Working voxels that take as long to restore as a draw does."""
        return [round(WORK_SHARE * math.prod(tomogram.plan.frame.working_zyx))]

    @staticmethod
    def made_from() -> dict[str, str]:
        """The weights of the sampler, of the restorer that looks, and of the map of sizes."""
        parts = {
            "sampler_weights": Deviation.bundled(), "looks_by": GeneralRestorer.bundled(),
            "sizes_by": ErrorSize.bundled(),
        }  # fmt: skip
        return {name: digest(dict(part.state_dict())) for name, part in parts.items()}

    # -- once for the tomogram ---------------------------------------------------------------------

    def _coloured_amplitude(self) -> Tensor:
        """Standard deviations of the coloured noise by channel, (channels, z, y, x // 2 + 1)."""
        shape = self.faced.shape
        prior = linear_posterior(self.faced.spectra, self.faced.wedge.support(shape), shape)
        with torch.inference_mode():
            colour = self.sampler.colour(self.condition.to(self.device))[0].cpu()
        k = radius(shape)
        factor = torch.stack([shell_factor(region, k) for region in colour])
        return (prior.unflatten(0, (REGIONS, -1)) * factor[:, None]).flatten(0, 1)

    def _kept(self) -> tuple[Tensor, Tensor] | None:
        """Share of a draw that stays and standard deviation of the rest, (z, y, x // 2 + 1) each.

        None where a restoration does not yield to the data.
        """
        faced, (_, wiener) = self.faced, estimator(self.tomogram.model, len(self.tomogram.halves))
        if wiener is None or not self.tomogram.yielding:
            return None
        own = [s.stop - s.start for s in faced.part]
        share = kept_share(wiener, faced.wedge, faced.shape, object_zyx=own)(slice(0, faced.shape[1]))
        position = (radius(faced.shape) / faced.spectra.freq_max).clamp(max=1.0).double()
        left = interpolate(faced.spectra.signal * (1 - faced.spectra.fsc), position).clamp(min=0.0)
        return share, ((1 - share.square()) * left).sqrt().float()

    def _look(self) -> None:
        """Fill `looks`, tile by tile."""
        general = GeneralRestorer.bundled().to(self.device)
        kernel = radial_kernel(self.faced.spectra.fsc, reach=KERNEL_REACH).to(self.device)
        network, condition, scale = general.network, self.condition.to(self.device), self.scale.to(self.device)
        whole = torch.zeros(self.faced.shape)
        for tile in self._tiles(KERNEL_REACH + network.reach + self.sampler.looks_reach):
            density = self.faced.density[tile.read_slices][None, None].to(self.device)
            with torch.inference_mode():
                seen = see(network, density, kernel, condition, scale)  # sizes are told of the whole, below
                looks = self.sampler.looks(seen)
            whole[tile.core_slices] = seen.restored[0, 0][tile.inner_slices].cpu()
            for name, kept, made in zip(Looks._fields, self.looks, looks, strict=True):
                z, y, x = _coarser(tile.core_slices, FACTORS[name])
                kept[..., z, y, x] = _read(made, tile.inner_slices, FACTORS[name]).to(KEPT).cpu()
            self.tomogram.advance(float(tile.core_voxels))
        self._place(ErrorSize.bundled()(whole, self.faced.inside).log())

    def _place(self, size: Tensor) -> None:
        """Multiply looks as foretold sizes of errors (z, y, x), logarithms, call for."""
        powers = self.sampler.by_size.detach().cpu()
        for local, power in zip((*self.looks.amplitude[0], self.looks.mask[0]), powers, strict=True):
            local *= (power * size).exp().to(KEPT)

    def _structured(self, tile: Tile, noise: Noise) -> Tensor:
        """The part of a deviation that is shaped by convolutions, in a tile (z, y, x)."""
        with torch.inference_mode():
            looks, drawn = (
                [
                    _read(field, tile.read_slices, FACTORS.get(name, 1)).float().to(self.device)
                    for name, field in zip(names, fields, strict=True)
                ]
                for names, fields in ((Looks._fields, self.looks), (Noise._fields, noise))
            )
            return self.sampler.structured(Looks(*looks), Noise(*drawn))[0, 0].cpu()

    def _tiles(self, reach: int) -> Iterator[Tile]:
        grid = TileGrid(self.faced.shape, reach, MULTIPLE)
        return itertools.chain(grid.tiles(self.tile or grid.choose_core(self.tomogram.plan.voxel_budget)))


def see(network: Any, density: Tensor, kernel: Tensor, condition: Tensor, scale: Tensor) -> Seen:
    """What the general restorer's network sees of densities (1, 1, z, y, x), sizes left even."""
    linear = convolve(density, kernel)
    features = network.encode(torch.cat([density, linear], dim=1), condition)
    restored = linear + network.decode(features, condition)
    return Seen(features, linear, restored, condition, scale, torch.zeros_like(linear))


# How many times coarser a field of looks or noise is than the working grid.
FACTORS = {"amplitude": 1, "mask": 1, "uneven": 1, "half": 2, "quarter": 4}


def _coarser(slices: tuple[slice, ...], factor: int) -> tuple[slice, slice, slice]:
    z, y, x = (slice(s.start // factor, s.stop // factor) for s in slices)
    return z, y, x


def _read(field: Tensor, slices: tuple[slice, ...], factor: int) -> Tensor:
    """Part of a field on a grid that is coarser by `factor`."""
    z, y, x = _coarser(slices, factor)
    return field[..., z, y, x]
