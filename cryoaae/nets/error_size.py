"""How large the error of a restoration is, place by place, told from what the restoration looks like there.

Where a restoration is quiet it errs little, and beside a dense body more than within a flat region, but not in
proportion: a spread that simply follows the local rms is worse than a constant one on many tomograms. How they go
together is learned from simulations, whose errors are known (`fitting.error_size`). Only *where* is told: the size
is relative, of mean square one, and knows neither the units of the restoration nor whether structures are dark.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import Tensor, nn

from cryoaae.errors import InputError
from cryoaae.io.weights import load_weights, save_weights
from cryoaae.nets.unet import SLOPE
from cryoaae.physics.fourier import irfft, radius, rfft

FORMAT, BUNDLED = "cryoaae-error-size", "error_size.safetensors"
# Local power and local mean are taken over Gaussian windows of these standard deviations, in working voxels.
POWER_SIGMAS, MEAN_SIGMAS = (0.7, 1.5, 3.0, 6.0), (1.5, 3.0)
LOOKS = len(POWER_SIGMAS) + len(MEAN_SIGMAS)
# Power below this share of the mean is all alike.
FLOOR = 1e-3
HIDDEN = 48
# Places at a time.
PLACES = 1 << 18


def smoothed(volume: Tensor, sigma: float) -> Tensor:
    """Mean over a Gaussian window of a volume (z, y, x), periodic."""
    window = torch.exp(-2 * (torch.pi * sigma * radius(volume.shape, device=volume.device)) ** 2)
    return irfft(rfft(volume) * window, volume.shape)


class ErrorSize(nn.Module):
    """Relative size of the error at each place of a restoration.

    Notes
    -----
    Two hidden layers on local power and local mean; weights come from `fitting.error_size.learn_error_size`.
    """

    center: Tensor
    width: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(LOOKS))
        self.register_buffer("width", torch.ones(LOOKS))
        self.layers = nn.Sequential(
            nn.Linear(LOOKS, HIDDEN), nn.LeakyReLU(SLOPE), nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(SLOPE),
            nn.Linear(HIDDEN, 1),
        )  # fmt: skip

    def told(self, looks: Tensor) -> Tensor:
        """Looks of places (n, `LOOKS`) -> logarithm of the error's size, (n,)."""
        out: Tensor = self.layers((looks - self.center) / self.width)[:, 0]
        return out

    def forward(self, restored: Tensor, where: Tensor | None = None) -> Tensor:
        """Restoration (z, y, x) -> size of its error (z, y, x), of mean square one over `where` (bool)."""
        looks, out = looks_of(restored, where), torch.empty(restored.numel(), device=restored.device)
        for start in range(0, len(out), PLACES):
            out[start : start + PLACES] = self.told(looks[:, start : start + PLACES].T)
        size = out.exp().reshape(restored.shape)
        within = size if where is None else size[where]
        return size / within.square().mean().sqrt()

    def save(self, path: Path, training: dict[str, object]) -> None:
        """Write weights, and how they came about, as safetensors, atomically."""
        save_weights(path, dict(self.state_dict()), {"format": FORMAT, "training": training})

    @classmethod
    def load(cls, path: Path | str) -> ErrorSize:
        """Read one that `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged, or something else.
        """
        tensors, metadata = load_weights(path)
        made = cls()
        try:
            if metadata.get("format") != FORMAT:
                raise KeyError(metadata.get("format"))
            made.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise InputError(path, "not the weights of an error's size", "install cryoaae again") from error
        return made.eval().requires_grad_(False)

    @classmethod
    def bundled(cls) -> ErrorSize:
        """The one that comes with the package."""
        with as_file(files("cryoaae") / "weights" / BUNDLED) as path:
            return cls.load(path)


def looks_of(restored: Tensor, where: Tensor | None = None) -> Tensor:
    """What a restoration (z, y, x) looks like at each place, (`LOOKS`, places); units are those of `where` (bool)."""
    within = restored if where is None else restored[where]
    scale = within.std().clamp(min=torch.finfo(torch.float32).tiny)
    # Structures are bright or dark: the skewness tells, as of a tomogram (`restoration.general`).
    scaled = restored / (-scale if (within - within.mean()).pow(3).mean() < 0 else scale)
    looks = torch.empty(LOOKS, restored.numel(), device=restored.device)
    for look, local in zip(looks, _local(scaled), strict=True):
        look.copy_(local.flatten())
    return looks


def _local(scaled: Tensor) -> Iterator[Tensor]:
    """Local power, in logarithms, then local means, (z, y, x) each."""
    square = scaled.square()
    for sigma in POWER_SIGMAS:
        yield (smoothed(square, sigma).clamp(min=0.0) + FLOOR).log()
    for sigma in MEAN_SIGMAS:
        yield smoothed(scaled, sigma)
