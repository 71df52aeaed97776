"""After the fit: learn to tell structure from featureless density and from noise.

A network fitted on pairs alone fills the wedge of anything it is given: noise, or a Gaussian field
of the tomogram's spectrum, comes back with a tenth to a third of the tomogram's power there. The
mean over what may be there (`models.restorer`) needs the probabilities of the three cases. They are
read from the network's own features, which stay what they are, by a classifier of one hidden layer:

    minimise  - E log p(case | moments of the features around a place)

over places of the pool's blocks (structure), of Gaussian twins of them, and of pure noise. The
moments are computed once, so this takes seconds. `fitting.general_presence` does it for the general
restorer, on simulations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.models.restorer import Restorer
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE, Presence
from cryoaae.patches.featureless import gaussian_twin, noise_block
from cryoaae.patches.pairs import Block, BlockPool
from cryoaae.patches.source import TomogramSource
from cryoaae.physics.fourier import irfft, rfft

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
    mean = restorer.of_the_mean()
    for source, block in pool.blocks():
        noise = noise_block(source, len(block.plain), slab_voxels=pool.patch, generator=generator)
        seen = [(restorer, block.plain, noise)]
        if mean is not restorer and source.has_halves:  # it will restore their mean, too
            box = (len(block.plain),) * 3
            support = source.wedge.support(box, object_zyx=(pool.patch,) * 3, device=device)
            other = irfft(rfft(block.targets) * support, box)
            louder = 1 / _loudness_of_mean(source)  # a restoration brings what it sees to one loudness
            seen.append((mean, louder * (block.plain + other) / 2, louder * noise / 2**0.5))
        for model, plain, silence in seen:
            inputs = {NOTHING: silence, FEATURELESS: gaussian_twin(plain, generator), STRUCTURE: plain}
            for case, volume in inputs.items():
                inside = block if case == STRUCTURE else None
                bank[case].append(_places(model, volume.to(device), inside, margin, generator))
    loss = classify(restorer.presence, bank, generator)
    restorer.know_presence()
    return loss


def _loudness_of_mean(source: TomogramSource) -> float:
    """Standard deviation of the mean of the halves, in that of a half."""
    halves = source.density[:, ::4, ::4, ::4]
    return float(halves.mean(dim=0).std() / halves.std())


def _places(
    restorer: Restorer, volume: Tensor, inside: Block | None, margin: int, generator: torch.Generator
) -> Tensor:
    """Moments at random places of a block (n, features), of those inside the fitted part."""
    size = len(volume) - 2 * margin
    size -= size % restorer.multiple
    cut = (slice(margin, margin + size),) * 3
    with torch.no_grad():
        moments = restorer.presence.moments(restorer.features(volume[cut][None, None]))[0].flatten(1).T
    if inside is not None:
        weight = nn.functional.avg_pool3d(inside.weight[cut][None, None], restorer.presence.scale).flatten()
        moments = moments[weight >= min(0.5, float(weight.max()))]
    return some(moments, PLACES_A_BLOCK, generator)


def some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most so many rows (n, ...), drawn without putting back."""
    order = torch.randperm(len(rows), generator=generator)[:count]
    return rows[order.to(rows.device)]


def classify(presence: Presence, bank: dict[int, list[Tensor]], generator: torch.Generator) -> float:
    """Descend the cross-entropy of moments, (n, features) in any number of parts a case; return the last loss.

    The three cases are drawn with their prior probabilities.
    """
    places = {case: torch.cat(rows) for case, rows in bank.items()}
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
