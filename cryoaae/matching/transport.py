"""The two clouds matched by transport: features of patches, a memory of both clouds, no referee.

    restorer   min  energy = E h(phi(T R x_hat + n)),   h the first variation of D(again, real) at the memory

D is the debiased Sinkhorn divergence or the sliced Wasserstein distance between the laws of the features. A step has
a few fresh patches, the memory thousands: h is solved for on the memory, and the gradient, through what is fresh
alone, is that of D as the fresh patches join the cloud (`divergences.witnesses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.matching.memory import Memory, Whitening
from cryoaae.matching.patch_features import PATCH_FEATURES

# Fewer points have no law to speak of.
LEAST = 128
# The first variation is solved for again when so large a share of the cloud seen again is new.
RENEWED = 0.125
# The share of the gradient is a running mean over some 50 steps, as a referee's.
MEMORY = 0.02
CHUNK = 64


class Transport(nn.Module):
    """Compares patches with real ones by the first variation of a transport divergence.

    Parameters
    ----------
    patch : int
        Edge of a patch in working voxels.
    features, divergence : str
        Names in `PATCH_FEATURES` and `WITNESSES`.
    bank : int
        Patches of either cloud that are remembered, each half turn counted.
    turns : sequence of axes to flip
        Half turns that keep the wedge, the identity among them: a patch counts in each of them.

    Notes
    -----
    Memory, frame and first variation are part of the state, so that a resumed run goes on with them.
    """

    kind = "transport"
    gradient_share: Tensor
    divergence: Tensor
    floor: Tensor
    orders: Tensor
    solved_at: Tensor

    def __init__(
        self, patch: int, *, features: str, divergence: str, bank: int, turns: Sequence[Sequence[int]] = ((),)
    ) -> None:
        super().__init__()
        self.settings = {
            "patch": patch, "features": features, "divergence": divergence, "bank": bank, "turns": [*map(list, turns)],
        }  # fmt: skip
        self.map: nn.Module = PATCH_FEATURES.make(features, patch)
        dim = int(self.map.dim)
        orders = torch.stack([self.map.turned(tuple(axes)) for axes in turns])
        self.register_buffer("orders", orders, persistent=False)
        self.frame = Whitening(dim)
        self.real, self.again = Memory(dim, bank), Memory(dim, bank)
        self.witness: Any = WITNESSES.make(divergence, dim, bank)
        for name in ("gradient_share", "divergence", "floor"):
            self.register_buffer(name, torch.tensor(0.0))
        self.register_buffer("solved_at", torch.tensor(0))

    @torch.no_grad()
    def learn_real(self, patches: Tensor) -> None:
        """Measure the frame on real patches (n, 1, p, p, p), and remember them; once, before the first step."""
        found = torch.cat([self._in_all_turns(part) for part in patches.split(CHUNK)])
        self.frame.measure(found)
        self.real.add(self.frame(found))

    @property
    def ready(self) -> bool:
        """Whether there is a first variation yet."""
        return int(self.solved_at) > 0

    def features(self, patches: Tensor) -> Tensor:
        """Whitened features of patches in all half turns, (b, 1, p, p, p) -> (b * turns, dim)."""
        return self.frame(self._in_all_turns(patches))

    def _in_all_turns(self, patches: Tensor) -> Tensor:
        return self.map(patches)[:, self.orders].flatten(0, 1)

    def energy(self, features: Tensor) -> Tensor:
        """What a restorer descends, from features of fresh patches; a scalar."""
        return self.witness(features).mean()

    def energies(self, patches: Tensor) -> Tensor:
        """Energy of each patch, (b, 1, p, p, p) -> (b,); 0 is the mean over real patches."""
        return self.witness(self.features(patches)).reshape(len(patches), -1).mean(dim=1)

    @torch.no_grad()
    def remember(self, again: Tensor, real: Tensor) -> None:
        """Take features seen again and real patches into the memory; solve anew when it has changed enough."""
        found = self.features(real)
        if not bool(torch.isfinite(again.sum() + found.sum())):
            return  # a step that the loop skips; the memory would keep it
        self.again.add(again.detach())
        self.real.add(found)
        fresh = int(self.again.seen) - int(self.solved_at)
        if min(len(self.again), len(self.real)) >= LEAST and fresh >= RENEWED * len(self.again):
            self._solve()

    def _solve(self) -> None:
        seen = int(self.again.seen)
        # Not the run's generator: how often it is drawn from does not depend on the divergence.
        generator = torch.Generator().manual_seed(seen)
        real = self.real.cloud
        self.divergence.copy_(self.witness.solve(self.again.cloud, real, generator=generator))
        self.floor.copy_(self.witness.between(real[::2], real[1::2], generator=generator))
        self.solved_at.fill_(seen)

    # -- the record, and what the loop asks of a watch ---------------------------------------------

    def note_gradient(self, ratio: Tensor, weight: Tensor) -> None:
        """Take down the energy's gradient on the restorer's head over the pair loss's, and the weight it is given."""
        if torch.isfinite(ratio * weight):
            self.gradient_share.lerp_((ratio * weight).detach().to(self.gradient_share), MEMORY)

    def doubtful(self) -> bool:
        """Never: there is no game to lose."""
        return False

    def trouble(self) -> str | None:
        """None."""
        return None

    def figures(self) -> dict[str, float]:
        """Divergence of the clouds in memory, that between two halves of the real one, and the gradient's share."""
        return {name: float(getattr(self, name)) for name in ("divergence", "floor", "gradient_share")}
