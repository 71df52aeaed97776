"""Structure lost or invented: a restoration searched for the particles that the truth holds.

A matched filter compares the restoration x with a template t over the ball B of the particle,

    c(u) = <x(u + .), t> / (|x(u + .)| |t|)     means over B removed, so that contrast and units do not count,

up to the end of the middle band, since beyond it no restoration knows the wedge. Two templates serve:

- What the truth itself holds at a listed particle is held against the restoration at the same place. A
  particle whose c stays below the threshold is lost.
- The radial mean of a class is looked for wherever the truth is empty. A peak above the threshold that is
  at least half as strong as the class's own particles in that restoration is invented.

The threshold of a class is fixed beforehand and is the same for whatever is scored: random density of the
truth's power spectrum, which holds no particle, exceeds it at a nominal share of all places. `ParticleScorer.noise`
says how many peaks that makes in this tomogram.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.metrics.fsc import BANDS
from cryoaae.physics.fourier import irfft, radius, rfft, shell_index, shell_sum, soft_lowpass

# Share of places at which density without structure exceeds the threshold.
NOMINAL_RATE = 1e-3
# Places of structureless density that a threshold is read from; a few dozen of them are independent and above.
NULL_PLACES, MOST_NULLS = 2**22, 64
FREQ_MAX = BANDS["mid"][1]
EDGE = 0.1  # of the low-pass, a share of FREQ_MAX to each side
# A class ends where its radial mean has fallen to this share of its maximum.
RIM = 0.1
SMALLEST_RADIUS = 2
# A place is empty where the truth's energy in the ball is at most so many times the background's; a little is
# always allowed, and never a good part of what the class has: shares of its energy.
EMPTY_TIMES, EMPTY_SHARES = 2.0, (0.05, 0.25)
MAD_TO_STD = 1.4826
# A peak this strong, against the class's own particles in the same volume, would be taken for one.
TAKEN_FOR_ONE = 0.5
# A particle cut by the faces is judged if this share of its ball lies inside.
INSIDE_SHARE = 0.5


@dataclass(frozen=True)
class _Ball:
    """Offsets of the voxels within `reach` voxels of a centre, (n, 3)."""

    reach: int
    offsets_zyx: Tensor

    @classmethod
    def of(cls, reach: int) -> _Ball:
        axis = torch.arange(-reach, reach + 1)
        grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
        return cls(reach, grid[grid.pow(2).sum(dim=-1) <= (reach + 0.5) ** 2])

    def spectrum(self, values: Tensor, shape_zyx: Sequence[int]) -> Tensor:
        """Spectrum of a kernel with `values` (n,) on the ball and its centre at voxel 0."""
        kernel = torch.zeros(tuple(shape_zyx))
        z, y, x = (self.offsets_zyx % torch.tensor(tuple(shape_zyx))).unbind(dim=-1)
        kernel[z, y, x] = values
        return rfft(kernel)

    def voxels(self, centre_zyx: Tensor, shape_zyx: Sequence[int]) -> Tensor:
        """Voxels (n, 3) of the ball about a centre that lie in the volume."""
        at = centre_zyx + self.offsets_zyx
        return at[((at >= 0) & (at < torch.tensor(tuple(shape_zyx)))).all(dim=-1)]


@dataclass(frozen=True)
class _Template:
    """The radial mean of a class over its ball.

    Parameters
    ----------
    ball : _Ball
    values : (n,)
        Mean removed.
    energy : float
        Of the radial mean as it is, above the background.
    rows : (m,)
        Particles of the class.
    """

    ball: _Ball
    values: Tensor
    energy: float
    rows: Tensor


class _Searched:
    """A volume (z, y, x) to correlate with templates at every place; its faces wrap around."""

    def __init__(self, volume: Tensor) -> None:
        self.volume, self.shape = volume, tuple(int(n) for n in volume.shape)
        self._spectrum, self._square = rfft(volume), rfft(volume**2)
        self._reach, self._spread = -1, volume

    def _correlate(self, spectrum: Tensor, ball: _Ball, values: Tensor) -> Tensor:
        kernel = ball.spectrum(values, self.shape)
        return irfft(spectrum * kernel.conj(), self.shape) * math.sqrt(self.volume.numel())

    def energy(self, ball: _Ball) -> Tensor:
        """Sum of squares over the ball about each place."""
        return self._correlate(self._square, ball, torch.ones(len(ball.offsets_zyx)))

    def _spread_over(self, ball: _Ball) -> Tensor:
        """Root of the sum of squares over the ball, its mean removed; kept, for templates come by size."""
        if ball.reach != self._reach:
            count = len(ball.offsets_zyx)
            total = self._correlate(self._spectrum, ball, torch.ones(count))
            scatter = self.energy(ball) - total**2 / count
            # Where a volume is constant nothing correlates: no ratio of rounding errors.
            least = 1e-6 * count * float(self.volume.var()) + torch.finfo(torch.float32).tiny
            self._reach, self._spread = ball.reach, scatter.clamp(min=least).sqrt()
        return self._spread

    def match(self, template: _Template) -> tuple[Tensor, Tensor]:
        """Correlation with a template at every place, and its least-squares amplitude."""
        product = self._correlate(self._spectrum, template.ball, template.values)
        norm = template.values.pow(2).sum()
        return product / (self._spread_over(template.ball) * norm.sqrt()), product / norm


class ParticleScorer:
    """Count the particles that a restoration lost and those that it invented.

    Parameters
    ----------
    truth : (z, y, x)
        The true density.
    points_zyx : (n, 3)
        Particles of the truth in voxels; half a voxel counts down, so that lists with the first voxel's
        centre at 0 and at 0.5 mean the same.
    classes : sequence of str
        Of each particle.
    generator : torch.Generator
        Draws the density without structure.
    rate : float
        Share of its places that exceed a threshold.
    sign : float
        1: structure is brighter than the background; -1: darker.

    Raises
    ------
    ValueError
        When no particle has half of its ball in the volume.
    """

    def __init__(
        self,
        truth: Tensor,
        points_zyx: NDArray[np.floating[Any]],
        classes: Sequence[str],
        *,
        generator: torch.Generator,
        rate: float = NOMINAL_RATE,
        sign: float = 1.0,
    ) -> None:
        self.rate, self.sign, self.shape = rate, sign, tuple(int(n) for n in truth.shape)
        freq = radius(self.shape)
        self._band = soft_lowpass(freq, (1 - EDGE) * FREQ_MAX, (1 + EDGE) * FREQ_MAX)
        self._truth = self._filtered(sign * (truth - truth.median()))
        centres = torch.from_numpy(np.ceil(np.asarray(points_zyx, float) - 0.5)).long().reshape(-1, 3)
        inside = ((centres >= 0) & (centres < torch.tensor(self.shape))).all(dim=-1)
        self._centres = centres[inside]
        self._templates = self._class_templates([c for c, kept in zip(classes, inside.tolist(), strict=True) if kept])
        if not any(len(template.rows) for template in self._templates.values()):
            raise ValueError("no particle lies in the volume")
        self._amplitude = self._shell_amplitude()
        nulls = [_Searched(self.structureless(generator)) for _ in range(self._nulls_needed())]
        self._thresholds = {name: self._threshold(t, nulls) for name, t in self._templates.items()}
        searched = _Searched(self._truth)
        self._empty = {name: self._is_empty(name, searched) for name in self._templates}
        self.noise = self.score(sign * self.structureless(generator))

    # -- what is looked for --------------------------------------------------------------------------

    def _filtered(self, volume: Tensor) -> Tensor:
        return irfft(rfft(volume.float()) * self._band, self.shape)

    def _class_templates(self, classes: Sequence[str]) -> dict[str, _Template]:
        """Templates by class, the smallest balls first."""
        found = {}
        for name in sorted(set(classes)):
            rows = torch.tensor([i for i, c in enumerate(classes) if c == name])
            profile = self._radial_mean(self._centres[rows])
            top = int(profile.argmax())
            ends = (profile[top:] < RIM * profile[top]).nonzero()
            reach = top + int(ends[0]) if len(ends) else len(profile) - 1
            ball = _Ball.of(max(reach, SMALLEST_RADIUS))
            distance = ball.offsets_zyx.double().pow(2).sum(dim=-1).sqrt()
            values = torch.from_numpy(np.interp(distance, np.arange(len(profile)), profile)).float()
            judged = torch.tensor([i for i in rows.tolist() if self._reaches_inside(i, ball)]).long()
            found[name] = _Template(ball, values - values.mean(), float(values.pow(2).sum()), judged)
        return dict(sorted(found.items(), key=lambda item: item[1].ball.reach))

    def _radial_mean(self, centres: Tensor) -> Tensor:
        """Mean of the truth over shells one voxel wide about centres, up to a quarter of the box, (shells,)."""
        ball = _Ball.of(max(SMALLEST_RADIUS + 1, min(self.shape) // 4))
        sums, counts = torch.zeros(ball.reach + 1), torch.zeros(ball.reach + 1)
        for centre in centres:
            at = ball.voxels(centre, self.shape)
            shell = (at - centre).double().pow(2).sum(dim=-1).sqrt().round().long()
            sums.index_add_(0, shell, self._truth[at.unbind(dim=-1)])
            counts.index_add_(0, shell, torch.ones(len(shell)))
        return sums / counts.clamp(min=1)

    def _reaches_inside(self, row: int, ball: _Ball) -> bool:
        return len(ball.voxels(self._centres[row], self.shape)) >= INSIDE_SHARE * len(ball.offsets_zyx)

    # -- where, and from which value on --------------------------------------------------------------

    def _nulls_needed(self) -> int:
        return min(MOST_NULLS, math.ceil(NULL_PLACES / math.prod(self.shape)))

    def _shell_amplitude(self) -> Tensor:
        """Root mean power of the filtered truth in each coefficient's shell, (z, y, x // 2 + 1)."""
        shells = max(8, min(self.shape) // 2)
        index = shell_index(self.shape, shells)
        power = shell_sum(rfft(self._truth - self._truth.mean()).abs() ** 2, index, shells + 1)
        count = shell_sum(torch.ones(index.shape), index, shells + 1)
        return (power / count.clamp(min=1)).sqrt().float()[index]

    def structureless(self, generator: torch.Generator) -> Tensor:
        """Gaussian density (z, y, x) with the power of the filtered truth in each shell."""
        return irfft(rfft(torch.randn(self.shape, generator=generator)) * self._amplitude, self.shape)

    def _threshold(self, template: _Template, nulls: Sequence[_Searched]) -> float:
        values = torch.cat([null.match(template)[0].reshape(-1) for null in nulls])
        return float(values.kthvalue(math.ceil((1 - self.rate) * len(values))).values)

    def _is_empty(self, name: str, truth: _Searched) -> Tensor:
        """Where a class could be invented, (z, y, x) bool: inside, little density, nothing like the class."""
        template = self._templates[name]
        ball, reach = template.ball, template.ball.reach
        background = MAD_TO_STD * float((truth.volume - truth.volume.median()).abs().median())
        least, most = (share * template.energy for share in EMPTY_SHARES)
        allowed = min(max(EMPTY_TIMES * background**2 * len(ball.offsets_zyx), least), most)
        alike = truth.match(template)[0] >= self._thresholds[name]
        near = torch.nn.functional.max_pool3d(alike.float()[None], 3, stride=1, padding=1)[0] > 0
        empty = (truth.energy(ball) < allowed) & ~near
        whole = torch.zeros_like(empty)
        whole[tuple(slice(reach, n - reach) for n in self.shape)] = True
        return empty & whole

    # -- counting ------------------------------------------------------------------------------------

    def score(self, volume: Tensor) -> dict[str, Any]:
        """Count what a volume (z, y, x) lost and invented.

        Returns
        -------
        dict
            "particles": number looked for; "lost", "invented": counts; "above_in_empty": share of the
            empty places above the threshold, to compare with the nominal rate; "classes": by class
            "particles", "lost", "invented" and "correlation", the median of c; "invented_zyx".
        """
        if tuple(volume.shape) != self.shape:
            raise ValueError(f"shape {tuple(volume.shape)} does not match {self.shape}")
        searched = _Searched(self._filtered(self.sign * (volume - volume.mean())))
        classes: dict[str, dict[str, Any]] = {}
        peaks: list[tuple[float, str, Tensor]] = []
        above = places = 0
        for name, template in self._templates.items():
            own = [self._own_correlation(searched.volume, int(i), template.ball) for i in template.rows]
            lost = sum(c < self._thresholds[name] for c in own)
            median = float(np.median(own)) if own else math.nan
            classes[name] = {"particles": len(own), "lost": lost, "invented": 0, "correlation": median}
            correlation, amplitude = searched.match(template)
            exceeds = (correlation >= self._thresholds[name]) & self._empty[name]
            above, places = above + int(exceeds.sum()), places + int(self._empty[name].sum())
            strong = exceeds & (amplitude >= self._taken_for_one(amplitude, template))
            peaks += self._peaks(name, correlation, strong)
        invented = list(self._apart(peaks))
        for name, _ in invented:
            classes[name]["invented"] += 1
        return {
            "particles": sum(c["particles"] for c in classes.values()),
            "lost": sum(c["lost"] for c in classes.values()),
            "invented": len(invented),
            "above_in_empty": above / places if places else math.nan,
            "classes": classes,
            "invented_zyx": [at.tolist() for _, at in invented],
        }

    def _own_correlation(self, volume: Tensor, row: int, ball: _Ball) -> float:
        """Correlation of a volume with what the truth holds at a listed particle."""
        at = ball.voxels(self._centres[row], self.shape).unbind(dim=-1)
        a, b = volume[at].double(), self._truth[at].double()
        a, b = a - a.mean(), b - b.mean()
        norm = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
        return float(a @ b) / norm if norm > 0 else 0.0

    def _taken_for_one(self, amplitude: Tensor, template: _Template) -> float:
        if not len(template.rows):
            return 0.0
        at = self._centres[template.rows].unbind(dim=-1)
        return max(0.0, TAKEN_FOR_ONE * float(amplitude[at].median()))

    def _peaks(self, name: str, correlation: Tensor, strong: Tensor) -> list[tuple[float, str, Tensor]]:
        """Local maxima of a class: how far above the threshold, class and voxel."""
        highest = torch.nn.functional.max_pool3d(correlation[None], 3, stride=1, padding=1)[0]
        threshold = self._thresholds[name]
        return [
            ((float(correlation[tuple(at.tolist())]) - threshold) / (1 - threshold), name, at)
            for at in (strong & (correlation == highest)).nonzero()
        ]

    def _apart(self, peaks: list[tuple[float, str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The clearest peak of each place, as (class, voxel): balls of two that are kept do not hold each other."""
        kept: list[tuple[Tensor, int]] = []
        for _, name, at in sorted(peaks, key=lambda peak: -peak[0]):
            reach = self._templates[name].ball.reach
            if all(float(torch.linalg.vector_norm((at - other).double())) > max(reach, far) for other, far in kept):
                kept.append((at, reach))
                yield name, at

    @property
    def facts(self) -> dict[str, Any]:
        """What was fixed beforehand: rate, band, and by class radius in voxels, threshold and share of empty places."""
        return {
            "nominal_rate": self.rate,
            "freq_max": FREQ_MAX,
            "classes": {
                name: {
                    "radius_voxels": template.ball.reach,
                    "threshold": self._thresholds[name],
                    "empty_share": float(self._empty[name].float().mean()),
                }
                for name, template in self._templates.items()
            },
            "noise": {key: self.noise[key] for key in ("particles", "lost", "invented", "above_in_empty")},
        }
