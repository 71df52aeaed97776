"""A sampler of deviations as a model to fit: the energy score of its draws against the truth of simulations.

    loss = ES(phi(d_1), ..., phi(d_K); phi(x - m)) / the size of phi(x - m) over the tomogram,      mean over phi

m: the restoration, x: the truth, d_k: deviations. Smallest, in the mean over tomograms, where the deviations follow the
law of x - m given what the restorer sees (Gneiting and Raftery 2007), in the wedge too: the truth is known there.
The functionals phi are small, for a norm over many numbers hardly feels the shape of a law: single voxels, patches,
and single voxels of each band of frequencies, apart where data were measured and in the wedge. Dividing by their sizes
whitens them. No term asks for a mean of zero: the law is symmetric whatever the weights (`nets.deviation`).

From draws the score is slow to tell places: how loud tomograms are differs more, and every draw adds its own noise. So
amplitudes and colours are first learned as what they stand for, of the same errors, and still are beside the score:

    mean over bands c and places of  a_c + e_c^2 / (2 e^(2 a_c) <e_c^2>),      mean over shells of (log colour - true)^2

e_c: the error in band c, <e_c^2>: its mean over the tomogram; true: log of the root of the error's power over the
prior's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cryoaae.models.phase import Phase
from cryoaae.nets.deviation import (
    REGIONS,
    SHELLS,
    Deviation,
    Looks,
    Noise,
    Seen,
    bands,
    linear_posterior,
    shell_factor,
    smooth_noise,
)
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum, taper
from cryoaae.sampling.energy_score import BandPatches, energy_score

# Bands and patches of the functionals.
FREQ_ENDS, PATCH = (0.08, 0.16, 0.25, 0.35, 0.5), 4
# Of colours beside amplitudes; and voxels at the faces of a patch where the sampler sees its end.
LEVEL_WEIGHT, FACE = 1.0, 4
# Part of an axis over which each face is faded: there the sampler sees the end of the patch.
TAPERED = 0.1875
FUNCTIONALS = 2 + REGIONS * len(FREQ_ENDS)
# Weights of voxels, of patches, and of all bands together.
WEIGHTS = (1.0, 0.5, 1.0)


@dataclass(frozen=True)
class White:
    """White noise of k draws."""

    full: Tensor  # (k, b, z, y, x)
    half: Tensor  # (k, b, coarse, z / 2, ...)
    quarter: Tensor  # (k, b, coarse, z / 4, ...)
    uneven: Tensor  # (k, b, z, y, x)

    @classmethod
    def draw(
        cls, count: int, batch: int, shape_zyx: Sequence[int], coarse: int, generator: torch.Generator
    ) -> White:
        """Draw noise for boxes of so many voxels."""

        def field(*shape: int) -> Tensor:
            return torch.randn(count, batch, *shape, generator=generator)

        whole, half, quarter = (tuple(n // factor for n in shape_zyx) for factor in (1, 2, 4))
        return cls(field(*whole), field(coarse, *half), field(coarse, *quarter), field(*whole))


@dataclass(frozen=True)
class DeviationBatch:
    """Patches of simulated tomograms, on the device.

    Parameters
    ----------
    seen : Seen
    error : (b, z, y, x)
        Truth less restoration.
    prior : (b, COLOURED, z, y, x // 2 + 1)
        See `nets.deviation.linear_posterior`.
    support : (b, z, y, x // 2 + 1) bool
        What was measured.
    sizes : (b, FUNCTIONALS)
        Root mean square of the error's functionals over the tomogram: of voxels, of voxels again for the patches, and
        of the bands, those that were measured first.
    local : (b, COLOURED, z, y, x)
        The error in each channel of the coloured noise, of mean square one over the tomogram.
    level : (b, REGIONS, SHELLS)
        Logarithm of the true colour.
    white : White
        Of no draws where only amplitudes and colours are to be learned.
    """

    seen: Seen
    error: Tensor
    prior: Tensor
    support: Tensor
    sizes: Tensor
    local: Tensor
    level: Tensor
    white: White


class Drawable(Protocol):
    """What draws are made from."""

    @property
    def seen(self) -> Seen: ...
    @property
    def prior(self) -> Tensor: ...
    @property
    def white(self) -> White: ...


class Told(NamedTuple):
    """What deviations are drawn from: `Drawable`."""

    seen: Seen
    prior: Tensor
    white: White


class DeviationFitting(nn.Module):
    """Fit a sampler on simulated tomograms.

    Parameters
    ----------
    sampler : Deviation
    patch : int
        Edge of the batches' patches.
    """

    def __init__(self, sampler: Deviation, patch: int) -> None:
        super().__init__()
        self.sampler = sampler
        self.functionals = Functionals(patch)

    def phases(self) -> list[Phase]:
        """One phase: the weights descend the score."""
        return [Phase("deviation", list(self.sampler.parameters()), self._losses)]

    def _losses(self, batch: DeviationBatch) -> dict[str, Tensor]:
        looks = self.sampler.looks(batch.seen)
        terms = {"deviation": likelihood(looks, batch) + LEVEL_WEIGHT * self.level_error(batch)}
        if len(batch.white.full):
            terms["score"] = self._score(looks, batch)
        return terms

    def held_out_loss(self, batch: DeviationBatch) -> Tensor:
        """The same on scenes kept out of fitting."""
        return self.score(batch)

    def score(self, batch: DeviationBatch) -> Tensor:
        """Energy score of the sampler's draws, a scalar."""
        return self._score(self.sampler.looks(batch.seen), batch)

    def _score(self, looks: Looks, batch: DeviationBatch) -> Tensor:
        return self.functionals.score(draws_by(self.sampler, looks, batch), batch).sum(dim=-1).mean()

    def level_error(self, batch: DeviationBatch) -> Tensor:
        """Mean squared error of the logarithms of colours, a scalar."""
        return (self.sampler.colour(batch.seen.condition).log() - batch.level).square().mean()


def likelihood(looks: Looks, batch: DeviationBatch) -> Tensor:
    """Negative log likelihood of local errors by the amplitudes alone, a scalar; faces left out."""
    z, y, x = (slice(FACE, n - FACE) for n in batch.error.shape[-3:])
    amplitude, local = (fields[..., z, y, x] for fields in (looks.amplitude, batch.local))
    return (amplitude.log() + 0.5 * (local / amplitude).square()).mean()


def draws_of(sampler: Deviation, batch: Drawable) -> Tensor:
    """Deviations of the batch's noise, (k, b, z, y, x)."""
    return draws_by(sampler, sampler.looks(batch.seen), batch)


def draws_by(sampler: Deviation, looks: Looks, batch: Drawable) -> Tensor:
    """The same by looks that are known."""
    scale = batch.seen.scale
    white, count = batch.white, len(batch.white.full)
    k = radius(white.full.shape[-3:])
    colour = sampler.colour(batch.seen.condition)  # (b, REGIONS, SHELLS)
    factor = torch.stack([torch.stack([shell_factor(region, k) for region in own]) for own in colour])
    amplitude = batch.prior.unflatten(1, (REGIONS, -1)) * factor[:, :, None]
    coloured = irfft(rfft(white.full)[:, :, None] * amplitude.flatten(1, 2), white.full.shape[-3:])
    uneven = smooth_noise(white.uneven.shape[-3:], white.uneven)[:, :, None]
    deviations = [
        sampler(looks, Noise(coloured[i], white.half[i], white.quarter[i], uneven[i]), scale)[:, 0]
        for i in range(count)
    ]
    return torch.stack(deviations)


class Functionals:
    """The functionals phi on patches of `edge` voxels, tapered so that faces do not leak in Fourier space."""

    def __init__(self, edge: int) -> None:
        self.box, self.taper = (edge,) * 3, taper((edge,) * 3, share=TAPERED)
        self.by_band = BandPatches(self.box, freq_edges=FREQ_ENDS, patch=1)

    def score(self, draws: Tensor, batch: DeviationBatch) -> Tensor:
        """Weighted scores of deviations (k, b, z, y, x) by kind of functional, in units of their sizes, (b, 3)."""
        draws, error = draws * self.taper, batch.error * self.taper
        level = self.taper.square().mean().sqrt()
        voxel, patch, *by_band = (batch.sizes * level).unbind(dim=1)
        score = [
            energy_score(draws.flatten(2)[..., None], error.flatten(1)[..., None]).mean(dim=-1) / voxel,
            energy_score(_cut(draws, PATCH), _cut(error, PATCH)).mean(dim=-1) / (patch * PATCH**1.5),
        ]
        found = []
        for support in (batch.support, ~batch.support):
            parts = energy_score(self.by_band(draws, support), self.by_band(error, support))
            found.append(parts.unflatten(-1, (len(FREQ_ENDS), -1)).mean(dim=-1))
        score.append((torch.cat(found, dim=1) / torch.stack(by_band, dim=1)).mean(dim=1))
        return torch.stack(score, dim=-1) * torch.tensor(WEIGHTS)


def constant_draws(batch: DeviationBatch) -> Tensor:
    """Gaussian noise of the true size by band and region, alike everywhere, (k, b, z, y, x): what must be beaten."""
    shape = batch.error.shape[-3:]
    windows = BandPatches(shape, freq_edges=FREQ_ENDS, patch=1).windows
    white = rfft(batch.white.full)
    total = torch.zeros_like(batch.white.full)
    sizes = batch.sizes[:, 2:].unflatten(1, (REGIONS, -1))
    for region, support in enumerate((batch.support, ~batch.support)):
        for band, window in enumerate(windows):
            noise = irfft(white * (window * support), shape)
            size = sizes[:, region, band] / noise.square().mean(dim=(0, 2, 3, 4)).sqrt()
            total += noise * size[:, None, None, None]
    return total


def sizes_of(error: Tensor, support: Tensor) -> Tensor:
    """Root mean squares of the functionals of an error (z, y, x) over a whole tomogram, (FUNCTIONALS,)."""
    box = tuple(error.shape)
    parts = BandPatches(box, freq_edges=FREQ_ENDS, patch=1)
    rms = error.square().mean().sqrt()
    each = []
    for where in (support, ~support):
        power = parts(error, where).square().mean(dim=-1)
        each.append(power.unflatten(-1, (len(FREQ_ENDS), -1)).mean(dim=-1).sqrt())
    return torch.stack([rms, rms, *torch.cat(each)]).clamp(min=1e-6)


def local_errors(error: Tensor, support: Tensor) -> Tensor:
    """An error (z, y, x) in each channel of the coloured noise, of mean square one, (COLOURED, z, y, x) float16."""
    shape, spectrum = error.shape, rfft(error)
    windows = bands(radius(shape))
    found = torch.empty(REGIONS * len(windows), *shape, dtype=torch.float16)
    for index, (where, window) in enumerate(itertools.product((support, ~support), windows)):
        part = irfft(spectrum * (window * where), shape)
        found[index] = part / part.square().mean().sqrt().clamp(min=1e-12)
    return found


def true_levels(error: Tensor, support: Tensor, spectra: Spectra) -> Tensor:
    """Logarithm of the colour that an error (z, y, x) has, (REGIONS, SHELLS); 0 where a shell holds nothing."""
    shape = error.shape
    prior = linear_posterior(spectra, support, shape).unflatten(0, (REGIONS, -1)).sum(dim=1).square()
    found, index = rfft(error).abs().square(), shell_index(shape, SHELLS)
    rows = []
    for own, where in zip(prior, (support, ~support), strict=True):
        weight = multiplicity(shape) * where
        true, stated = (shell_sum(power * weight, index, SHELLS) for power in (found, own))
        ratio = (true / stated.clamp(min=1e-30)).clamp(1e-4, 1e4)
        rows.append(torch.where((true > 0) & (stated > 0), 0.5 * ratio.log(), 0.0))
    return torch.stack(rows).float()


def _cut(volumes: Tensor, patch: int) -> Tensor:
    """Patches (..., n, patch^3) of volumes (..., z, y, x)."""
    cut = volumes.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch)).unflatten(-5, (-1, patch))
    return cut.movedim((-5, -3, -1), (-3, -2, -1)).flatten(-3).flatten(-4, -2)
