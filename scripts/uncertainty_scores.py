"""Draws of a simulated tomogram against its truth: sizes, coverage, ranks and scores, beside spreads that know less.

Nulls: *constant* and *local rms*, normal laws about the restoration, of one width or of one that follows its local
rms, both given the error's true size, which no user has; and *noise*, the restoration with Gaussian noise of the
calibrated power. In patches the constant is white; the local rms scales the noise.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from cryoaae.io.mrc import open_volume
from cryoaae.metrics.calibration import coverage, local_rms, mean_crps
from cryoaae.nets.error_size import smoothed
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.restoration.placement import WINDOW_SIGMA
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.simulation.specimen import OCCUPIED, add_membranes, empty_specimen
from cryoaae.simulation.tilt_series import field_width, tilt_angles_deg
from cryoaae.volume import Volume

NOMINAL, WINDOW, PATCH = 0.9, 5, 8
MEANS_OF = (1, 2, 4, 8)
NULLS = ("constant", "local_rms", "noise")
STRATA = ("background", "particle", "membrane")


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def sum_of(volumes: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(volumes)).sum(dim=0)


def local_spread(deviations: Sequence[Tensor]) -> Tensor:
    """What `std.mrc` is on the working grid, (z, y, x): over the draws and a Gaussian window."""
    squares = sum_of(d.square() for d in deviations) / len(deviations)
    return smoothed(squares, WINDOW_SIGMA).clamp(min=0.0).sqrt()


def in_band(volume: Tensor, band: Tensor) -> Tensor:
    """A volume (z, y, x) filtered to coefficients (z, y, x // 2 + 1), float64."""
    return irfft(rfft(volume) * band, volume.shape).double()


def score_of_either_sign(draws: Tensor, target: Tensor) -> Tensor:
    """Energy score of a symmetric law, of deviations (k, ..., p) for an error (..., p): every draw with either sign.

    The plain score takes draws to be independent. The bootstrap's signs alternate, so that more than half of the pairs
    have opposite ones, and it takes that for spread: of 8 draws it is too low by 2 to 4 %.
    """
    norm = torch.linalg.vector_norm
    reach = sum_of((norm(d - target, dim=-1) + norm(d + target, dim=-1)) / 2 for d in draws) / len(draws)
    apart = [(norm(a - b, dim=-1) + norm(a + b, dim=-1)) / 2 for a, b in itertools.combinations(draws, 2)]
    return reach - sum_of(apart) / len(apart) / 2


def score_of_draws(draws: Tensor, target: Tensor) -> Tensor:
    """Energy score of independent draws (k, ..., p) of a law that need not be symmetric, for an error (..., p)."""
    norm = torch.linalg.vector_norm
    reach = sum_of(norm(d - target, dim=-1) for d in draws) / len(draws)
    apart = [norm(a - b, dim=-1) for a, b in itertools.combinations(draws, 2)]
    return reach - sum_of(apart) / len(apart) / 2


class Compared:
    """The error, and deviations in several states, filtered to a band; voxels away from the faces."""

    def __init__(
        self, band: Tensor, where: Tensor, errors: Mapping[str, Tensor], deviations: Mapping[str, list[Tensor]]
    ) -> None:
        self.errors = {name: in_band(error, band)[where] for name, error in errors.items()}
        self.spread = {
            state: local_spread([in_band(d, band) for d in made])[where] for state, made in deviations.items()
        }

    def facts(self) -> dict[str, Any]:
        """Predicted over actual rms, and coverage, in every state."""
        error = self.errors["truth"]
        return {
            state: {
                "ratio": rms(spread) / rms(error),
                "ratio_to_clean": rms(spread) / rms(self.errors["noiseless"]),
                "coverage": coverage(error, spread, nominal=NOMINAL),
            }
            for state, spread in self.spread.items()
        }


@dataclass(frozen=True)
class Scored:
    """What is scored, all of one band.

    Parameters
    ----------
    tomogram : WorkingTomogram
    truth, estimate : (z, y, x) float64
    deviations : dict of state to list of (z, y, x) float64
        Of draws; "noise" among them.
    shifts : dict of state to (z, y, x) float64
        Where the law of draws is centred, less the estimate; of states that are not named it is the estimate.
    centred : bool
        Whether the draws' law is symmetric about its centre, so that either sign counts.
    """

    tomogram: WorkingTomogram
    truth: Tensor
    estimate: Tensor
    deviations: Mapping[str, list[Tensor]]
    shifts: Mapping[str, Tensor]
    centred: bool = True

    @classmethod
    def of(
        cls, tomogram: WorkingTomogram, band: Tensor, truth: Tensor, estimate: Tensor,
        deviations: Mapping[str, list[Tensor]], shifts: Mapping[str, Tensor], *, centred: bool = True,
    ) -> Scored:  # fmt: skip
        made = {state: [in_band(d, band) for d in volumes] for state, volumes in deviations.items()}
        away = {state: in_band(shift, band) for state, shift in shifts.items()}
        return cls(tomogram, in_band(truth, band), in_band(estimate, band), made, away, centred)

    @property
    def error(self) -> Tensor:
        return self.estimate - self.truth

    def spread(self, state: str) -> Tensor:
        return local_spread(self.deviations[state])

    def nulls(self) -> dict[str, Tensor]:
        """Standard deviations that know less, over the voxels that count."""
        where, size = self.tomogram.counted, rms(self.error[self.tomogram.counted])
        contrast = local_rms(self.estimate, WINDOW)[where]
        one, noise = torch.ones_like(contrast), self.spread("noise")[where]
        return {"constant": size * one, "local_rms": contrast * (size / rms(contrast)), "noise": rms(noise) * one}

    def by_voxel(self) -> dict[str, Any]:
        """Score and rank of standard deviations, and the score of the draws themselves, in units of the error's rms."""
        where = self.tomogram.counted
        error, nulls = self.error[where], self.nulls()
        spreads = {state: self.spread(state)[where] for state in self.deviations if state != "noise"} | nulls
        uneven = {name: s for name, s in spreads.items() if name not in ("constant", "noise")}
        drawn = {
            state: self._crps_of_draws(state, [d[where] for d in made]) for state, made in self.deviations.items()
        }
        drawn |= {name: mean_crps(error, nulls[name]) for name in ("constant", "local_rms")}
        return {
            "crps": {name: mean_crps(error, s) / rms(error) for name, s in spreads.items()},
            "crps_of_draws": {name: score / rms(error) for name, score in drawn.items()},
            "spearman": {name: float(spearmanr(s, error.abs()).statistic) for name, s in uneven.items()},
        }

    def _crps_of_draws(self, state: str, made: list[Tensor]) -> float:
        """Unbiased for any number of draws: the energy score of single voxels."""
        where = self.tomogram.counted
        away = self._shift(state)[where]
        draws, target = torch.stack(made) - away, -self.error[where] - away
        return float(self._scored(state)(draws[..., None], target[..., None]).mean())

    def _shift(self, state: str) -> Tensor:
        """Centre of a state's law less the estimate, (z, y, x)."""
        return self.shifts.get(state, torch.zeros_like(self.estimate))

    def _scored(self, state: str) -> Callable[[Tensor, Tensor], Tensor]:
        return score_of_either_sign if self.centred or state in NULLS else score_of_draws

    def by_patch(self, generator: torch.Generator) -> dict[str, float]:
        """Energy score over patches, in units of the error's rms there."""
        inside = self.tomogram.inside
        error, contrast = self.error, local_rms(self.estimate, WINDOW)
        size = rms(error[self.tomogram.counted])
        count, noise = len(self.deviations["noise"]), self.deviations["noise"]
        white = [torch.randn(error.shape, generator=generator).double() * size for _ in range(count)]
        nulls = {
            "constant": white,
            "local_rms": [d * contrast / rms(contrast[inside]) * (size / rms(d[inside])) for d in noise],
        }
        target, scores = -patches(error[inside]), {}
        whole = rms(torch.linalg.vector_norm(target, dim=-1))
        for name, made in {**self.deviations, **nulls}.items():
            away = patches(self._shift(name)[inside])
            draws = torch.stack([patches(d[inside]) for d in made]) - away
            scores[name] = float(self._scored(name)(draws, target - away).mean()) / whole
        return scores

    def by_stratum(self, strata: Mapping[str, Tensor], states: Sequence[str]) -> dict[str, Any]:
        """Size and coverage in the strata, (z, y, x) bool each, of some states and of the constant."""
        where, rows = self.tomogram.counted, {}
        for name, stratum in strata.items():
            inside = where & stratum
            error = self.error[inside]
            rows[name] = {"voxels": int(inside.sum())} | {
                state: {
                    "ratio": rms(self.spread(state)[inside]) / rms(error),
                    "coverage": coverage(error, self.spread(state)[inside], nominal=NOMINAL),
                }
                for state in states
            }
            constant = torch.full_like(error, rms(self.error[where]))
            rows[name]["constant"] = {"coverage": coverage(error, constant, nominal=NOMINAL)}
        return rows

    def means_of_draws(self, state: str) -> dict[str, Any]:
        """Correlation with the truth of the mean of P draws, and what it should be.

        *posterior*: of a posterior with the restoration as its mean. *calibrated*: of any draws about the restoration
        with the power of its error, g being the slope of the truth on it: rho / sqrt(1 + (g^2 / rho^2 - 2 g + 1) / P).
        *centre*: of a posterior with the draws' own centre as its mean.
        """
        where, made = self.tomogram.counted, self.deviations[state]
        truth, estimate = self.truth[where], self.estimate[where]

        def correlation(volume: Tensor) -> float:
            return float(torch.corrcoef(torch.stack([volume[where], self.truth[where]]))[0, 1])

        def posterior(rho: float, count: int) -> float:
            return rho / math.sqrt(1 + (1 - rho**2) / (count * rho**2))

        rho, centre = correlation(self.estimate), correlation(self.estimate + self._shift(state))
        slope, rows = float((estimate * truth).sum() / estimate.square().sum()), {}
        error = slope**2 / rho**2 - 2 * slope + 1
        for count in (n for n in MEANS_OF if n <= len(made)):
            groups = [made[k : k + count] for k in range(0, len(made) - count + 1, count)]
            found = np.mean([correlation(self.estimate + sum_of(g) / count) for g in groups])
            rows[str(count)] = {
                "found": float(found), "posterior": posterior(rho, count), "centre": posterior(centre, count),
                "calibrated": rho / math.sqrt(1 + error / count),
            }  # fmt: skip
        return {"restored": rho, "centre": centre, "slope": slope, "means": rows}

    def spectrum(self, state: str, bands: Iterable[tuple[Any, Tensor]], agreement: Mapping[int, float]) -> list[Any]:
        """Root mean square of draws over that of the truth by shell, and how far the halves agree there.

        Of the first two draws, whose deviations have opposite signs, and of all together.
        """
        where, made, rows = self.tomogram.counted, self.deviations[state], []
        for (shell, _), band in bands:
            true, estimate = (in_band(volume, band)[where] for volume in (self.truth, self.estimate))
            ratios = [rms(estimate + in_band(d, band)[where]) / rms(true) for d in made]
            together = math.sqrt(sum(ratio**2 for ratio in ratios) / len(ratios))
            rows.append({"shell": shell, "ratio": ratios[:2], "all": together, "agreement": agreement.get(shell, 0.0)})
        return rows


def patches(volume: Tensor) -> Tensor:
    """Cubes of `PATCH` voxels an axis, as many as fit, (n, voxels of a patch)."""
    whole = volume[tuple(slice(0, n // PATCH * PATCH) for n in volume.shape)]
    cut = whole.unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).unflatten(0, (-1, PATCH))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def strata_of(data: Path, tomogram: WorkingTomogram) -> dict[str, Tensor]:
    """Background, particles (with filaments) and membranes of a simulation, (z, y, x) bool on the working grid.

    Empty for a tomogram that `cryoaae simulate` did not make.
    """
    meta = json.loads((data / "meta.json").read_text())
    if "requested" not in meta:
        return {}
    tilts = tilt_angles_deg(tuple(meta["tilt_range_deg"]), meta["tilt_step_deg"])
    structure = open_volume(data / "truth_structure.mrc")
    # Membranes come first, so the specimen's own generator makes them again.
    built = empty_specimen(meta["shape_zyx"], field_width(meta["shape_zyx"], tilts))
    generator = np.random.default_rng(np.random.SeedSequence(meta["seed"]).spawn(3)[1])
    add_membranes(built, generator, meta["requested"]["membranes"], meta["voxel_size_angstrom"])
    membrane = np.abs(built.cut(built.structure)) > OCCUPIED
    particle = (np.abs(structure.numpy()) > OCCUPIED) & ~membrane
    found = dict(zip(STRATA[1:], (_brought(tomogram, m, structure) for m in (particle, membrane)), strict=True))
    return {"background": ~(found["particle"] | found["membrane"]), **found}


def _brought(tomogram: WorkingTomogram, mask: Any, like: Volume) -> Tensor:
    """A mask of the tomogram's voxels on the working grid: where more than half of a voxel is in it."""
    unit = tomogram.normalisation
    volume = Volume(mask.astype(np.float32), like.voxel_size_angstrom)
    return tomogram.bring(volume) * unit.scale + unit.mean > 0.5


