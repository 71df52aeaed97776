"""Batches for a restorer of particles: single particles in boxes of their own, as those of a store are.

    y = M h x + n,      target h x

x is a particle of some kind in the middle of its box, turned at random and moved by part of a voxel; M what one of the
store's wedges passes; n Gaussian noise with the store's spectrum. h is radial and brings the mean power of all kinds to
the signal spectrum of the store, whatever contrast transfer, envelope and reconstruction made of it. What lies around a
particle in a cell is noise here, of the right power and without shape. Boxes go on beyond their faces as restoring
shows them, by reflection; only the box itself is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoaae.models.general_fitting import SceneBatch, squared_error
from cryoaae.models.pair_fitting import whitening
from cryoaae.models.restorer import KERNEL_REACH, convolve
from cryoaae.patches.imaging import conditions
from cryoaae.patches.spectra import Spectra, coloured_noise, interpolate, radial_kernel
from cryoaae.patches.tiling import PaddedAxis
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_index, shell_sum
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.shift import fourier_shift
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.specimen import Species, rotated_density

# Of the shift along each axis, working voxels; of the logarithm of the loudness; of minus the logarithm of an
# envelope's amplitude at Nyquist.
SHIFT_STD, LOUDNESS_STD, ENVELOPE_STD = 0.3, 0.2, 0.3
# Share of the boxes that hold noise alone, of which nothing must come.
NOTHING_SHARE = 0.05
# Particles over which the power of the kinds and the error of the Wiener estimate are measured.
MEASURED = 64
HELD_OUT_BATCHES = 4


class ParticleFeed:
    """Simulated particles, drawn anew for every step; same seed, same batches.

    Parameters
    ----------
    species : sequence of Species
        Kinds of particles on the working grid, the first `held_out` of which are kept out of fitting.
    spectra : Spectra
        Of the store, normalised, on the working grid, per coefficient of its boxes.
    wedges : sequence of MissingWedge
        Of the store.
    box, pad, multiple : int
        Edge of a box in working voxels, what is shown beyond each face, and what sizes are multiples of.
    voxel_size_angstrom : float
        Of the working grid.
    """

    def __init__(
        self,
        species: Sequence[Species],
        spectra: Spectra,
        wedges: Sequence[MissingWedge],
        *,
        box: int,
        pad: int,
        multiple: int,
        voxel_size_angstrom: float,
        held_out: int,
        batch_size: int,
        hidden_weight: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.spectra, self.box, self.batch_size = spectra, box, batch_size
        self.hidden_weight, self.device = hidden_weight, device
        self.axis = PaddedAxis.plan(box, working_bin=1, multiple=multiple, pad=pad)
        self.kept_out = [one.softened() for one in species[:held_out]]
        self.kinds = [one.softened() for one in species[held_out:]]
        # A box twice as wide, so that what leaves it does not come back at the other face.
        self.wide = (2 * box,) * 3
        own = (box,) * 3
        self.passed = [wedge.support(self.wide, object_zyx=own) for wedge in wedges]
        self.kept = [wedge.support(own)[None] for wedge in wedges]
        self.told = [conditions(spectra, wedge, voxel_size_angstrom) for wedge in wedges]
        self.kernel, self.shell_weight = radial_kernel(spectra.fsc, reach=KERNEL_REACH), whitening(spectra)
        self.generator = torch.Generator().manual_seed(seed)
        # What is measured once is drawn apart, so that fitting goes on alike after a stop.
        apart = torch.Generator().manual_seed(seed + 1)
        self.nyquist_share = (radius(self.wide) * 2).double().clamp(max=1.0)
        self.gain = self._gain(apart)
        self.baseline = torch.ones(())
        measured = self._drawn(self.kinds, MEASURED, apart)
        error = self._core(measured.inputs[:, 1:]) - measured.targets
        self.baseline = squared_error(error, measured.kept, measured.shell_weight, hidden_weight).mean()
        self._fixed = [self._drawn(self.kept_out or self.kinds, batch_size, apart) for _ in range(HELD_OUT_BATCHES)]

    @property
    def margin(self) -> int:
        """Working voxels ahead of the box in what is shown."""
        return self.axis.before

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Nothing to get ready: every batch is drawn anew."""
        return False

    def batch(self) -> SceneBatch:
        """Draw particles."""
        return self._drawn(self.kinds, self.batch_size, self.generator)

    def held_out(self) -> list[SceneBatch]:
        """Fixed particles of kinds kept out of fitting."""
        return self._fixed

    def state(self) -> dict[str, Any]:
        """The generator."""
        return {"generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Go on drawing."""
        self.generator.set_state(state["generator"])

    def _drawn(self, kinds: Sequence[Any], count: int, generator: torch.Generator) -> SceneBatch:
        chosen = torch.randint(len(self.passed), (count,), generator=generator).tolist()
        given, targets = [], []
        for wedge in chosen:
            y, x = self._particle(kinds, self.passed[wedge], generator)
            given.append(self._extended(y))
            targets.append(x)
        y = torch.stack(given)[:, None]
        return SceneBatch(
            torch.cat([y, convolve(y, self.kernel)], dim=1).to(self.device),
            torch.stack(targets)[:, None].to(self.device),
            torch.stack([self.kept[wedge] for wedge in chosen]).to(self.device),
            self.shell_weight.expand(count, -1).to(self.device),
            self.baseline.expand(count).to(self.device),
            torch.stack([self.told[wedge] for wedge in chosen]).to(self.device),
        )

    def _particle(self, kinds: Sequence[Any], passed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A box, and the density in it; (z, y, x) each."""
        spectrum = rfft(self._density(kinds, generator))
        share = self.nyquist_share
        spectrum = spectrum * self.gain * torch.exp(-ENVELOPE_STD * _normal(generator) * share**2)
        loudness = math.exp(LOUDNESS_STD * _normal(generator))
        nothing = float(torch.rand((), generator=generator)) < NOTHING_SHARE
        spectrum = spectrum * (0.0 if nothing else loudness)
        noise = rfft(coloured_noise(self.spectra.noise, self.wide, generator))
        y, x = (irfft(part, self.wide).float() for part in ((spectrum + noise) * passed, spectrum))
        return self._middle(y), self._middle(x)

    def _density(self, kinds: Sequence[Any], generator: torch.Generator) -> Tensor:
        """A particle in the wide box, (z, y, x), without its mean, of power 1."""
        cube = kinds[int(torch.randint(len(kinds), (1,), generator=generator))]
        turn = random_rotations(1, generator=generator)[0].double().numpy()
        density = torch.from_numpy(rotated_density(cube, Rotation.from_matrix(turn[::-1, ::-1])))
        out = torch.zeros(self.wide)
        outer, inner = [], []
        for size, own in zip(self.wide, density.shape, strict=True):
            start = size // 2 - own // 2
            outer.append(slice(max(0, start), start + own))
            inner.append(slice(max(0, -start), max(0, -start) + min(own, size)))
        out[tuple(outer)] = density[tuple(inner)]
        out = fourier_shift(out, SHIFT_STD * torch.randn(3, generator=generator, dtype=torch.float64))
        out = out - out.mean()
        return out / out.square().sum().sqrt()

    def _gain(self, generator: torch.Generator) -> Tensor:
        """The filter h on the half spectrum of the wide box."""
        shells = self.box // 2
        index, weight = shell_index(self.wide, shells), multiplicity(self.wide)
        power = torch.zeros(shells, dtype=torch.float64)
        for _ in range(MEASURED):
            power += shell_sum(rfft(self._density(self.kinds, generator)).abs() ** 2 * weight, index, shells) / MEASURED
        power = power / shell_sum(weight * torch.ones(index.shape), index, shells)
        # A particle's power does not grow with the box around it, its coefficients do.
        position = (torch.arange(shells, dtype=torch.float64) + 0.5) / shells
        wanted = interpolate(self.spectra.signal, position) * (self.box**3 / math.prod(self.wide))
        floor = float(power.max()) * 1e-6
        return interpolate((wanted / power.clamp(min=floor)).sqrt(), self.nyquist_share).float()

    def _middle(self, volume: Tensor) -> Tensor:
        """The box in the middle of the wide one: voxel n // 2 stays voxel n // 2."""
        low = self.wide[0] // 2 - self.box // 2
        inside = slice(low, low + self.box)
        return volume[inside, inside, inside]

    def _extended(self, volume: Tensor) -> Tensor:
        """A box and its continuation."""
        out = volume.numpy()
        for axis in range(3):
            out = self.axis.extend(out, axis)
        return torch.from_numpy(out)

    def _core(self, shown: Tensor) -> Tensor:
        """The box in what is shown, (..., z, y, x)."""
        inside = slice(self.margin, self.margin + self.box)
        return shown[..., inside, inside, inside]


def _normal(generator: torch.Generator) -> float:
    return float(torch.randn((), generator=generator))
