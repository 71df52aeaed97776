"""What restores a tomogram without a network: the nulls every restoration must beat.

A registry of named baselines that `evaluate` lists beside the restoration, all computed from the
same input: the mean of the halves (or the single tomogram).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryoaae.metrics.fsc import fsc_curve, grouped_sums, shell_count
from cryoaae.metrics.sectors import plane_angle, tapered
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge

GAUSSIAN_SIGMA_VOXELS = 1.5
POCS_ROUNDS = 30
SECTOR_DEG = 15.0


@dataclass(frozen=True)
class NullInput:
    """What a null may look at.

    Parameters
    ----------
    mean : (z, y, x)
        Mean of the halves, or the single tomogram.
    wedge : MissingWedge
        What was measured.
    even, odd : (z, y, x), optional
        The halves; without them the Wiener nulls do not exist.
    density_sign : float
        1 if structure is brighter than the background, -1 if darker; 0 asks the data (skewness).
    """

    mean: Tensor
    wedge: MissingWedge
    even: Tensor | None = None
    odd: Tensor | None = None
    density_sign: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (z, y, x) in voxels."""
        z, y, x = self.mean.shape
        return int(z), int(y), int(x)

    @property
    def has_halves(self) -> bool:
        """Whether both halves are there."""
        return self.even is not None and self.odd is not None

    @cached_property
    def blurred(self) -> Tensor:
        """The input under a Gaussian, (z, y, x): see `gaussian`."""
        return gaussian(self.mean, GAUSSIAN_SIGMA_VOXELS)

    @cached_property
    def wiener(self) -> Tensor:
        """The Wiener estimate by shell and angle, (z, y, x); needs halves."""
        if self.even is None or self.odd is None:
            raise ValueError("the Wiener estimate needs both halves")
        return wiener_by_angle(self.even, self.odd, self.wedge)

    @cached_property
    def sign(self) -> float:
        """Which way structure points from the background: `density_sign`, or the skewness' sign."""
        if self.density_sign:
            return self.density_sign
        centred = self.blurred.double() - self.blurred.double().mean()
        return 1.0 if float((centred**3).mean()) >= 0 else -1.0


@dataclass(frozen=True)
class Null:
    """A baseline: its name in tables and files, a sentence for the reader, and what it computes."""

    name: str
    title: str
    needs_halves: bool
    compute: Callable[[NullInput], Tensor]


def gaussian(volume: Tensor, sigma_voxels: float) -> Tensor:
    """Blur (z, y, x) by a Gaussian of `sigma_voxels`, periodic."""
    shape = volume.shape[-3:]
    window = torch.exp(-2 * (torch.pi * sigma_voxels * radius(shape)) ** 2)
    return irfft(rfft(volume) * window, shape)


def _wiener_weight(half_fsc: Tensor) -> Tensor:
    """Weight of the mean of two halves from their correlation F: 2 F / (1 + F), not negative."""
    fsc = torch.nan_to_num(half_fsc).clamp(0.0, 1.0)
    return (2 * fsc / (1 + fsc)).float()


def wiener_isotropic(even: Tensor, odd: Tensor) -> Tensor:
    """Weight the mean of the halves (z, y, x) by their FSC, one weight a shell."""
    z, y, x = even.shape
    shells = shell_count((z, y, x))
    weight = _wiener_weight(fsc_curve(tapered(even), tapered(odd), shells))
    return _weighted_mean(even, odd, weight, _shell(even.shape, shells))


def wiener_by_angle(even: Tensor, odd: Tensor, wedge: MissingWedge) -> Tensor:
    """Weight the mean of the halves (z, y, x) by their correlation in shells and tilt sectors.

    Sectors of 15 degrees about the tilt axis, counted from each end of the tilt range, so that no
    sector lies half in the wedge.
    """
    z, y, x = even.shape
    shape = (int(z), int(y), int(x))
    shells = shell_count(shape)
    group, groups = _shell_sectors(shape, shells, wedge)
    weight = multiplicity(shape).double()
    sums = grouped_sums(rfft(tapered(even)), rfft(tapered(odd)), group, groups, weight)
    return _weighted_mean(even, odd, _wiener_weight(sums.correlation), group)


def _shell(shape_zyx: torch.Size, shells: int) -> Tensor:
    return (radius(shape_zyx, dtype=torch.float64) * 2 * shells).long().clamp(max=shells)


def _shell_sectors(shape: tuple[int, int, int], shells: int, wedge: MissingWedge) -> tuple[Tensor, int]:
    """Group number of each coefficient by (shell, sector) and the number of groups."""
    angle, _ = plane_angle(shape, wedge.tilt_axis_deg)
    lo, hi = wedge.tilt_range_deg
    # The projection at tilt t measures the plane at angle -t (+t for flipped files).
    low, high = (lo, hi) if wedge.flipped else (-hi, -lo)
    inside = max(1, round((high - low) / SECTOR_DEG))
    edges = torch.linspace(low, high, inside + 1, dtype=torch.float64)
    sector = torch.bucketize(angle, edges)  # 0 and inside + 1: the two sides of the wedge
    shell = _shell(torch.Size(shape), shells)
    groups = shells * (inside + 2)
    group = torch.where(shell < shells, shell * (inside + 2) + sector, groups)
    return group, groups


def _weighted_mean(even: Tensor, odd: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    table = torch.cat([weight, weight.new_zeros(1)])
    gain = table[group]
    gain[0, 0, 0] = 1.0  # the mean density stays
    return irfft(rfft((even + odd).float() / 2) * gain, even.shape)


def clip_and_put_back(
    volume: Tensor, wedge: MissingWedge, sign: float = 1.0, rounds: int = POCS_ROUNDS
) -> Tensor:
    """Alternate between "nothing beyond the background" and "what was measured stays".

    Parameters
    ----------
    volume : (z, y, x)
        The estimate to start from; its measured coefficients are put back every round.
    wedge : MissingWedge
        What was measured; the tilt range counts, not the list.
    sign : float
        1: structure is brighter than the background, clip below it; -1: clip above.
    rounds : int
        How often.

    Notes
    -----
    Projections onto convex sets; the background is the median density.
    """
    support = wedge.solid().support(volume.shape[-3:])
    measured = rfft(volume.float() * sign) * support
    estimate = irfft(measured, volume.shape)
    background = float((volume * sign).median())
    for _ in range(rounds):
        clipped = rfft(estimate.clamp(min=background))
        estimate = irfft(torch.where(support, measured, clipped), volume.shape)
    return estimate * sign


NULLS: dict[str, Null] = {}


def register_null(
    name: str, title: str, *, needs_halves: bool = False
) -> Callable[[Callable[[NullInput], Tensor]], Callable[[NullInput], Tensor]]:
    """Add a baseline to the table under a unique name."""

    def add(compute: Callable[[NullInput], Tensor]) -> Callable[[NullInput], Tensor]:
        if name in NULLS:
            raise ValueError(f"null {name} exists already")
        NULLS[name] = Null(name, title, needs_halves, compute)
        return compute

    return add


def available_nulls(inputs: NullInput) -> Iterator[Null]:
    """Yield the nulls that can be computed from `inputs`, in the order of the table."""
    for null in NULLS.values():
        if inputs.has_halves or not null.needs_halves:
            yield null


@register_null("zero_fill", "Input, wedge left empty")
def _zero_fill(inputs: NullInput) -> Tensor:
    return inputs.mean


@register_null("gaussian", f"Gaussian blur, {GAUSSIAN_SIGMA_VOXELS:g} voxels")
def _gaussian(inputs: NullInput) -> Tensor:
    return inputs.blurred


@register_null("wiener_isotropic", "Wiener, by half-map FSC", needs_halves=True)
def _wiener_isotropic(inputs: NullInput) -> Tensor:
    if inputs.even is None or inputs.odd is None:
        raise ValueError("the Wiener estimate needs both halves")
    return wiener_isotropic(inputs.even, inputs.odd)


@register_null("wiener_by_angle", "Wiener, by half-map FSC and angle", needs_halves=True)
def _wiener_by_angle(inputs: NullInput) -> Tensor:
    return inputs.wiener


@register_null("clip_input", "Clip + put back, from the blur")
def _clip_input(inputs: NullInput) -> Tensor:
    return clip_and_put_back(inputs.blurred, inputs.wedge, inputs.sign)


@register_null("clip_wiener", "Clip + put back, from Wiener", needs_halves=True)
def _clip_wiener(inputs: NullInput) -> Tensor:
    return clip_and_put_back(inputs.wiener, inputs.wedge, inputs.sign)
