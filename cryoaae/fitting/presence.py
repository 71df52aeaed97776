"""After the fit: learn to tell structure from featureless density and from noise.

A network fitted on pairs alone fills the wedge of anything it is given: noise, or a Gaussian field
of the tomogram's spectrum, comes back with a tenth to a third of the tomogram's power there. The
mean over what may be there (`models.restorer`) needs the probabilities of the three cases. They are
read from the network's own features, which stay what they are, by a classifier of one hidden layer:

    minimise  - E log p(case | moments of the features around a place)

over places of the pool's blocks (structure), of Gaussian twins of them, and of pure noise. The
moments are computed once, so this takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.models.restorer import Restorer
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE, Presence
from cryoaae.patches.featureless import gaussian_twin, noise_block
from cryoaae.patches.pairs import Block, BlockPool

# Prior probabilities of the three cases.
PRIOR = {NOTHING: 0.2, FEATURELESS: 0.3, STRUCTURE: 0.5}
PLACES_A_BLOCK = 1000
STEPS, PLACES_A_STEP, LEARNING_RATE = 1000, 2048, 5e-3


def learn_presence(restorer: Restorer, pool: BlockPool, *, margin: int, seed: int) -> float:
    """Fit `restorer.presence` on the pool's blocks and use it from now on; return the last loss.

    Parameters
    ----------
    margin : int
        Outer voxels of a block, where its wedge wraps around, that are not used.
    seed : int
        Of twins, noise and the order of places.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(restorer.parameters()).device
    bank: dict[int, list[Tensor]] = {case: [] for case in PRIOR}
    for source, block in pool.blocks():
        noise = noise_block(source, len(block.plain), slab_voxels=pool.patch, generator=generator)
        inputs = {NOTHING: noise, FEATURELESS: gaussian_twin(block.plain, generator), STRUCTURE: block.plain}
        for case, volume in inputs.items():
            inside = block if case == STRUCTURE else None
            bank[case].append(_places(restorer, volume.to(device), inside, margin, generator))
    places = {case: torch.cat(rows) for case, rows in bank.items()}
    loss = _classify(restorer.presence, places, generator)
    restorer.know_presence()
    return loss


def _places(
    restorer: Restorer, volume: Tensor, inside: Block | None, margin: int, generator: torch.Generator
) -> Tensor:
    """Moments at random places of a block (n, features), of those inside the fitted part."""
    size = len(volume) - 2 * margin
    size -= size % restorer.multiple
    cut = (slice(margin, margin + size),) * 3
    with torch.no_grad():
        moments = restorer.presence.moments(restorer.features(volume[cut][None, None]))[0].flatten(1).T
    chosen = torch.arange(len(moments))
    if inside is not None:
        weight = nn.functional.avg_pool3d(inside.weight[cut][None, None], restorer.presence.scale).flatten()
        chosen = chosen[(weight >= min(0.5, float(weight.max()))).cpu()]
    order = torch.randperm(len(chosen), generator=generator)[:PLACES_A_BLOCK]
    return moments[chosen[order].to(moments.device)]


def _classify(presence: Presence, places: dict[int, Tensor], generator: torch.Generator) -> float:
    """Descend the cross-entropy, the three cases drawn with their prior probabilities."""
    counts = {case: round(share * PLACES_A_STEP) for case, share in PRIOR.items()}
    label = torch.cat([torch.full((count,), case) for case, count in counts.items()])
    presence.requires_grad_(True)
    optimiser = torch.optim.Adam(presence.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=STEPS)
    loss = torch.zeros(())
    for _ in range(STEPS):
        drawn = [
            rows[torch.randint(len(rows), (counts[case],), generator=generator).to(rows.device)]
            for case, rows in places.items()
        ]
        logits = presence.classify(torch.cat(drawn)[:, :, None, None, None])[:, :, 0, 0, 0]
        loss = nn.functional.cross_entropy(logits, label.to(logits.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return float(loss.detach())
