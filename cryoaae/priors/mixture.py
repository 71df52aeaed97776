"""Ring of Gaussians in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoaae.priors import PRIORS
from cryoaae.priors.labels import chosen


@PRIORS.register("mixture")
class Mixture:
    """Equal mixture of 2-D Gaussians around a ring, the long axis of each pointing outward.

    Parameters
    ----------
    components : int
        Gaussians on the ring; a label chooses one.
    radius : float
        Distance of their means from the origin.
    radial_std, tangential_std : float
        Standard deviations along and across the direction from the origin.

    Notes
    -----
    Component k has the mean ``radius u_k``, ``u_k = (cos, sin)(2 pi k / components)``, and the covariance
    ``radial_std^2 u_k u_k' + tangential_std^2 v_k v_k'``, v_k being u_k turned by a quarter. The mixture of
    Makhzani et al. 2016 (section 2.3), whose widths the paper leaves open; these are those of its public samplers.
    """

    dim = 2

    def __init__(
        self,
        components: int = 10,
        radius: float = 1.4,
        radial_std: float = 0.5,
        tangential_std: float = 0.1,
    ) -> None:
        if components < 1 or radius < 0 or radial_std <= 0 or tangential_std <= 0:
            raise ValueError(
                f"a ring of {components} Gaussians at {radius}, {radial_std} by {tangential_std}, does not exist"
            )
        self.components = self.classes = components
        self.radius, self.radial_std, self.tangential_std = radius, radial_std, tangential_std
        # The means of one component do not spread; of several they cancel.
        spread = radius**2 if components > 1 else 0.0
        self.scale = math.sqrt((spread + radial_std**2 + tangential_std**2) / 2)

    def sample(
        self, n: int, *, generator: torch.Generator, labels: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (n, 2); a label is the component."""
        device = generator.device
        drawn = torch.randint(self.components, (n,), generator=generator, device=device)
        angle = chosen(labels, drawn, self.components).to(dtype) * (2 * math.pi / self.components)
        normal = torch.randn(n, 2, generator=generator, device=device, dtype=dtype)
        along, across = self.radius + self.radial_std * normal[:, 0], self.tangential_std * normal[:, 1]
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([along * cos - across * sin, along * sin + across * cos], dim=-1)

    def log_density(self, z: Tensor) -> Tensor:
        """Logarithm of the mean of the components' densities, (..., 2) -> (...)."""
        return self._joint(z).logsumexp(dim=-1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Probability of each component given z, (..., 2) -> (..., components)."""
        return self._joint(z).softmax(dim=-1)

    def _joint(self, z: Tensor) -> Tensor:
        """Log density of z and its component, (..., components)."""
        angle = torch.arange(self.components, device=z.device, dtype=z.dtype) * (2 * math.pi / self.components)
        x, y = z[..., :1], z[..., 1:]
        along = (x * angle.cos() + y * angle.sin() - self.radius) / self.radial_std
        across = (y * angle.cos() - x * angle.sin()) / self.tangential_std
        norm = math.log(2 * math.pi * self.radial_std * self.tangential_std * self.components)
        return -0.5 * (along.square() + across.square()) - norm
