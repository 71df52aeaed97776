"""The equivariant bootstrap: error bars for any restorer, without training (Tachella and Pereyra 2023).

    x_b = R^-1 f(T R x_hat + n)

The restoration is taken for the truth: turned, put through the microscope again with fresh noise, restored and
turned back. What the restorer makes of it scatters about x_hat as the restorer errs, the wedge included,
for a turned structure loses other coefficients than it did.

It is the null that every sampler must beat. Its known fault: x_hat is smoother than the structure, and what f can
never recover is missing from x_hat as well, so the spread comes out too small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from cryoaae.patches.turning import Turner
from cryoaae.physics.wedge import MissingWedge

Restorer = Callable[[Tensor], Tensor]
Turn = Callable[[Tensor, Tensor], Tensor]


def turned(volume: Tensor, rotation: Tensor) -> Tensor:
    """Turn a volume (z, y, x) of the working grid about voxel n // 2; its band stays as it is.

    What comes from beyond the faces is reflected, so of a cube only the inscribed ball is the structure's own.
    """
    return Turner(volume.shape, rotation, device=volume.device)(volume.float()).to(volume.dtype)


def equivariant_bootstrap(
    estimate: Tensor,
    restorer: Restorer,
    wedge: MissingWedge,
    *,
    rotations: Iterable[Tensor],
    noise: Iterable[Tensor],
    turn: Turn = turned,
    back: Turn | None = None,
) -> Iterator[Tensor]:
    """Yield one bootstrap restoration for every rotation, (z, y, x) each; memory does not grow with their number.

    Parameters
    ----------
    estimate : (z, y, x)
        x_hat, what the restorer made of the data, on the working grid.
    restorer : callable
        f: measured volume (z, y, x) to restored volume.
    wedge : MissingWedge
        Of the data, laboratory frame; the noise is put there too.
    rotations : iterable of (3, 3)
        A list, or draws such as `random_rotations`; those that the structure's law is invariant under.
    noise : iterable of (z, y, x)
        One fresh sample a rotation of the noise that f's input has: half differences of other places, or simulated.
        Several inputs that are restored together, such as two halves, come stacked: (n, z, y, x), and so they go to f.
    turn : callable
        Volume and rotation to the turned volume.
    back : callable, optional
        The same with the transposed rotation, where that is another function: of a turned part of the volume.

    Raises
    ------
    ValueError
        When noise runs out before the rotations do.
    """
    samples, back = iter(noise), back or turn
    for rotation in rotations:
        fresh = next(samples, None)
        if fresh is None:
            raise ValueError("fewer samples of noise than rotations")
        again = wedge.measured(turn(estimate, rotation)) + fresh
        yield back(restorer(again), rotation.mT)


def bootstrap_spread(estimate: Tensor, draws: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of the draws and standard deviation about the estimate, (z, y, x) each, float64; draws are not kept.

    About the estimate, not about their own mean: what they have in common, f's bias on x_hat, is error too.
    """
    total, squares = (torch.zeros_like(estimate, dtype=torch.float64) for _ in range(2))
    count = 0
    for draw in draws:
        total += draw.double()
        squares += (draw.double() - estimate.double()).square()
        count += 1
    if not count:
        raise ValueError("no draws")
    return total / count, (squares / count).sqrt()
