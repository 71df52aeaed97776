"""The noise-matched energy score: what a sampler can be fitted by when no clean structure exists.

    ES = mean_k |phi(x_k + n_k) - phi(y)| - mean_{k != l} |phi(x_k + n_k) - phi(x_l + n_l)| / 2

x_k are draws given one half, y is the other half, n_k fresh noise of y's own law (half differences of other
places, turned with the target), and phi looks only where y was measured. In expectation it is smallest
where draws plus noise follow the law of y given the first half, and nowhere else (Gneiting and Raftery
2007, section 4.2): the score is strictly proper for the law of phi(x) on what is measured, and says nothing of
the rest. Without the noise it would ask draws to be as noisy as the data (SCIENCE E14).

A norm over many numbers hardly feels the shape of a law, only its total variance, so phi is a set of small
pieces, band by band and patch by patch, and their scores are added: their marginal laws are what is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft, soft_lowpass

# Width of a band's soft edges, as a share of the distance to the next one.
EDGE_SHARE = 0.5


def energy_score(draws: Tensor, target: Tensor) -> Tensor:
    """Energy score of k draws (k, ..., p) for an outcome (..., p): (...,), lower is better.

    Unbiased for every k from two: pairs of a draw with itself are left out.
    """
    count = len(draws)
    if count < 2:
        raise ValueError("an energy score needs two draws: with one it rewards no spread at all")
    reach = torch.linalg.vector_norm(draws - target, dim=-1).mean(dim=0)
    spread = torch.zeros_like(reach)
    for k in range(count - 1):
        spread = spread + torch.linalg.vector_norm(draws[k + 1 :] - draws[k], dim=-1).sum(dim=0)
    return reach - spread / (count * (count - 1))


class BandPatches:
    """The functionals phi: band-passes that add up to the identity in the band, each cut into patches.

    Parameters
    ----------
    shape_zyx : sequence of int
        Box in voxels.
    freq_edges : sequence of float
        Rising frequencies, cycles per voxel, at which one band gives way to the next; bands 0 to the first,
        and so on up to the last, beyond which nothing is looked at.
    patch : int
        Edge of a patch in voxels; axes shorter than it are one patch wide.
    power : (z, y, x // 2 + 1), optional
        Coefficients are divided by its square root: noise power of what is compared, or any other weight.
    """

    def __init__(
        self, shape_zyx: Sequence[int], *, freq_edges: Sequence[float], patch: int = 4, power: Tensor | None = None
    ) -> None:
        self.shape = tuple(int(n) for n in shape_zyx)
        self.patch = tuple(min(patch, n) for n in self.shape)
        if any(n % p for n, p in zip(self.shape, self.patch, strict=True)):
            raise ValueError(f"a box of {self.shape} voxels is not a whole number of patches of {self.patch}")
        if not freq_edges or list(freq_edges) != sorted(set(freq_edges)) or freq_edges[0] <= 0:
            raise ValueError(f"band edges {list(freq_edges)} do not rise from above 0")
        self.windows = _bands(self.shape, freq_edges)
        if power is not None:
            self.windows = torch.where(self.windows > 0, self.windows / power.sqrt(), 0.0)

    def __call__(self, volumes: Tensor, support: Tensor | None = None) -> Tensor:
        """Numbers (..., bands * patches, voxels of a patch) of volumes (..., z, y, x).

        `support` (..., z, y, x // 2 + 1) is where a coefficient counts: what the target measured.
        """
        spectrum = rfft(volumes) if support is None else rfft(volumes) * support
        bands = irfft(spectrum[..., None, :, :, :] * self.windows.to(volumes), self.shape)
        pz, py, px = self.patch
        cut = bands.unflatten(-1, (-1, px)).unflatten(-3, (-1, py)).unflatten(-5, (-1, pz))
        # (..., bands, Z, pz, Y, py, X, px) -> patches, then what is in them.
        return cut.movedim((-5, -3, -1), (-3, -2, -1)).flatten(-3).flatten(-5, -2)


def _bands(shape_zyx: Sequence[int], freq_edges: Sequence[float]) -> Tensor:
    """Windows (bands, z, y, x // 2 + 1) that add up to a low-pass at the last edge."""
    k = radius(shape_zyx, dtype=torch.float64)
    gaps = [b - a for a, b in pairwise([0.0, *freq_edges])]
    below = [
        soft_lowpass(k, edge - EDGE_SHARE * gap / 2, edge + EDGE_SHARE * gap / 2)
        for edge, gap in zip(freq_edges, gaps, strict=True)
    ]
    return torch.stack([below[0], *(b - a for a, b in pairwise(below))])


def noise_matched_score(
    draws: Tensor, noise: Tensor, target: Tensor, functionals: BandPatches, support: Tensor | None = None
) -> Tensor:
    """Noise-matched energy score of draws against a noisy, partly measured target, (b,).

    Parameters
    ----------
    draws : (k, b, z, y, x)
        Clean, in the frame of the target.
    noise : (k, b, z, y, x)
        Fresh, of the law of the target's noise, independent from draw to draw; turned if the target was.
    target : (b, z, y, x)
        The other half.
    support : (z, y, x // 2 + 1) or (b, z, y, x // 2 + 1), optional
        What the target measured.
    """
    scores = energy_score(functionals(draws + noise, support), functionals(target, support))
    return scores.sum(dim=-1)
