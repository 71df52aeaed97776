"""A referee of real patches against a fixed Gaussian: the density ratio that a prior of its own needs.

    p(x)  ~  q0(x) exp( E_{R, n} l(T R x + n) ),      q0 = N(0, S),      l = log p(y) / p(T R x0 + n),   x0 ~ q0

The logit of a fit's referee is the ratio to the restorations of that fit: it is flat where they succeed, and alone it
bounds nothing in the wedge. Against a reference that is known the ratio stands for itself, and -log q0 stays in every
energy (SCIENCE E10; Che et al. 2020, "Your GAN is secretly an energy-based model"). S is the power of what the
halves share, by shell, the same in all directions; so q0 knows the spectrum and the law l only what is beyond it.
Pulling the ratio of observations back to x is a surrogate, not Bayes' rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.matching.referee import Referee
from cryoaae.matching.structure import CloudDraw, Clouds, Microscope
from cryoaae.nets.discriminators import MultiScaleDiscriminator
from cryoaae.patches.spectra import coloured_noise, interpolate
from cryoaae.physics.fourier import radius
from cryoaae.physics.resample import BAND_STOP

BATCH, RATE, WEIGHT_DECAY = 8, 1e-3, 1e-2
# Cutting real patches and noise is the dearest part: draws are kept, in any half turn, and one in so many steps is new.
RENEW, KEPT = 4, 64
BETAS = (0.5, 0.99)


class ReferenceReferee(Referee):
    """A referee that has learned against a Gaussian, and the Gaussian's power.

    Parameters
    ----------
    network : nn.Module
        As for `Referee`.
    power : (shells,)
        S per coefficient of the working grid, in equal shells up to Nyquist.
    """

    kind = "reference"
    power: Tensor

    def __init__(self, network: nn.Module, power: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("power", power.double().clone())

    @classmethod
    def made(cls, shells: int, **network: Any) -> ReferenceReferee:
        """One that has learned nothing, to load a state into."""
        return cls(MultiScaleDiscriminator(**network), torch.zeros(shells))

    @property
    def settings(self) -> dict[str, Any]:
        """What `made` makes it with."""
        return {"shells": len(self.power), **super().settings}

    @property
    def neighbourhood(self) -> int:
        """Edge in working voxels of what a logit sees."""
        return int(self.network.neighbourhood)  # type: ignore[arg-type]

    def reference_power(self, shape_zyx: tuple[int, int, int]) -> Tensor:
        """S of each coefficient of a volume, (z, y, x // 2 + 1) float32; zero beyond the working grid's band."""
        ring = radius(shape_zyx).double()
        power = interpolate(self.power.cpu(), (2 * ring).clamp(max=1.0)).clamp(min=0.0)
        return torch.where(ring < BAND_STOP, power, 0.0).float()

    def blocks(self, count: int, edge: int, *, generator: torch.Generator) -> Tensor:
        """Draws x0 of the Gaussian, (count, 1, n, n, n)."""
        power = self.power.cpu()
        return torch.stack([coloured_noise(power, (edge,) * 3, generator) for _ in range(count)])[:, None]


def learn_reference(
    clouds: Clouds,
    power: Tensor,
    *,
    steps: int,
    widths: tuple[int, ...] = (16, 32, 64),
    advance: Callable[[float], Any] = lambda _: None,
) -> ReferenceReferee:
    """Learn to tell real patches from a Gaussian's, put through the microscope as restorations are.

    Parameters
    ----------
    clouds : Clouds
        Of the tomograms; draws noise and real patches.
    power : (shells,)
        S, as for `ReferenceReferee`.
    steps : int
        Of `BATCH` patches of either cloud.
    widths : tuple of int
        Of the discriminator.
    advance : callable
        Told of the share done after each step; may raise to stop.

    Notes
    -----
    The Gaussian's law does not care for orientation, so its draws need no turn. Half turns that keep the wedge, which
    neither law minds, are drawn in every step: few patches are soon known by heart.
    """
    generator = clouds.generator
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))  # layers have no generator argument
    judge = ReferenceReferee(MultiScaleDiscriminator(1, widths), power).to(clouds.device)
    wedges = [source.wedge for source in clouds.sources]
    microscope = Microscope(wedges, patch=clouds.patch, block=clouds.block, device=clouds.device)
    turns = [turn for turn in wedges[0].half_turns() if all(turn in wedge.half_turns() for wedge in wedges)]
    optimiser = torch.optim.AdamW(judge.parameters(), lr=RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    draws: deque[CloudDraw] = deque(maxlen=KEPT)
    for step in range(steps):
        if step % RENEW == 0:
            draws.append(replace(clouds.draw(BATCH), rotations=torch.eye(3).expand(BATCH, 3, 3)))
        draw = draws[int(torch.randint(len(draws), (1,), generator=generator))]
        again = microscope(judge.blocks(BATCH, clouds.block, generator=generator).to(clouds.device), draw)
        turn = turns[int(torch.randint(len(turns), (1,), generator=generator))]
        optimiser.zero_grad()
        judge.loss(*(torch.flip(cloud, turn) if turn else cloud for cloud in (draw.real, again))).backward()
        optimiser.step()
        schedule.step()
        advance(1 / steps)
    return judge.eval()
