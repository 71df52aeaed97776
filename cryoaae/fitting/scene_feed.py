"""Batches for a general restorer: scenes filtered, mixed with noise and cut into patches.

Whatever is radial is drawn anew each time a scene is taken up: contrast transfer and envelope, colour and level of
the noise. Half turns make four scenes of one. A few are noise alone, or have the phases of noise: nothing must come
back from those, and what was not measured must stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.fitting.scene_pool import ScenePool
from cryoaae.models.general_fitting import SceneBatch, squared_error
from cryoaae.models.pair_fitting import whitening
from cryoaae.models.restorer import KERNEL_REACH, convolve
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE
from cryoaae.patches.featureless import random_phases
from cryoaae.patches.imaging import conditions
from cryoaae.patches.spectra import Spectra, measure_spectra, radial_kernel
from cryoaae.physics.ctf import wavelength_angstrom
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.scenes import Scene
from cryoaae.simulation.specimen import SOFTNESS_VOXEL
from cryoaae.volume import Volume

# What is drawn evenly between these limits.
WITHOUT_CTF = 0.4
DEFOCUS_UM, AMPLITUDE_CONTRAST = (1.5, 7.0), (0.05, 0.15)
VOLTAGE_KV = 300.0
ENVELOPE = (-0.4, 2.0)  # minus log of the amplitude at Nyquist
LOG_NOISE = (-0.6, 0.6)  # noise over signal, standard deviations, powers of ten
NOISE_SLOPE = (-0.6, 0.8)
# Shares of the drawn scenes; the others are as they are.
NOTHING_SHARE, TWIN_SHARE = 0.05, 0.10
SPECTRA_BLOCKS = 6
TURNS: tuple[tuple[int, ...], ...] = ((), (-3, -1), (-3, -2), (-2, -1))
SHARPENING_MAX = 3.0
BASELINE_PATCHES = 4
HELD_OUT_PATCHES = 4


@dataclass(frozen=True)
class Mixed:
    """A tomogram ready to be cut: (2, n, n, n) inputs, (1, n, n, n) truth, and what belongs to all its patches."""

    inputs: Tensor
    truth: Tensor
    kept: Tensor
    shell_weight: Tensor
    baseline: Tensor
    condition: Tensor
    spectra: Spectra
    wedge: MissingWedge


class SceneFeed:
    """Patches of a pool of tomograms, one of which is replaced every so many steps.

    Parameters
    ----------
    scenes : sequence of paths
        Files of `Scene`; the first `held_out` of them are kept out of fitting.
    patch, blocks, renew_every, batch_size
        As in `FitSettings`.
    hidden_weight : float
        That of the loss, for the error that others are measured by.
    """

    def __init__(
        self,
        scenes: Sequence[Path],
        *,
        held_out: int,
        patch: int,
        blocks: int,
        renew_every: int,
        batch_size: int,
        hidden_weight: float,
        seed: int,
        device: torch.device,
    ) -> None:
        # The first, so that more scenes may be added later.
        self.kept_out = list(scenes[:held_out])
        self.patch, self.batch_size = patch, batch_size
        self.hidden_weight, self.seed, self.device = hidden_weight, seed, device
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = ScenePool(
            scenes[held_out:], self._make, size=blocks, renew_every=renew_every, generator=self.generator
        )

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Make the pool on the first call; renew when due."""
        self.pool.renew(step)
        return False

    def _make(self, scene: Path, seed: int) -> Mixed:
        return mix(
            Scene.load(scene), seed=seed, patch=self.patch, hidden_weight=self.hidden_weight, device=self.device
        )

    def batch(self) -> SceneBatch:
        """Draw patches from all tomograms of the pool."""
        return _stacked([_cut(mixed, self.patch, self.generator) for mixed in self.pool.choose(self.batch_size)])

    def held_out(self) -> list[SceneBatch]:
        """Fixed patches of the scenes kept out of fitting."""
        batches = []
        for index, path in enumerate(self.kept_out):
            generator = torch.Generator().manual_seed(index)
            mixed = mix(
                Scene.load(path), seed=index, patch=self.patch, hidden_weight=self.hidden_weight,
                device=self.device, case=STRUCTURE,
            )  # fmt: skip
            batches.append(_stacked([_cut(mixed, self.patch, generator) for _ in range(HELD_OUT_PATCHES)]))
        return batches

    def state(self) -> dict[str, Any]:
        """Return the recipes of the pool and the generator."""
        return self.pool.state()

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Make the pool's tomograms again."""
        self.pool.load_state(state)


def _stacked(patches: list[tuple[Tensor, ...]]) -> SceneBatch:
    return SceneBatch(*(torch.stack(field) for field in zip(*patches, strict=True)))


def _cut(mixed: Mixed, patch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    room = [n - patch for n in mixed.truth.shape[-3:]]
    start = [int(torch.randint(n + 1, (1,), generator=generator)) for n in room]
    z, y, x = (slice(a, a + patch) for a in start)
    return (
        mixed.inputs[:, z, y, x], mixed.truth[:, z, y, x], mixed.kept, mixed.shell_weight, mixed.baseline,
        mixed.condition,
    )  # fmt: skip


def mix(
    scene: Scene,
    *,
    seed: int,
    patch: int,
    hidden_weight: float,
    device: torch.device,
    case: int | None = None,
    half: int | None = None,
) -> Mixed:
    """Make a tomogram of a scene: turned, filtered, with noise, beside its Wiener estimate and its truth.

    `case` is one of those of `nets.presence`, drawn unless it is given: structure, its noise alone, or structure that
    got the phases of noise. What else is drawn is the same for all three. `half`, 0 or 1, is the half that is given,
    drawn unless it is told.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = TURNS[int(torch.randint(len(TURNS), (1,), generator=generator))]
    parts = (scene.signal, scene.truth, scene.even, scene.odd)
    signal, truth, *noises = (torch.from_numpy(part).to(device).flip(axes) for part in parts)
    low, high = scene.tilt_range_deg
    wedge = MissingWedge((low, high) if axes in ((), (-3, -1)) else (-high, -low))
    box = (truth.shape[0], truth.shape[1], truth.shape[2])
    k = radius(box, device=device)
    transfer = draw_transfer(k, scene.voxel_size_angstrom, generator)
    signal, truth = (irfft(rfft(v - v.mean()) * transfer, box) for v in (signal, truth))
    noises = _draw_noises(noises, float(signal.std()), k, generator)
    halves = [signal + noise for noise in noises]
    scale = float(halves[0].std())
    volumes = [Volume((half / scale).cpu().numpy(), scene.voxel_size_angstrom) for half in halves]
    spectra = measure_spectra(volumes, wedge, generator=generator, blocks=SPECTRA_BLOCKS).on_working_grid(1, 1.0)
    kernel = radial_kernel(spectra.fsc, reach=KERNEL_REACH).to(device)
    either = int(torch.randint(2, (1,), generator=generator))
    given = halves[either if half is None else half] / scale
    target = truth / scale
    kept = wedge.support((patch,) * 3, device=device)[None]
    weight = whitening(spectra).to(device)
    baseline = _baseline(convolve(given, kernel) - target, kept, weight, hidden_weight, patch, generator)
    drawn = _draw_case(generator)
    case = drawn if case is None else case
    if case == NOTHING:
        given, target = noises[0] / scale, torch.zeros_like(target)
    elif case == FEATURELESS:
        phases = random_phases(box, generator).to(device)
        noise = given - signal / scale
        given, target = irfft(rfft(signal / scale) * phases, box) + noise, irfft(rfft(target) * phases, box)
    inputs = torch.stack([given, convolve(given, kernel)])
    known = conditions(spectra, wedge, scene.voxel_size_angstrom).to(device)
    return Mixed(inputs, target[None], kept, weight, baseline, known, spectra, wedge)


def _draw_case(generator: torch.Generator) -> int:
    share = float(torch.rand((), generator=generator))
    if share < NOTHING_SHARE:
        return NOTHING
    return FEATURELESS if share < NOTHING_SHARE + TWIN_SHARE else STRUCTURE


def draw_transfer(k: Tensor, voxel_size_angstrom: float, generator: torch.Generator) -> Tensor:
    """Phase-flipped contrast transfer and envelope, per coefficient; k in cycles a voxel."""
    u = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    envelope = torch.exp(-_between(ENVELOPE, u[0]) * (2 * k) ** 2)
    # The simulator softens what it draws; finer pictures brought to this grid would not be.
    envelope = envelope * torch.exp(2 * (math.pi * SOFTNESS_VOXEL * k) ** 2).clamp(max=SHARPENING_MAX)
    if u[1] < WITHOUT_CTF:
        return envelope
    defocus, contrast = 1e4 * _between(DEFOCUS_UM, u[2]), _between(AMPLITUDE_CONTRAST, u[3])
    phase = math.pi * wavelength_angstrom(VOLTAGE_KV) * defocus * (k / voxel_size_angstrom) ** 2
    return envelope * torch.sin(phase + math.asin(contrast)).abs()


def _draw_noises(noises: Sequence[Tensor], signal_std: float, k: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Independent noises of one drawn colour and loudness."""
    slope, level = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    colour = ((k + 0.05) / 0.3) ** _between(NOISE_SLOPE, slope)
    box = (noises[0].shape[0], noises[0].shape[1], noises[0].shape[2])
    coloured = [irfft(rfft(noise) * colour, box) for noise in noises]
    factor = signal_std * 10.0 ** _between(LOG_NOISE, level) / float(coloured[0].std())
    return [noise * factor for noise in coloured]


def _baseline(
    error: Tensor, kept: Tensor, weight: Tensor, hidden_weight: float, patch: int, generator: torch.Generator
) -> Tensor:
    """Mean squared error over a few patches, a scalar."""
    cuts = []
    for _ in range(BASELINE_PATCHES):
        start = [int(torch.randint(n - patch + 1, (1,), generator=generator)) for n in error.shape]
        z, y, x = (slice(a, a + patch) for a in start)
        cuts.append(error[None, z, y, x])
    batch, count = torch.stack(cuts), len(cuts)
    return squared_error(batch, kept.expand(count, -1, -1, -1, -1), weight.expand(count, -1), hidden_weight).mean()


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
