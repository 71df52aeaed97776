"""Deviations of draws from a restoration: noise shaped by what a restorer sees of a tomogram.

    d = s e^(t r - t^2) [ sum_c z^(b_c) e^(a_c) n_c / s  +  z^b K0 ( m . up K1 ( g . e + up K2 ( h . f ) ) ) ]

n_c: Gaussian noise of one band of frequencies, where data were measured or in the wedge, of the power that a Wiener
filter leaves there; e, f: white noise at half and a quarter of the resolution; r: smooth noise of variance one. What
multiplies noise is told once for a tomogram, from the features of the frozen general restorer: the local amplitudes
a_c, the masks m, g and h, and t, how unevenly sized deviations are; and z, the relative size of errors that the
restoration's looks foretell (`nets.error_size`). K are convolutions. So a draw costs a few of them.

The law is a mixture of Gaussians with a covariance that follows the structure. It is symmetric, whatever the weights:
its mean is zero, and the restoration stays the mean. All densities are in units of s, the standard deviation of the
signal, so that neither units nor loudness matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.nets.cells import pointwise
from cryoaae.nets.unet import SLOPE
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.patches.spectra import Spectra, interpolate
from cryoaae.physics.fourier import irfft, radius, rfft, soft_lowpass

FORMAT, BUNDLED = "cryoaae-deviation", "deviation.safetensors"
# Where one band of the coloured noise gives way to the next, cycles a voxel, over this width; the last ends at Nyquist.
BAND_ENDS, EDGE = (0.1, 0.2, 0.33), 0.04
END = (0.47, 0.5)
REGIONS = 2
COLOURED = REGIONS * (len(BAND_ENDS) + 1)
# Shells in which the power of coloured noise is set by the conditions.
SHELLS, HIDDEN = 8, 32
# Share of the signal's power that is never known.
LEAST = 0.03
# At the start draws are wider than the linear posterior: a score corrects that sooner than the opposite.
WIDER = 1.3
# And with half of the unevenness that is foretold.
SIZE_START = 0.5
# Most that deviations may vary in size, a standard deviation of the logarithm; and at the start.
MOST_UNEVEN, UNEVEN_START = 1.0, 0.05
# Coarsest level: sizes are multiples of its cells.
MULTIPLE = 4


@dataclass(frozen=True)
class DeviationSpec:
    """Channels; plain data, kept with the weights.

    Parameters
    ----------
    features : tuple of int
        Of the restorer, at the full, half and quarter resolution.
    full, coarse : int
        Channels at the full resolution, and at half and a quarter of it.
    """

    features: tuple[int, int, int] = (8, 32, 128)
    full: int = 8
    coarse: int = 32


class Seen(NamedTuple):
    """What a restorer sees of tomograms: its features and what it makes of them."""

    features: Sequence[Tensor]  # (b, features[l], z / 2^l, y / 2^l, x / 2^l)
    linear: Tensor  # (b, 1, z, y, x)
    restored: Tensor  # (b, 1, z, y, x)
    condition: Tensor  # (b, CONDITIONS)
    scale: Tensor  # (b,): s
    size: Tensor  # (b, 1, z, y, x): z, logarithms


class Looks(NamedTuple):
    """What noise is multiplied by, once for all draws."""

    amplitude: Tensor  # (b, COLOURED, z, y, x): e^a
    mask: Tensor  # (b, full, z, y, x): m
    uneven: Tensor  # (b, 1, z, y, x): t
    half: Tensor  # (b, coarse, z / 2, ...): g
    quarter: Tensor  # (b, coarse, z / 4, ...): h


class Noise(NamedTuple):
    """The noise of one draw."""

    coloured: Tensor  # (b, COLOURED, z, y, x): n
    half: Tensor  # (b, coarse, z / 2, ...): e
    quarter: Tensor  # (b, coarse, z / 4, ...): f
    smooth: Tensor  # (b, 1, z, y, x): r


class Deviation(nn.Module):
    """A sampler of deviations; see the module.

    Parameters
    ----------
    spec : DeviationSpec, optional

    Notes
    -----
    `loudness` holds the usual size of each feature: `know_loudness` before anything is learned.
    """

    loudness: Tensor

    def __init__(self, spec: DeviationSpec | None = None) -> None:
        super().__init__()
        self.spec = spec = spec or DeviationSpec()
        first, second, third = spec.features
        full, coarse = spec.full, spec.coarse
        self.register_buffer("loudness", torch.ones(sum(spec.features)))
        self.by_size = nn.Parameter(torch.full((COLOURED + 1,), SIZE_START))
        self.told = nn.Sequential(
            nn.Linear(CONDITIONS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, REGIONS * SHELLS + coarse + full)
        )
        self.deep = nn.Conv3d(third, coarse, 1)
        self.to_half = nn.Conv3d(coarse, full, 1)
        self.at_half = nn.ModuleList([_convolution(second + full, coarse), _convolution(coarse, coarse)])
        self.to_full = nn.Conv3d(coarse, full, 1)
        # What is known in full: features, linear estimate, restoration, and the sizes of it and of what was filled in.
        self.shallow = nn.Conv3d(first + 4, full, 1)
        self.at_full = nn.ModuleList([_convolution(2 * full, full), _convolution(full, full)])
        self.heads = nn.ModuleDict({
            "amplitude": nn.Conv3d(full, COLOURED, 1), "uneven": nn.Conv3d(full, 1, 1),
            "mask": nn.Conv3d(full, full, 1), "at_half": nn.Conv3d(coarse, coarse, 1),
            "at_quarter": nn.Conv3d(coarse, coarse, 1),
        })  # fmt: skip
        self.shape_quarter = _convolution(coarse, coarse, bias=False)
        self.shape_half = _convolution(coarse, coarse, bias=False)
        self.narrow = nn.Conv3d(coarse, full, 1, bias=False)
        self.shape_full = _convolution(full, full, bias=False)
        self.last = nn.Conv3d(full, 1, 1, bias=False)
        self._initialise()
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _initialise(self) -> None:
        """Start at the linear posterior, `WIDER`, alike everywhere."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        told = self.told[2]
        assert isinstance(told, nn.Linear)
        silent = (told, self.heads["amplitude"], self.heads["uneven"], self.last)
        for layer in silent:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.heads["amplitude"].bias, math.log(WIDER))  # type: ignore[arg-type]
        share = UNEVEN_START / MOST_UNEVEN
        nn.init.constant_(self.heads["uneven"].bias, math.log(share / (1 - share)))  # type: ignore[arg-type]

    @torch.no_grad()
    def know_loudness(self, seen: Seen) -> None:
        """Take the usual size of each feature from these."""
        scale = seen.scale[:, None, None, None, None]
        sizes = [(level / scale).square().mean(dim=(0, 2, 3, 4)).sqrt() for level in seen.features]
        self.loudness.copy_(torch.cat(sizes).clamp(min=1e-6))

    @property
    def reach(self) -> int:
        """How far it looks beyond a box, in voxels, if the box starts and ends at multiples of `MULTIPLE`."""
        return max(self.looks_reach, self.draw_reach)

    @property
    def looks_reach(self) -> int:
        """The same of `looks`, of features that are right there: two convolutions at half, two at full resolution."""
        return MULTIPLE * math.ceil((2 + 2 * 2) / MULTIPLE)

    @property
    def draw_reach(self) -> int:
        """The same of `structured`: one convolution at each resolution."""
        return MULTIPLE * math.ceil((1 + 2 + 4) / MULTIPLE)

    # -- once for a tomogram -----------------------------------------------------------------------

    def looks(self, seen: Seen) -> Looks:
        """What noise is multiplied by."""
        scale = seen.scale[:, None, None, None, None]
        loudness = self.loudness.split(list(self.spec.features))
        first, second, third = (
            level / (scale * size[:, None, None, None])
            for level, size in zip(seen.features, loudness, strict=True)
        )
        _, gains = self.told(seen.condition).split([REGIONS * SHELLS, self.spec.coarse + self.spec.full], dim=1)
        coarse_gain, full_gain = gains.exp()[..., None, None, None].split([self.spec.coarse, self.spec.full], dim=1)
        linear, restored = seen.linear / scale, seen.restored / scale
        deep = _bent(pointwise(self.deep, third))
        x = torch.cat([second, _doubled(pointwise(self.to_half, deep))], dim=1)
        for index, layer in enumerate(self.at_half):
            x = _bent(layer(_ordered(x))) * (1.0 if index else coarse_gain)
        known = torch.cat([first, linear, restored, restored.abs(), (restored - linear).abs()], dim=1)
        y = torch.cat([_bent(pointwise(self.shallow, known)), _doubled(pointwise(self.to_full, x))], dim=1)
        for index, layer in enumerate(self.at_full):
            y = _bent(layer(_ordered(y))) * (1.0 if index else full_gain)
        heads, sized = self.heads, self.sized(seen.size)
        return Looks(
            amplitude=pointwise(heads["amplitude"], y).exp() * sized[:, :-1],
            mask=pointwise(heads["mask"], y) * sized[:, -1:],
            uneven=MOST_UNEVEN * torch.sigmoid(pointwise(heads["uneven"], y)),
            half=pointwise(heads["at_half"], x), quarter=pointwise(heads["at_quarter"], deep),
        )  # fmt: skip

    def sized(self, size: Tensor) -> Tensor:
        """Powers z^b of foretold sizes (b, 1, z, y, x), logarithms: of every coloured channel, then of the mask."""
        return (self.by_size[:, None, None, None] * size).exp()

    def colour(self, condition: Tensor) -> Tensor:
        """Factors of the coloured noise by region and shell up to Nyquist, (b, REGIONS, SHELLS)."""
        told: Tensor = self.told(condition)[:, : REGIONS * SHELLS]
        return told.exp().unflatten(1, (REGIONS, SHELLS))

    # -- every draw --------------------------------------------------------------------------------

    def forward(self, looks: Looks, noise: Noise, scale: Tensor) -> Tensor:
        """Deviations (b, 1, z, y, x) of noise, for densities whose signal has the standard deviations `scale` (b,)."""
        coloured = (looks.amplitude * noise.coloured).sum(dim=1, keepdim=True)
        structured = scale[:, None, None, None, None] * self.structured(looks, noise)
        return unevenly(looks.uneven, noise.smooth) * (coloured + structured)

    def structured(self, looks: Looks, noise: Noise) -> Tensor:
        """The second term of the brackets, (b, 1, z, y, x)."""
        x = self.shape_quarter(_ordered(looks.quarter * noise.quarter))
        x = self.shape_half(_ordered(looks.half * noise.half + _doubled(x)))
        x = self.shape_full(_ordered(looks.mask * _doubled(pointwise(self.narrow, x))))
        return pointwise(self.last, x)

    # -- weights -----------------------------------------------------------------------------------

    def save(self, path: Path, training: dict[str, Any]) -> None:
        """Write weights, and how they came about, as safetensors, atomically."""
        metadata = {"format": FORMAT, "spec": asdict(self.spec), "training": training}
        save_weights(path, dict(self.state_dict()), metadata)

    @classmethod
    def load(cls, path: Path | str) -> Deviation:
        """Read one that `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged, or something else.
        """
        tensors, metadata = load_weights(path)
        try:
            if metadata.get("format") != FORMAT:
                raise KeyError(metadata.get("format"))
            spec = metadata["spec"]
            made = cls(DeviationSpec(**{**spec, "features": tuple(spec["features"])}))
            made.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(path, "not the weights of a sampler of deviations", "install cryoaae again") from error
        return made.eval().requires_grad_(False)

    @classmethod
    def bundled(cls) -> Deviation:
        """The one that comes with the package."""
        with as_file(files("cryoaae") / "weights" / BUNDLED) as path:
            return cls.load(path)


def unevenly(uneven: Tensor, smooth: Tensor) -> Tensor:
    """Factor e^(t r - t^2) of deviations: of mean square one over the noise r."""
    return (uneven * smooth - uneven.square()).exp()


def signal_scale(spectra: Spectra) -> float:
    """Standard deviation s of the signal of a tomogram, of its power by shell."""
    edges = torch.linspace(0, spectra.freq_max, len(spectra.signal) + 1, dtype=torch.float64)
    shares = (edges[1:] ** 3 - edges[:-1] ** 3) / edges[-1] ** 3
    return max(float((shares * spectra.signal).sum()) ** 0.5, 1e-12)


def linear_posterior(spectra: Spectra, support: Tensor, shape_zyx: Sequence[int]) -> Tensor:
    """Standard deviations that a Wiener filter leaves, by coefficient, one set a channel of coloured noise.

    Parameters
    ----------
    spectra : Spectra
        Of what was restored.
    support : (z, y, x // 2 + 1) bool
        What was measured.
    shape_zyx : sequence of int

    Returns
    -------
    Tensor
        (COLOURED, z, y, x // 2 + 1): sqrt(S N / (S + N)) where it was measured, bands one after the other, and sqrt(S)
        in the wedge. A network errs a little where the filter would not: `LEAST` of S is left everywhere.
    """
    k = radius(shape_zyx)
    position = (k / spectra.freq_max).clamp(max=1.0).double()
    missing = interpolate(spectra.signal, position).clamp(min=0.0)
    seen = missing * (1 - interpolate(spectra.fsc, position) + LEAST)
    windows = bands(k)
    regions = (torch.where(support, seen, 0.0), torch.where(support, 0.0, missing))
    return torch.cat([windows * power.sqrt().float() for power in regions])


def bands(k: Tensor, last: Tensor | None = None) -> Tensor:
    """Windows (bands, ...) over frequencies k (...) that add up to `last` (...): by default one up to Nyquist."""
    below = [soft_lowpass(k, end - EDGE / 2, end + EDGE / 2) for end in BAND_ENDS]
    below.append(soft_lowpass(k, *END) if last is None else last)
    return torch.stack([below[0], *(b - a for a, b in pairwise(below))])


def shell_factor(colour: Tensor, k: Tensor) -> Tensor:
    """Factors by shell (SHELLS,) at frequencies k (...)."""
    return interpolate(colour, (2 * k).clamp(max=1.0))


def smooth_noise(shape_zyx: Sequence[int], white: Tensor) -> Tensor:
    """White noise (..., z, y, x) made smooth over some `MULTIPLE` voxels, periodic, of variance one."""
    window = torch.exp(-2 * (math.pi * MULTIPLE / 2 * radius(shape_zyx, device=white.device)) ** 2)
    power = irfft(window.square().to(torch.complex64), shape_zyx)[0, 0, 0] / math.sqrt(math.prod(shape_zyx))
    return irfft(rfft(white) * window, shape_zyx) / power.sqrt()


def _convolution(inputs: int, outputs: int, bias: bool = True) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1, bias=bias)


def _bent(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, SLOPE)


def _doubled(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _ordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)
