"""After the fit: what a restorer's codes are worth, and how codes of real patches are distributed.

    use      change of the output when patches get each other's codes, over the output (`latent_prior.code_use`)
    mmd      unbiased squared MMD of codes of real patches from the prior, beside that of two draws of the prior
    power    of patches decoded from draws of the prior, over that of patches decoded from codes (autoencoder)

Below 1 % of use the codes say nothing, as happens beside the skips of a U-Net.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cryoaae.fitting.pair_feed import PairFeed
from cryoaae.fitting.settings import FitSettings
from cryoaae.matching.code_distance import CHUNK, CodeDistance
from cryoaae.matching.structure import Clouds
from cryoaae.metrics.codes import mmd_floor
from cryoaae.models.latent_prior import UNUSED, code_distance, code_use
from cryoaae.models.restorer import Restorer
from cryoaae.patches.pairs import BlockPool
from cryoaae.priors.gaussian import Gaussian

# Real patches that are encoded, and codes that are held against the prior.
PATCHES, CODES = 384, 1024
REPEATS = 8
# Patches that get each other's codes, where none are kept out of fitting.
EXCHANGED = 8


@torch.no_grad()
def report_codes(
    restorer: Restorer, feed: PairFeed, settings: FitSettings
) -> tuple[CodeDistance | None, dict[str, Any]]:
    """Measure the codes of a fitted restorer.

    Returns
    -------
    CodeDistance or None
        Distances from the codes of real patches; None without halves, of which real patches are drawn.
    dict
        "use", "unused", and with halves "mmd", "mmd_floor", "mmd_floor_sd", "power".
    """
    pool, generator = feed.pool, torch.Generator().manual_seed(settings.seed)
    shown = [batch.inputs for batch in feed.held_out()] or [_one(pool, generator) for _ in range(EXCHANGED)]
    found: dict[str, Any] = {"use": code_use(restorer, shown)}
    found["unused"] = found["use"] < UNUSED
    if not all(source.has_halves for source in pool.sources):
        return None, found
    clouds = Clouds(
        pool.sources, patch=settings.prior_patch, block=settings.patch_size, generator=generator, device=pool.device
    )
    distance = CodeDistance(restorer.code_dim).to(pool.device).look_through(restorer.codes)
    real = clouds.real(PATCHES)
    distance.learn_real(real)
    codes = _drawn(restorer, real, generator)
    chosen = codes[torch.randperm(len(codes), generator=generator)[:CODES].to(codes.device)]
    return distance, {**found, **_against_prior(restorer, chosen, generator)}


def _one(pool: BlockPool, generator: torch.Generator) -> Tensor:
    """A patch of a block drawn at random, (1, 1, p, p, p)."""
    blocks = pool.blocks()
    _, block = blocks[int(torch.randint(len(blocks), (1,), generator=generator))]
    low = [int(torch.randint(n - pool.patch + 1, (1,), generator=generator)) for n in block.inputs.shape]
    cut = tuple(slice(a, a + pool.patch) for a in low)
    return block.inputs[cut][None, None]


def _drawn(restorer: Restorer, patches: Tensor, generator: torch.Generator) -> Tensor:
    """Codes of patches (b, 1, p, p, p), drawn where the encoder gives a law, (n, dim)."""
    coded = torch.cat([restorer.features(part)[-1] for part in patches.split(CHUNK)])
    mean, log_std = coded[:, : restorer.code_dim], coded[:, restorer.code_dim :]
    if log_std.shape[1]:
        mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(mean)
    return mean.movedim(1, -1).flatten(0, -2)


def _against_prior(restorer: Restorer, codes: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Codes (n, dim) held against draws of the prior."""
    prior, count = Gaussian(restorer.code_dim), len(codes)
    drawn = prior.sample(count, generator=generator).to(codes)
    floor = mmd_floor(
        prior, count, generator=generator, repeats=REPEATS, distance=lambda one, two: float(code_distance(one, two))
    )
    found = {
        "mmd": float(code_distance(codes, drawn)), "mmd_floor": floor.mean, "mmd_floor_sd": floor.sd,
        "code_sd": float(codes.std()),
    }  # fmt: skip
    if restorer.network.adds_to_linear:
        return found
    made, own = (restorer.network.decoded(part).var(dim=(-3, -2, -1)).mean() for part in (drawn, codes))
    return {**found, "power": float(made / own.clamp(min=1e-12))}
