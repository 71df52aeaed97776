"""Fourier shell correlation, whole and by region: measured ("seen") and missing.

The missing region starts three Fourier voxels inside the wedge, the seen region one inside the
measured part; the zone between counts for neither, since windows and interpolation mix it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.metrics.sectors import tapered
from cryoaae.physics.fourier import multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge

REGIONS = ("all", "seen", "missing")
# Bands in cycles per voxel: [low, high).
BANDS = {"low": (0.01, 0.08), "mid": (0.08, 0.16), "band": (0.01, 0.3)}
THRESHOLDS = (0.5, 0.143)
# "At least" three and one: planes of coefficients lie exactly there (tilts to 60 degrees, even boxes),
# so a rounding error must not decide.
MISSING_DEPTH, SEEN_DEPTH = 3.0 - 1e-4, -1.0 + 1e-4
VOXELS_PER_SHELL = 2
MIN_SHELLS = 8


@dataclass(frozen=True)
class Resolution:
    """Where a curve crosses a threshold.

    Parameters
    ----------
    angstrom : float
        Resolution; NaN where the curve has no value at all.
    bound : str
        "" for a crossing, "better than" for a curve that never falls below the threshold, "worse
        than" for one that starts below it.
    """

    angstrom: float
    bound: str = ""

    def __str__(self) -> str:
        """Write as a table does: "55.3", "< 21" or "-"."""
        if math.isnan(self.angstrom):
            return "-"
        sign = {"better than": "< ", "worse than": "> "}.get(self.bound, "")
        return f"{sign}{self.angstrom:.3g}"


def region_masks(shape_zyx: tuple[int, int, int], wedge: MissingWedge) -> dict[str, Tensor]:
    """Masks (z, y, x // 2 + 1) of the regions on the half spectrum; tilts in the list are ignored.

    Regions always follow the two ends of the tilt range: what lies between slabs is scored as seen.
    """
    depth = wedge.solid().depth(shape_zyx)
    return {
        "all": torch.ones_like(depth, dtype=torch.bool),
        "seen": depth < SEEN_DEPTH,
        "missing": depth > MISSING_DEPTH,
    }


def shell_count(shape_zyx: tuple[int, int, int]) -> int:
    """Number of shells up to Nyquist, two Fourier voxels of the middle axis each."""
    return max(MIN_SHELLS, sorted(shape_zyx)[1] // 2 // VOXELS_PER_SHELL)


@dataclass(frozen=True)
class ShellSums:
    """Cross and auto power of two spectra, summed over any set of coefficients."""

    cross: Tensor
    power_a: Tensor
    power_b: Tensor

    @property
    def correlation(self) -> Tensor:
        """Fourier correlation; NaN where a set is empty or a spectrum zero."""
        norm = torch.sqrt(self.power_a * self.power_b)
        return torch.where(norm > 0, self.cross / norm, torch.nan)

    @property
    def slope(self) -> Tensor:
        """Least-squares factor of a on b: the gain of a, less than 1 where it is damped."""
        return torch.where(self.power_b > 0, self.cross / self.power_b, torch.nan)


def grouped_sums(a: Tensor, b: Tensor, group: Tensor, groups: int, weight: Tensor) -> ShellSums:
    """Sum cross and auto power by group.

    Parameters
    ----------
    a, b : (z, y, x // 2 + 1) complex
        Half spectra.
    group : (z, y, x // 2 + 1) int
        Group of each coefficient; `groups` or more leaves it out.
    groups : int
        Number of groups.
    weight : broadcastable to the spectra
        How often each coefficient counts (`multiplicity`).
    """
    index = group.clamp(max=groups).reshape(-1)

    def total(values: Tensor) -> Tensor:
        flat = (values.double() * weight).reshape(-1)
        return torch.zeros(groups + 1, dtype=torch.float64).index_add_(0, index, flat)[:groups]

    return ShellSums(total((a * b.conj()).real), total(a.abs() ** 2), total(b.abs() ** 2))


def fsc_curve(a: Tensor, b: Tensor, shells: int, mask: Tensor | None = None) -> Tensor:
    """Fourier shell correlation, (shells,) float64, of volumes (z, y, x) as they are (no taper).

    Parameters
    ----------
    a, b : (z, y, x)
        Volumes of one shape.
    shells : int
        Shells of equal width up to 0.5 cycles per voxel.
    mask : (z, y, x // 2 + 1) bool, optional
        Coefficients that count.
    """
    shape = (int(a.shape[-3]), int(a.shape[-2]), int(a.shape[-1]))
    index = _shells(shape, shells)
    if mask is not None:
        index = torch.where(mask, index, shells)
    weight = multiplicity(shape).double()
    return grouped_sums(rfft(a.double()), rfft(b.double()), index, shells, weight).correlation


def _shells(shape_zyx: tuple[int, int, int], shells: int) -> Tensor:
    # In float64: on a box of 2^n voxels many radii fall exactly on the edge of a shell.
    return (radius(shape_zyx, dtype=torch.float64) / 0.5 * shells).long().clamp(max=shells)


def resolution(fsc: Tensor, threshold: float, voxel_size_angstrom: float, first_shell: int = 1) -> Resolution:
    """Find where a curve first falls below `threshold`, interpolated between shell centres.

    Parameters
    ----------
    fsc : (shells,)
        Curve over shells of equal width up to Nyquist; NaN where nothing was measured.
    threshold : float
        0.5 or 0.143 by custom.
    voxel_size_angstrom : float
        Edge of the voxel.
    first_shell : int
        Shells before it (the mean and the faded faces) do not count.
    """
    values = fsc.tolist()
    shells = len(values)
    known = [(i + 0.5, v) for i, v in enumerate(values) if i >= first_shell and not math.isnan(v)]
    if not known:
        return Resolution(math.nan)

    def angstrom(position: float) -> float:
        return voxel_size_angstrom * 2 * shells / position

    before: tuple[float, float] | None = None
    for position, value in known:
        if value < threshold:
            if before is None:
                return Resolution(angstrom(position), "worse than")
            share = (before[1] - threshold) / (before[1] - value)
            return Resolution(angstrom(before[0] + share * (position - before[0])))
        before = (position, value)
    return Resolution(angstrom(known[-1][0]), "better than")


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two volumes, over all voxels, in float64; NaN for a constant one."""
    x, y = a.double(), b.double()
    x, y = x - x.mean(), y - y.mean()
    norm = torch.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm > 0 else math.nan


class Scorer:
    """Score volumes against one truth, seen through one wedge.

    Parameters
    ----------
    truth : (z, y, x)
        What volumes are compared with.
    wedge : MissingWedge
        What was measured.
    voxel_size_angstrom : float
        Edge of the voxel.

    Notes
    -----
    Means are removed and faces faded (a raised cosine over an eighth of each axis) before the
    spectra are taken, else the faces leak into the wedge.
    """

    def __init__(self, truth: Tensor, wedge: MissingWedge, voxel_size_angstrom: float) -> None:
        z, y, x = truth.shape
        self.shape = (int(z), int(y), int(x))
        self.voxel_size_angstrom = voxel_size_angstrom
        self.shells = shell_count(self.shape)
        self._truth = truth
        self._spectrum = rfft(tapered(truth))
        self._radius = radius(self.shape, dtype=torch.float64)
        self._shell = _shells(self.shape, self.shells)
        self._weight = multiplicity(self.shape).double()
        self._masks = region_masks(self.shape, wedge)

    @property
    def sfreq_per_angstrom(self) -> list[float]:
        """Centres of the shells in cycles per angstrom."""
        width = 0.5 / self.shells
        return [(i + 0.5) * width / self.voxel_size_angstrom for i in range(self.shells)]

    def score(self, volume: Tensor) -> dict[str, Any]:
        """Compare a volume (z, y, x) with the truth.

        Returns
        -------
        dict
            "cc": correlation; "regions": for each of `REGIONS` "bands" (fcc, slope, excess_power),
            "fsc" and "power" (lists over `sfreq_per_angstrom`; power of the volume over that of the truth)
            and "resolution" (by threshold). "slope" is the
            gain of the volume on the truth. "excess_power" is the volume's power over what it
            explains, ``|X|^2 / (fcc^2 |G|^2)``: 1 for an unbiased conditional mean, more for inventions.
        """
        if tuple(volume.shape) != self.shape:
            raise ValueError(f"shape {tuple(volume.shape)} does not match {self.shape}")
        spectrum = rfft(tapered(volume))
        regions = {name: self._region(spectrum, mask) for name, mask in self._masks.items()}
        return {"cc": correlation(volume, self._truth), "regions": regions}

    def _region(self, spectrum: Tensor, mask: Tensor) -> dict[str, Any]:
        # Gathering the region first makes all later sums cheap: the deep wedge is a tenth of the box.
        a, b = spectrum[mask], self._spectrum[mask]
        weight = self._weight.expand_as(mask)[mask]
        freq = self._radius[mask]
        bands = {}
        for name, (low, high) in BANDS.items():
            outside = ((freq < low) | (freq >= high)).long()
            sums = grouped_sums(a, b, outside, 1, weight)
            fcc, slope = float(sums.correlation), float(sums.slope)
            # |X|^2 / (fcc^2 |G|^2) = (|X| / (fcc |G|))^2, and |X| / |G| = slope / fcc.
            excess = (slope / fcc**2) ** 2 if fcc else math.inf
            bands[name] = {"fcc": fcc, "slope": slope, "excess_power": excess}
        shells = grouped_sums(a, b, self._shell[mask], self.shells, weight)
        fsc = shells.correlation
        found = {str(t): resolution(fsc, t, self.voxel_size_angstrom) for t in THRESHOLDS}
        return {
            "bands": bands,
            "fsc": fsc.tolist(),
            "power": torch.where(shells.power_b > 0, shells.power_a / shells.power_b, torch.nan).tolist(),
            "resolution": {k: {"angstrom": v.angstrom, "bound": v.bound} for k, v in found.items()},
        }
