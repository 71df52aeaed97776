"""How like structure a restoration looks: the proxy's classifier on one small tomogram, and the rows to beat.

The classifier of `benchmark_proxy` in a smaller edition, for a fit a phantom is not affordable: patches of 16 working
voxels instead of 24, 500 steps, and one tomogram cut in two along the tilt axis, across which nothing is smeared. It
learns to tell real patches from `T R x_hat + n` on one side and is scored on the other, then with the sides exchanged;
no patch of one side shares a voxel with one of the other. Truth and smear are measured in the same way and stand
beside. It is a weak judge: on one phantom of 96^3 voxels the power-matched smear had 0.55 and the truth 0.48, where
`benchmark_proxy`, which learns on six phantoms, told such a smear with 0.79.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmark_proxy import area, complete_reconstruction, draw_bank, learn, power_matched, scores, seen_again
from restoration_conditions import Data
from torch import Tensor

from cryoaae.io.mrc import open_volume
from cryoaae.matching.structure import Microscope, settled
from cryoaae.patches.normalise import Normalisation, shared_normalisation
from cryoaae.patches.source import TomogramSource, prepare_source
from cryoaae.physics.fourier import irfft, multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge

PATCH, BLOCK = 16, 28
BLOCKS, REAL, STEPS = 400, 800, 500
SHELLS = 32
# A shell in which a restoration has next to nothing is not raised to the signal's power.
LARGEST_GAIN = 10.0


@dataclass(frozen=True)
class OneTomogram:
    """A tomogram on the working grid, and its two sides.

    Parameters
    ----------
    sides : list of TomogramSource
        The same density, each with the other side kept out.
    """

    sides: list[TomogramSource]
    normalisation: Normalisation
    working_bin: int

    def on_grid(self, volume: Tensor) -> Tensor:
        """A volume in the tomogram's units, normalised as its halves are, (z, y, x)."""
        given = np.asarray(volume.numpy(), np.float32)
        return to_working_grid(torch.from_numpy(self.normalisation.apply(given)), self.working_bin)


def opened(data: Data, working_bin: int) -> OneTomogram:
    """Bring a tomogram to the working grid and cut it in two along y."""
    halves = [open_volume(path) for path in data.volumes.values()]
    normalisation = shared_normalisation(halves, working_bin)
    source = prepare_source(
        "tomogram", halves, data.wedge, normalisation, working_bin=working_bin, held_out=torch.zeros(0, 2, 3),
        noise=torch.ones(1),
    )  # fmt: skip
    z, y, x = source.working_shape_zyx
    below, above = y // 2 - PATCH // 2, y // 2 + PATCH // 2
    others = [[[0, below + 1, 0], [z, y, x]], [[0, 0, 0], [z, above, x]]]
    sides = [replace(source, held_out=torch.tensor([box], dtype=torch.float32)) for box in others]
    return OneTomogram(sides, normalisation, working_bin)


def proxy_area(tomogram: OneTomogram, volume: Tensor, seed: int, *, steps: int = STEPS, blocks: int = BLOCKS) -> float:
    """Area under the ROC curve of real patches against a volume's, seen again; mean of both sides.

    Parameters
    ----------
    tomogram : OneTomogram
    volume : (z, y, x)
        In the tomogram's units.
    seed : int
    steps, blocks : int
    """
    on_grid, areas = tomogram.on_grid(volume), []
    wedge = tomogram.sides[0].wedge
    microscope = Microscope([wedge], patch=PATCH, block=BLOCK)
    sizes = {"patch": PATCH, "block": BLOCK}
    real = blocks * REAL // BLOCKS
    banks = [draw_bank([side], blocks, real, 2 * seed + i, **sizes) for i, side in enumerate(tomogram.sides)]
    again = [seen_again(bank, [on_grid], microscope) for bank in banks]
    for own, other in ((0, 1), (1, 0)):
        network = learn(banks[own], again[own], wedge.half_turns(), steps, seed)
        shown = again[other] + settled(banks[other].draw.noise)
        areas.append(area(scores(network, banks[other].real), scores(network, shown)))
    return float(np.mean(areas))


def truth_and_smear(data: Data) -> dict[str, Tensor]:
    """The noise-free reconstruction from all angles, and the noise-free tomogram with the truth's power."""
    truth, smeared = (tensor(path) for path in (data.truth, data.truth.with_name("noiseless.mrc")))
    complete = complete_reconstruction(truth)
    return {"truth": complete, "smeared": power_matched(smeared, complete)}


def tensor(path: Path) -> Tensor:
    """A volume (z, y, x) of a file."""
    return torch.from_numpy(np.array(open_volume(path).numpy(), np.float32))


# -- rows to beat ------------------------------------------------------------------------------------


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
