"""What a clustering of particles is: which cluster each is of, how sure that is, and how far to trust the number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.subtomograms.align_stores import AlignedStores
from cryoaae.subtomograms.embed import Embedding
from cryoaae.subtomograms.partition import Comparison, Level, choose_level, compare, levels, pose_agreement

# The curves go up to so many clusters.
MOST_CLUSTERS = 12


@dataclass(frozen=True)
class Clustering:
    """Clusters of n particles.

    Parameters
    ----------
    assigned : (n,) int64
        Cluster of each particle, 0 the largest.
    probabilities : (n, clusters)
    level : Level
        Which classes of the model make up which cluster, and how well poses agree on it.
    curve : list of Level
        The same for every other number of clusters.
    names : tuple of str
        One a cluster: the label where it is a labelled class, else its number from 1.
    comparison : Comparison
    merge_shares : tuple of float
        Of an alignment: what each merge of two references loses, down to one class (`merging.told_apart`).
    explained : float or None
        Of an alignment: log-likelihood of a particle under its class made of others, over that of none.
    mirrored : bool or None
        Of particles assigned to references: whether to their mirror images.
    """

    assigned: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    level: Level
    curve: list[Level]
    names: tuple[str, ...]
    comparison: Comparison
    merge_shares: tuple[float, ...] = ()
    explained: float | None = None
    mirrored: bool | None = None

    @property
    def sizes(self) -> list[int]:
        """Particles in each cluster."""
        return np.bincount(self.assigned, minlength=len(self.names)).tolist()


def clustered(embedding: Embedding, clusters: int | None, class_names: tuple[str, ...] = ()) -> Clustering:
    """Clusters of embedded particles.

    Parameters
    ----------
    embedding : Embedding
    clusters : int, optional
        How many; None: chosen. Labelled classes are never joined.
    class_names : tuple of str
        Of the first classes, where they were labelled.

    Raises
    ------
    InputError
        When the particles use fewer classes than clusters are asked for.
    """
    curve = levels(embedding.views)
    try:
        level = curve[0] if class_names else choose_level(curve, clusters)
    except ValueError as error:
        remedy = "ask for fewer (with --model of this run nothing is fitted again), or fit with more classes"
        raise InputError("--clusters", str(error), remedy) from error
    probabilities = level.probabilities(embedding.probabilities)
    assigned = probabilities.argmax(dim=-1)
    shares = embedding.probabilities.mean(dim=0).numpy()
    names = tuple(_name(level, k, class_names, shares) for k in range(level.clusters))
    comparison = compare(embedding.features, level.clusters, min(MOST_CLUSTERS, len(assigned) - 1))
    return Clustering(assigned.numpy(), probabilities.numpy(), level, curve, names, comparison)


def _name(level: Level, number: int, class_names: tuple[str, ...], shares: NDArray[np.float32]) -> str:
    """A cluster's label, or its number from 1, which beside labels is said to be none."""
    # Classes that no particle is of may count with it, so its own is the likeliest.
    own = int(np.where(level.cluster_of_class == number, shares, -1.0).argmax())
    if own < len(class_names):
        return class_names[own]
    return f"unlabelled {number + 1}" if class_names else str(number + 1)


def aligned_clustering(
    aligned: AlignedStores, features: Tensor, views: NDArray[np.int64], *, classes: int | None = None
) -> Clustering:
    """Clusters that an alignment found.

    Parameters
    ----------
    aligned : AlignedStores
    features : (n, d)
        For the map, the outlier score and other clusterings.
    views : (views, m) int64
        Class of some particles in several poses.
    classes : int, optional
        Of an autoencoder that learned the clusters, the first for each of them; default: as many as clusters.
    """
    found, count = aligned.alignment, len(aligned.order)
    agreement, kappa = pose_agreement(torch.from_numpy(views), count)
    level = Level(np.arange(classes or count).clip(max=count - 1), kappa, agreement)
    comparison = compare(features, count, min(MOST_CLUSTERS, len(found.classes) - 1))
    return Clustering(
        found.classes.numpy(), found.probabilities.float().numpy(), level, [level],
        aligned.class_names, comparison, found.merge_shares, found.explained, aligned.mirrored,
    )  # fmt: skip
