"""A sampler of deviations as a model to fit on two halves, without their truth: the noise-matched energy score.

    loss = ES( phi(d_1 + n_1), ..., phi(d_K + n_K); phi(y' - m) ) / the size of phi(y' - m),      mean over phi

m: the restoration of one half, turned and put through the wedge again; y': the other half, turned as it was; d_k:
deviations given what was restored; n_k: fresh noise of one half, turned too. What y' - m holds is the error of m and
noise that is independent of it, so in the mean the score is smallest where the deviations follow the law of the error,
wherever y' measured it (`sampling.energy_score`): strictly proper there, and silent elsewhere. Scored against the half
that m was made from it would not be: m holds that noise too, and what is left is smaller than noise alone.

phi: band-passes cut into small patches, apart where the wedge left the input what y' measured and where it took it
away. The second kind alone informs the spread within a wedge. Whole boxes are filtered, not patches: outside of what y'
measured y' - m is the restoration itself, and in a patch some of that would leak to where errors are looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.models.deviation_fitting import FREQ_ENDS, White, draws_of
from cryoaae.models.phase import Phase
from cryoaae.nets.deviation import Deviation, Seen
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.sampling.energy_score import BandPatches, energy_score

# Edge of the patches that a band is cut into, voxels.
PATCH = 2
# Bands quieter than this share of the loudest are not weighted any higher: a hidden sector may hold nothing of one.
FLOOR = 1e-3


@dataclass(frozen=True)
class HalfBatch:
    """Turned boxes of one size, as the general restorer knows them; periodic.

    Parameters
    ----------
    seen : Seen
        What the general restorer sees of one half, turned and put through the wedge.
    target : (b, z, y, x)
        The other half less the restoration of what was seen.
    noise : (k, b, z, y, x)
        Fresh, of the target's law, one field a draw.
    prior : (b, COLOURED, z, y, x // 2 + 1)
        See `nets.deviation.linear_posterior`.
    regions : (b, REGIONS, z, y, x // 2 + 1) bool
        What the target measured: what the input still has of it, and what was hidden from the input.
    sizes : (b, REGIONS, bands)
        Root mean square of the target's bands.
    where : (b, z, y, x) bool
        Voxels that count.
    white : White
        Noise of the draws.
    """

    seen: Seen
    target: Tensor
    noise: Tensor
    prior: Tensor
    regions: Tensor
    sizes: Tensor
    where: Tensor
    white: White


class HalfDeviations(nn.Module):
    """Fit a sampler on turned halves.

    Parameters
    ----------
    sampler : Deviation
    """

    def __init__(self, sampler: Deviation) -> None:
        super().__init__()
        self.sampler = sampler

    def phases(self) -> list[Phase]:
        """One phase: what is fitted descends the score."""
        return [Phase("halves", self.fitted(), lambda batch: {"score": self.score(batch)})]

    def fitted(self) -> list[nn.Parameter]:
        """How large deviations are, band by band and region by region: by what is seen, and by the size foretold.

        How it sees, and how noise is shaped, stays as it was learned: a tomogram tells little of that, and slowly.
        """
        return [self.sampler.by_size, *self.sampler.heads["amplitude"].parameters()]

    def held_out_loss(self, batch: HalfBatch) -> Tensor:
        """The same on places kept out of fitting."""
        return self.score(batch)

    def score(self, batch: HalfBatch) -> Tensor:
        """Noise-matched energy score of the sampler's draws, a scalar."""
        return score_by_band(draws_of(self.sampler, batch), batch).mean()


def score_by_band(draws: Tensor, batch: HalfBatch) -> Tensor:
    """Scores of deviations (k, b, z, y, x), in units of the target's size, (b, REGIONS, bands); 0 of silent bands."""
    bands = _bands(draws.shape[-3:])
    inside = nn.functional.avg_pool3d(batch.where.float()[:, None], PATCH)[:, 0].flatten(1) == 1  # (b, patches)
    weight = inside / inside.sum(dim=1, keepdim=True).clamp(min=1)
    found = []
    for region in batch.regions.unbind(dim=1):
        parts = energy_score(bands(draws + batch.noise, region), bands(batch.target, region))
        found.append((parts.unflatten(-1, (len(FREQ_ENDS), -1)) * weight[:, None]).sum(dim=-1))
    loud = batch.sizes > FLOOR * batch.sizes.amax(dim=(1, 2), keepdim=True)
    return torch.where(loud, torch.stack(found, dim=1) / (batch.sizes * PATCH**1.5).clamp(min=1e-12), 0.0)


def band_sizes(target: Tensor, regions: Tensor, where: Tensor) -> Tensor:
    """Root mean squares (REGIONS, bands) of a target (z, y, x) in regions (REGIONS, z, y, x // 2 + 1), over a mask."""
    windows, spectrum = _bands(target.shape).windows.to(target), rfft(target)
    found = [
        [irfft(spectrum * (window * region), target.shape)[where].square().mean().sqrt() for window in windows]
        for region in regions
    ]
    return torch.tensor(found)


def _bands(shape_zyx: Sequence[int]) -> BandPatches:
    return BandPatches(shape_zyx, freq_edges=FREQ_ENDS, patch=PATCH)
