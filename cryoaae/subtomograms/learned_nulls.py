"""Learned clusterings that search no pose: a plain autoencoder, and an invariant network trained on its own clusters.

The second follows DISCA (Zeng et al., PNAS 120, e2213149120, 2023) in outline: features pooled over the whole volume,
a Gaussian mixture of them, the network trained to tell the clusters of rotated particles, and so on in turns. It is
not that program: the network is smaller, copies are turned by the 24 rotations of a cube only, and the number of
clusters is told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryoaae.draws import Draws
from cryoaae.models.volumetric import measured_error
from cryoaae.nets.volumetric import VolumeDecoder, VolumeTrunk, draw_weights
from cryoaae.patches.particle_spectra import sphere
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import quarter_turned, quarter_turns
from cryoaae.subtomograms.null_clusterings import standardised
from cryoaae.subtomograms.standard import Particles, band

WIDTHS, UNITS, CODE = (16, 32, 64), 256, 32
BATCH, LEARNING_RATE = 32, 1e-3
# Times that the autoencoder sees each particle.
EPOCHS = 30
# Turns of clustering and training, the epochs of each, and the share of particles below which clusters stand still.
ROUNDS, ROUND_EPOCHS, STILL = 15, 3, 0.01
COMPONENTS = 16
CUBE = quarter_turns()


def seen_particles(particles: Particles) -> tuple[Tensor, Tensor, Tensor]:
    """Particles as a network sees them, (n, 1, z, y, x), their whitened spectra, and where these were measured."""
    spectra = torch.stack([particles.spectrum(i) for i in range(len(particles))])
    measured = torch.stack([particles.support(i) for i in range(len(particles))])
    shape = (particles.box,) * 3
    return irfft(spectra * particles.standard.filter(), shape)[:, None] * sphere(particles.box), spectra, measured


def autoencoder_features(particles: Particles, seed: int, *, epochs: int = EPOCHS) -> Tensor:
    """Codes (n, 32) of a plain autoencoder, fitted to what was measured of particles as they lie."""
    inputs, spectra, measured = seen_particles(particles)
    box, draws, noise = particles.box, Draws.seeded(seed), band(particles.box).square()
    encoder = nn.Sequential(VolumeTrunk(box, WIDTHS, UNITS), nn.Linear(UNITS, CODE))
    decoder = VolumeDecoder(CODE, box, WIDTHS, UNITS)
    draw_weights(encoder, draws)
    decoder.initialise(draws)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LEARNING_RATE)
    for rows in _batches(len(inputs), epochs, draws.generators[0]):
        decoded = irfft(rfft(decoder(encoder(inputs[rows]))[:, 0]) * band(box), (box,) * 3)
        loss = measured_error(decoded * sphere(box), spectra[rows], measured[rows], noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return _evaluated(encoder, inputs)


def invariant_network_clusters(
    particles: Particles, clusters: int, seed: int, *, rounds: int = ROUNDS, epochs: int = ROUND_EPOCHS
) -> Tensor:
    """Clusters (n,) int64 of a network of pooled features, trained on the mixture that is fitted to them, in turns."""
    inputs = seen_particles(particles)[0]
    inputs = inputs / inputs.std().clamp(min=1e-12)
    draws = Draws.seeded(seed)
    network, head = PooledFeatures(particles.box), nn.Linear(CODE, clusters)
    draw_weights(network, draws)
    draw_weights(head, draws)
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], LEARNING_RATE)
    found = mixture_clusters(_evaluated(network, inputs), clusters, seed)
    for _ in range(rounds):
        for rows in _batches(len(inputs), epochs, draws.generators[0]):
            shown = cube_turned(inputs[rows], draws.generators[0])
            loss = nn.functional.cross_entropy(head(network(shown)), found[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        again = matched(mixture_clusters(_evaluated(network, inputs), clusters, seed), found, clusters)
        changed, found = float((again != found).double().mean()), again
        if changed < STILL:
            break
    return found


class PooledFeatures(nn.Module):
    """Convolutions; means and maxima of every level over the whole volume; a linear layer: (n, 1, z, y, x) -> (n, 32).

    Parameters
    ----------
    box : int
        Edge of the volumes, voxels.
    """

    def __init__(self, box: int) -> None:
        super().__init__()
        self.levels = VolumeTrunk(box, WIDTHS, 1).convolutions
        self.linear = nn.Linear(2 * sum(WIDTHS), CODE)

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for level in self.levels:
            x = level(x)
            pooled += [x.mean(dim=(-3, -2, -1)), x.amax(dim=(-3, -2, -1))]
        features: Tensor = self.linear(torch.cat(pooled, dim=1))
        return features


def cube_turned(volumes: Tensor, generator: torch.Generator) -> Tensor:
    """Volumes (n, 1, z, y, x), each by one of the 24 rotations of a cube about voxel n // 2, drawn at random."""
    which = torch.randint(len(CUBE), (len(volumes),), generator=generator)
    return torch.stack([quarter_turned(volume, CUBE[int(k)]) for volume, k in zip(volumes, which, strict=True)])


def mixture_clusters(features: Tensor, clusters: int, seed: int) -> Tensor:
    """Clusters (n,) int64 of features (n, d): a Gaussian mixture on their principal components."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    x: NDArray[np.float64] = standardised(features).double().numpy()
    components = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(x)
    fitted: Any = GaussianMixture(clusters, n_init=3, reg_covar=1e-3, random_state=seed).fit(components)
    return torch.from_numpy(fitted.predict(components)).long()


def matched(found: Tensor, before: Tensor, clusters: int) -> Tensor:
    """Clusters (n,), numbered so that as many particles as can be keep the number they had before."""
    from scipy.optimize import linear_sum_assignment

    table = torch.zeros(clusters, clusters)
    table.index_put_((found, before), torch.ones(len(found)), accumulate=True)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    number = torch.empty(clusters, dtype=torch.long)
    number[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return number[found]


def _batches(count: int, epochs: int, generator: torch.Generator) -> Any:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(BATCH)


@torch.no_grad()
def _evaluated(network: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([network(part) for part in inputs.split(BATCH)])
