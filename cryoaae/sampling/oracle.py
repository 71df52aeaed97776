"""A posterior that is known in closed form, and that a sampler cannot get right without looking at the data.

    x = w u,   u stationary, isotropic and Gaussian,   w a spherical window      y = M x + n

The law of x is rotation invariant like that of molecules in ice. Were it stationary too, it would be diagonal
in Fourier space and the posterior in the wedge just the prior, of mean zero (SCIENCE E15). The window
ties neighbouring coefficients together, so that measured ones say something of missing ones.

With K the covariance of x and N that of the noise, both in coordinates (`FourierBasis`) where the wedge
picks rows A and N is diagonal,

    gain G = K A^T (A K A^T + N)^-1,   mean = G y,   covariance = K - G A K
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, rfft, soft_lowpass
from cryoaae.physics.wedge import MissingWedge
from cryoaae.sampling.basis import FourierBasis
from cryoaae.sampling.langevin import Temper


@dataclass(frozen=True)
class LinearGaussian:
    """Posterior of x ~ N(0, K) from y = x + n on some coordinates; y is zero on the others.

    Parameters
    ----------
    covariance : (d, d) float64
        K, of full rank.
    noise_power : (d,) float64
        Variance of the noise of one observation.
    measured : (d,) bool
        Coordinates that are observed.
    """

    covariance: Tensor
    noise_power: Tensor
    measured: Tensor

    @cached_property
    def data_covariance(self) -> Tensor:
        """Covariance of y, (d, d); zero where nothing is measured."""
        seen = self.measured.to(self.covariance)
        return seen[:, None] * self.covariance * seen + torch.diag(seen * self.noise_power)

    @cached_property
    def gain(self) -> Tensor:
        """G with posterior mean G y, (d, d); columns of missing coordinates are zero."""
        rows = torch.nonzero(self.measured).flatten()
        factor = torch.linalg.cholesky(self.data_covariance[rows][:, rows])
        gain = torch.zeros_like(self.covariance)
        gain[:, rows] = torch.cholesky_solve(self.covariance[rows], factor).mT
        return gain

    @cached_property
    def posterior_covariance(self) -> Tensor:
        """Covariance of x given y, (d, d); the same for every y."""
        product = self.gain @ self.covariance
        full = self.covariance - product
        return (full + full.mT) / 2

    @cached_property
    def precision(self) -> Tensor:
        """Inverse of K, (d, d)."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.covariance))

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        # The posterior's eigenvalues may touch zero where the data say nearly everything.
        prior = torch.linalg.cholesky(self.covariance)
        return prior, torch.linalg.cholesky(self.posterior_covariance)

    def tempered(self, gamma: float, temper: Temper) -> LinearGaussian:
        """The model whose posterior, with the same data, is this one's at temperature gamma.

        "data": prior exp(-c / gamma), i.e. noise of gamma times the power. "posterior": (prior exp(-c))^(1 / gamma),
        i.e. mean as it is and covariance times gamma.
        """
        if gamma <= 0:
            raise ValueError(f"temperature {gamma}")
        covariance = self.covariance if temper == "data" else gamma * self.covariance
        return LinearGaussian(covariance, gamma * self.noise_power, self.measured)

    def block(self, chosen: Tensor) -> LinearGaussian:
        """The same for some coordinates alone and their own data."""
        return LinearGaussian(
            self.covariance[chosen][:, chosen], self.noise_power[chosen], self.measured[chosen]
        )

    def truths(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Draws from the prior, (count, d)."""
        return _normal(self.covariance, count, generator) @ self._factors[0].mT

    def measure(self, truth: Tensor, *, generator: torch.Generator) -> Tensor:
        """Noisy observations of truths (..., d); a second call gives the other half."""
        noise = torch.randn(truth.shape, generator=generator, dtype=truth.dtype, device=truth.device)
        return (truth + noise * self.noise_power.sqrt()) * self.measured

    def halves(self) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
        """What simulates pairs of observations of fresh truths, (count, d) each, in single precision."""
        factor, deviation = torch.linalg.cholesky(self.covariance).float(), self.noise_power.sqrt().float()

        def simulated(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            truth = torch.randn(count, len(factor), generator=generator) @ factor.mT
            even, odd = (
                (truth + deviation * torch.randn(truth.shape, generator=generator)) * self.measured for _ in range(2)
            )
            return even, odd

        return simulated

    def mean(self, y: Tensor) -> Tensor:
        """Posterior mean of observations (..., d)."""
        return y @ self.gain.mT

    def draws(self, y: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
        """Posterior draws of observations (p, d): (p, count, d)."""
        spread = _normal(self.covariance, len(y) * count, generator) @ self._factors[1].mT
        return self.mean(y)[:, None] + spread.unflatten(0, (len(y), count))


def _normal(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, len(like), generator=generator, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Oracle:
    """A windowed isotropic Gaussian on a grid, seen through a missing wedge.

    Parameters
    ----------
    basis : FourierBasis
        Between volumes and the model's coordinates.
    wedge : MissingWedge
    model : LinearGaussian
    """

    basis: FourierBasis
    wedge: MissingWedge
    model: LinearGaussian

    @classmethod
    def build(
        cls,
        shape_zyx: Sequence[int] = (8, 8, 8),
        wedge: MissingWedge | None = None,
        *,
        window_share: tuple[float, float] = (0.25, 0.5),
        window_floor: float = 0.2,
        corner_freq: float = 0.15,
        decay: float = 1.5,
        noise_power: float = 0.2,
        noise_rise: float = 1.0,
    ) -> Oracle:
        """Make an oracle of unit mean variance a coordinate.

        Parameters
        ----------
        shape_zyx : sequence of int
            Box in voxels, (n, n, n) or (n, 1, n).
        wedge : MissingWedge, optional
            Default: tilts from -60 to 60 degrees.
        window_share : (float, float)
            Radii, as shares of the box, between which the window falls from 1 to `window_floor`. The floor
            keeps K invertible.
        corner_freq, decay : float
            Spectrum of the field, ``(1 + (k / corner_freq)^2)^-decay``, k in cycles per voxel.
        noise_power : float
            Of one observation at k = 0.
        noise_rise : float
            Noise power at Nyquist over that at k = 0: 1 is white.
        """
        wedge = MissingWedge() if wedge is None else wedge
        basis = FourierBasis(shape_zyx)
        axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in basis.shape]
        r = torch.linalg.vector_norm(torch.stack(torch.meshgrid(*axes, indexing="ij")), dim=0)
        edge = max(basis.shape)
        window = window_floor + (1 - window_floor) * soft_lowpass(r, *(share * edge for share in window_share))
        amplitude = (1 + (basis.radius / corner_freq) ** 2) ** (-decay / 2)
        covariance = _windowed(basis, window, amplitude)
        covariance = covariance / covariance.diagonal().mean()
        noise = noise_power * (1 + (noise_rise - 1) * basis.each(basis.radius) / 0.5)
        measured = basis.each(wedge.support(basis.shape))
        return cls(basis, wedge, LinearGaussian(covariance, noise, measured))

    @cached_property
    def stationary_power(self) -> Tensor:
        """Power of each coordinate in its shell, (d,): what half maps tell of the prior without its window."""
        ring = self.basis.each(self.basis.radius)
        _, index = (ring * 1e6).round().unique(return_inverse=True)
        total = torch.zeros(int(index.max()) + 1, dtype=ring.dtype)
        count = total.clone().index_add_(0, index, torch.ones_like(ring))
        return (total.index_add_(0, index, self.model.covariance.diagonal()) / count)[index]


def _windowed(basis: FourierBasis, window: Tensor, amplitude: Tensor) -> Tensor:
    """Covariance (d, d) of window x field, from the images of unit coefficients of the field."""
    # Field coordinates are white; those outside the band reach into it through the window, and count too.
    whole = torch.eye(math.prod(basis.shape), dtype=torch.float64).reshape(-1, *basis.shape)
    field = irfft(rfft(whole) * amplitude, basis.shape)
    images = basis.coefficients(window * field)
    return images.mT @ images
