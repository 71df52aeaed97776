"""A tomogram as the judge of `benchmark_priors` sees it, and the rows to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark_proxy import WORKING_BIN, complete_reconstruction, power_matched
from priors_table import AMPLITUDE, NOISE
from restoration_conditions import Data
from torch import Tensor

from cryoaae.io.mrc import open_volume
from cryoaae.patches.normalise import Normalisation, shared_normalisation
from cryoaae.patches.source import TomogramSource, prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge

SHELLS = 32
# A shell in which a restoration has next to nothing is not raised to the signal's power.
LARGEST_GAIN = 10.0


@dataclass(frozen=True)
class OneTomogram:
    """A tomogram on the working grid, and how volumes come there."""

    source: TomogramSource
    normalisation: Normalisation

    def on_grid(self, volume: Tensor) -> Tensor:
        """A volume in the tomogram's units, normalised as its halves are, (z, y, x)."""
        given = np.asarray(volume.numpy(), np.float32)
        return to_working_grid(torch.from_numpy(self.normalisation.apply(given)), WORKING_BIN)


def opened(data: Data) -> OneTomogram:
    """Bring a tomogram's halves to the working grid."""
    halves = [open_volume(path) for path in data.volumes.values()]
    normalisation = shared_normalisation(halves, WORKING_BIN)
    source = prepare_source(
        "tomogram", halves, data.wedge, normalisation, working_bin=WORKING_BIN, held_out=torch.zeros(0, 2, 3),
        noise=torch.ones(1),
    )  # fmt: skip
    return OneTomogram(source, normalisation)


def truth_and_smear(data: Data) -> dict[str, Tensor]:
    """The noise-free reconstruction from all angles, and the noise-free tomogram with the truth's power."""
    truth, smeared = (tensor(path) for path in (data.truth, data.truth.with_name("noiseless.mrc")))
    complete = complete_reconstruction(truth)
    return {"truth": complete, "smeared": power_matched(smeared, complete)}


def tensor(path: Path) -> Tensor:
    """A volume (z, y, x) of a file."""
    return torch.from_numpy(np.array(open_volume(path).numpy(), np.float32))


# -- rows to beat ------------------------------------------------------------------------------------


def changed(data: Data, made: Tensor, seed: int) -> dict[str, Tensor]:
    """The default changed without a prior, in two ways."""
    even, odd = (tensor(path) for path in data.volumes.values())
    signal, generator = signal_power(even, odd, data.wedge), torch.Generator().manual_seed(seed)
    return {
        AMPLITUDE: amplitude_matched(made, signal), NOISE: with_matched_noise(made, signal, data.wedge, generator),
    }  # fmt: skip


def signal_power(even: Tensor, odd: Tensor, wedge: MissingWedge) -> Tensor:
    """Power of the signal a coefficient by shell, (shells,), from the cross spectrum of halves where measured."""
    seen = wedge.support(even.shape, margin=1.0) * multiplicity(even.shape)
    index = shell_index(even.shape, SHELLS)
    one, other = (rfft(half - half.mean()) for half in (even, odd))
    cross = shell_sum((one * other.conj()).real * seen, index, SHELLS)
    return (cross / shell_sum(seen, index, SHELLS).clamp(min=1.0)).clamp(min=0.0)


def amplitude_matched(restored: Tensor, signal: Tensor) -> Tensor:
    """A restoration with the signal's power in every shell, its phases kept."""
    spectrum, index = rfft(restored - restored.mean()), shell_index(restored.shape, SHELLS)
    own = _mean_power(spectrum, torch.ones_like(spectrum.real), index)
    gain = (signal / own.clamp(min=1e-12)).sqrt().clamp(max=LARGEST_GAIN)
    return irfft(spectrum * _spread(gain, index), restored.shape) + restored.mean()


def with_matched_noise(restored: Tensor, signal: Tensor, wedge: MissingWedge, generator: torch.Generator) -> Tensor:
    """A restoration with Gaussian noise of the power that it lacks, by shell, in the wedge and out of it."""
    spectrum, index = rfft(restored - restored.mean()), shell_index(restored.shape, SHELLS)
    noise = rfft(torch.randn(restored.shape, generator=generator))
    measured = wedge.support(restored.shape).to(spectrum.real)
    added = torch.zeros_like(noise)
    for region in (measured, 1 - measured):
        lacking = (signal - _mean_power(spectrum, region, index)).clamp(min=0.0)
        added = added + noise * region * _spread(lacking.sqrt(), index)
    return restored + irfft(added, restored.shape)


def _mean_power(spectrum: Tensor, region: Tensor, index: Tensor) -> Tensor:
    """Mean power of coefficients of a region by shell, (shells,)."""
    weight = region * multiplicity([*spectrum.shape[:2], 2 * (spectrum.shape[2] - 1)])
    return shell_sum(spectrum.abs().square() * weight, index, SHELLS) / shell_sum(weight, index, SHELLS).clamp(min=1.0)


def _spread(by_shell: Tensor, index: Tensor) -> Tensor:
    """Values by shell on the coefficients; 0 beyond the last shell."""
    return torch.cat([by_shell, by_shell.new_zeros(1)]).float()[index]
