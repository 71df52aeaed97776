"""Clusterings that know nothing of poses or of learning: what a clustering of subtomograms must beat to mean anything.

Each is K-means on features of the particles: how mass is spread over the radius (size alone), principal components of
the voxels, or spectra that no rotation changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.metrics.rotation_invariants import DEGREES, invariant_spectra, radial_profiles
from cryoaae.subtomograms.band import BandedParticles

RESTARTS = 20


def size_features(particles: BandedParticles) -> Tensor:
    """Radial profile of the density of each particle, in its band: (n, box // 2)."""
    return radial_profiles(particles.band.volumes(particles.coefficients))


def voxel_features(particles: BandedParticles, *, components: int = 20) -> Tensor:
    """Principal components of the particles as they lie, (n, components).

    What the wedge of a particle hides is taken from the mean of those that measured it, so that it does not vary with
    the wedge.
    """
    measured = particles.supports[particles.support_index].bool()
    times = measured.sum(dim=0).clamp(min=1)
    mean = (particles.coefficients * measured).sum(dim=0) / times
    filled = torch.where(measured, particles.coefficients, mean) - mean
    flat = torch.view_as_real(filled).flatten(1)
    count = min(components, *flat.shape)
    left, scale, _ = torch.linalg.svd(flat, full_matrices=False)
    return left[:, :count] * scale[:count]


def invariant_features(particles: BandedParticles, freq_max: float) -> Tensor:
    """Rotation-invariant spectra of what the noise does not explain, standardised: (n, shells x degrees)."""
    band = particles.band
    shape = (band.box, band.box, band.box // 2 + 1)

    def spread(values: Tensor) -> Tensor:
        out = values.new_zeros(*values.shape[:-1], *shape)
        z, y, x = band.points_zyx.unbind(dim=1)
        for sign_z, sign_y, chosen in ((z, y, x >= 0), (-z, -y, x == 0)):
            out[..., sign_z[chosen] % band.box, sign_y[chosen] % band.box, x[chosen]] = values[..., chosen]
        return out

    spectra = invariant_spectra(
        band.volumes(particles.coefficients), spread(particles.supports).bool(), particles.support_index,
        noise_power=spread(particles.noise_power), freq_max=freq_max, degrees=DEGREES,
    )  # fmt: skip
    return standardised(spectra.flatten(1))


def standardised(features: Tensor) -> Tensor:
    """Features (n, d) with mean 0 and standard deviation 1; those that do not vary become 0."""
    centred = features - features.mean(dim=0)
    return centred / centred.std(dim=0).clamp(min=1e-12)


def k_means(features: Tensor, clusters: int, *, seed: int) -> Tensor:
    """Clusters (n,) int64 of features (n, d), the best of 20 starts."""
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=RESTARTS, random_state=seed).fit(features.double().cpu().numpy())
    return torch.from_numpy(fitted.labels_).long()
