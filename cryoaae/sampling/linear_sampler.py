"""A dense linear sampler: the learned posterior at its simplest.

    x = B y + C z,   z ~ N(0, 1)

In a linear-Gaussian world this form holds the exact posterior, so what is missed is the objective's and the
optimiser's fault, not a network's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.sampling.basis import FourierBasis


class LinearSampler(nn.Module):
    """Draws x = B y + C z in coordinates, at first the Wiener sampler of the powers it is given.

    Parameters
    ----------
    signal_power, noise_power : (d,)
        Of structure and of one half's noise in each coordinate, as the half maps tell them.
    measured : (d,) bool
    data_covariance : (d, d)
        Of one half. Data are whitened by it, and outputs kept in units of the start's deviations: every direction then
        has about the same curvature, and plain gradient descent goes straight.

    Notes
    -----
    The start is right in power, blind in the wedge, and over-dispersed.
    """

    scale: Tensor
    whitening: Tensor

    def __init__(
        self, signal_power: Tensor, noise_power: Tensor, measured: Tensor, data_covariance: Tensor
    ) -> None:
        super().__init__()
        share = torch.where(measured, signal_power / (signal_power + noise_power), 0.0)
        rows = torch.nonzero(measured).flatten()
        values, vectors = torch.linalg.eigh(data_covariance[rows][:, rows])
        roots = []
        for root in (values.rsqrt(), values.sqrt()):
            whole = torch.zeros_like(data_covariance)
            whole[rows[:, None], rows] = (vectors * root) @ vectors.mT
            roots.append(whole)
        self.register_buffer("scale", (signal_power * (1 - share)).sqrt())
        self.register_buffer("whitening", roots[0])
        self.mean_weight = nn.Parameter((share / self.scale)[:, None] * roots[1])
        self.spread_weight = nn.Parameter(torch.eye(len(share), dtype=share.dtype))

    def mean(self, y: Tensor) -> Tensor:
        """Posterior mean of data (..., d)."""
        return (y @ self.whitening) @ self.mean_weight.mT * self.scale

    def draws(self, y: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
        """Draws (count, b, d) given data (b, d)."""
        white = torch.randn(count, *y.shape, generator=generator, dtype=y.dtype, device=y.device)
        return self.mean(y) + white @ self.spread_weight.mT * self.scale

    def log_score(self, y: Tensor, x: Tensor, *, centre: Tensor | None = None) -> Tensor:
        """Minus the log density of x (b, d) given y (b, d), up to a constant, (b,): proper, where x is known.

        With a `centre` (b, d), a mean that is known better than the sampler's own, the spread is scored about that, and
        the mean by itself under the spread as it stands: what the mean is off by chance is then no reason to be wider.
        """
        apart = (x - self.mean(y)) / self.scale
        spread = self.spread_weight
        if centre is None:
            return _half_square(spread, apart) + torch.linalg.slogdet(spread).logabsdet
        about = _half_square(spread, (x - centre) / self.scale) + torch.linalg.slogdet(spread).logabsdet
        return about + _half_square(spread.detach(), apart)

    @property
    def gain(self) -> Tensor:
        """B, (d, d)."""
        return (self.scale[:, None] * (self.mean_weight @ self.whitening)).detach()

    @property
    def covariance(self) -> Tensor:
        """C C^T, (d, d)."""
        factor = self.scale[:, None] * self.spread_weight.detach()
        return factor @ factor.mT


def _half_square(factor: Tensor, apart: Tensor) -> Tensor:
    """Half the square of C^-1 e, (b,), of residuals e (b, d)."""
    return 0.5 * torch.linalg.solve(factor, apart.mT).mT.square().sum(dim=-1)


def half_map_powers(even: Tensor, odd: Tensor, basis: FourierBasis, measured: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise power (d,) of each coordinate from halves (b, d): means over its shell's measured part.

    The power that halves share, and half that of their difference; isotropy carries both into the wedge.
    """
    ring = (basis.each(basis.radius) * 1e6).round().long()
    _, shell = ring.unique(return_inverse=True)
    count = torch.zeros(int(shell.max()) + 1, dtype=even.dtype).index_add_(0, shell, measured.to(even))

    def over_shells(values: Tensor) -> Tensor:
        sums = torch.zeros_like(count).index_add_(0, shell, values.mean(dim=0) * measured)
        return (sums / count)[shell]

    noise = over_shells((even - odd).square() / 2)
    # A shell that shares nothing by chance still needs a scale.
    return over_shells(even * odd).clamp(min=1e-3 * float(noise.mean())), noise
