"""From class codes to clusters: classes that poses of a particle mix up are joined, and a curve says how far.

The model has more classes than there may be. Seen in two poses, a particle of one kind may fall into two classes; the
table of how often it does, normalised by the classes' own agreement,

    A_kl = C_kl / sqrt(C_kk C_ll),      C_kl = mean over particles and pairs of poses of y_k y'_l,

says which classes are one. The two with the largest A are joined, again and again (the entries of C add up). For
each number of clusters the agreement of poses, corrected for chance (Cohen's kappa), is the curve by which the number
is chosen: the most clusters on which poses agree.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Poses must agree at least so well, corrected for chance, for a number of clusters to be believed.
AGREEMENT = 0.85
PRINCIPAL_COMPONENTS, NEIGHBOURS = 10, 20
# HDBSCAN finds no clusters smaller than this, nor than a fiftieth of all particles.
LEAST_CLUSTER = 5
# Silhouettes take all distances of so many particles.
SILHOUETTE_SAMPLE = 2000
SEED = 0


@dataclass(frozen=True)
class Level:
    """Classes joined to a number of clusters.

    Parameters
    ----------
    cluster_of_class : (classes,) int
        Largest cluster first.
    kappa : float
        Agreement of poses on the cluster, corrected for chance: 0 by chance, 1 at best.
    agreement : float
        The same as it is, from 0 to 1.
    """

    cluster_of_class: NDArray[np.int64]
    kappa: float
    agreement: float

    @property
    def clusters(self) -> int:
        return int(self.cluster_of_class.max()) + 1

    def probabilities(self, classes: Tensor) -> Tensor:
        """Cluster probabilities (n, clusters) of class probabilities (n, classes)."""
        index = torch.from_numpy(self.cluster_of_class)
        out = classes.new_zeros(len(classes), self.clusters)
        return out.index_add_(1, index, classes)


def confusion(views: Tensor) -> Tensor:
    """C, (classes, classes) float64: how often two poses of a particle fall into two classes; its sum is 1.

    Parameters
    ----------
    views : (views, n, classes)
        Class probabilities in two poses or more.
    """
    y = views.double()
    total = y.sum(dim=0)
    # All ordered pairs of different poses: the square of the sum, less each pose with itself.
    pairs = total.T @ total - torch.einsum("vnk,vnl->kl", y, y)
    return pairs / pairs.sum()


def levels(views: Tensor) -> list[Level]:
    """Classes joined step by step: for every number of clusters from all classes in use down to one."""
    shares = views.double().mean(dim=(0, 1))
    assigned = views.mean(dim=0).argmax(dim=-1)
    groups = [[int(k)] for k in torch.unique(assigned)]
    table = confusion(views)
    found = [_level(groups, views, shares)]
    while len(groups) > 1:
        first, second = _most_alike(groups, table)
        groups[first] += groups.pop(second)
        found.append(_level(groups, views, shares))
    return found


def _most_alike(groups: list[list[int]], table: Tensor) -> tuple[int, int]:
    """The two groups with the largest A, the lower index first."""
    member = torch.zeros(len(groups), len(table), dtype=table.dtype)
    for row, group in enumerate(groups):
        member[row, group] = 1.0
    joined = member @ table @ member.T
    own = joined.diagonal().clamp(min=torch.finfo(torch.float64).tiny)
    alike = joined / torch.sqrt(own[:, None] * own)
    alike.fill_diagonal_(-1.0)
    first, second = divmod(int(alike.argmax()), len(groups))
    return min(first, second), max(first, second)


def _level(groups: list[list[int]], views: Tensor, shares: Tensor) -> Level:
    """Number the groups by their particles; classes that no particle is of count with the likeliest."""
    cluster = np.full(len(shares), max(range(len(groups)), key=lambda i: float(shares[groups[i]].sum())))
    for number, group in enumerate(groups):
        cluster[group] = number
    assigned = Level(cluster, 0.0, 0.0).probabilities(views.mean(dim=0)).argmax(dim=-1)
    sizes = torch.bincount(assigned, minlength=len(groups)).numpy()
    # Each group's place in the order of size.
    cluster = np.argsort(np.argsort(-sizes, kind="stable"))[cluster]
    level = Level(cluster, 0.0, 0.0)
    classes = torch.stack([level.probabilities(view).argmax(dim=-1) for view in views])
    agreement, kappa = pose_agreement(classes, len(groups))
    return Level(cluster, kappa, agreement)


def pose_agreement(assigned: Tensor, clusters: int) -> tuple[float, float]:
    """How often two poses of a particle are of one cluster, and the same corrected for chance.

    Parameters
    ----------
    assigned : (views, n) int
    clusters : int

    Returns
    -------
    agreement : float
    kappa : float
        (agreement - chance) / (1 - chance); 0 where all particles are of one cluster.
    """
    table = confusion(torch.nn.functional.one_hot(assigned, clusters).double())
    agreement, chance = float(table.diagonal().sum()), float(table.sum(dim=1).square().sum())
    return agreement, (agreement - chance) / (1 - chance) if chance < 1 else 0.0


def choose_level(found: list[Level], clusters: int | None) -> Level:
    """The level with so many clusters, or, None, the most clusters on which poses agree.

    Where they agree on no number, the one they agree on best.

    Raises
    ------
    ValueError
        When fewer classes are in use than clusters are asked for.
    """
    if clusters is not None:
        for level in found:
            if level.clusters == clusters:
                return level
        raise ValueError(f"particles use {found[0].clusters} classes, fewer than {clusters}")
    several = [level for level in found if level.clusters > 1] or found
    trusted = [level for level in several if level.kappa >= AGREEMENT]
    return max(trusted, key=lambda level: level.clusters) if trusted else max(several, key=lambda level: level.kappa)


@dataclass(frozen=True)
class Comparison:
    """Clusterings of the code by other means.

    Parameters
    ----------
    assigned : dict
        Method ("k-means", "Gaussian mixture", "HDBSCAN") to clusters (n,); -1: noise.
    plane : (n, 2)
        First two principal components of the features.
    outlier_score : (n,)
        Local outlier factor: about 1 inside a cluster, more outside.
    curve : dict
        Number of clusters to {"silhouette", "bic"} of k-means and of a Gaussian mixture.
    """

    assigned: dict[str, NDArray[np.int64]]
    plane: NDArray[np.float64]
    outlier_score: NDArray[np.float64]
    curve: dict[int, dict[str, float]]


def compare(features: Tensor, clusters: int, most: int) -> Comparison:
    """Cluster features (n, units) by scikit-learn's methods, for several numbers of clusters up to `most`."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neighbors import LocalOutlierFactor

    x = features.double().numpy()
    components = PCA(min(PRINCIPAL_COMPONENTS, *x.shape), random_state=SEED).fit_transform(x)
    components = components / max(float(components.std()), 1e-12)
    with warnings.catch_warnings():
        # Where there are fewer kinds than asked for, clusters stay empty: the curve shows it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        curve = {k: _scores(components, k) for k in range(2, min(most, len(x) - 1) + 1)}
        found = _clusterings(components, min(clusters, len(x)))
    factor = LocalOutlierFactor(min(NEIGHBOURS, len(x) - 1)).fit(components).negative_outlier_factor_
    plane = components[:, :2] if components.shape[1] > 1 else np.repeat(components, 2, axis=1)
    return Comparison(found, plane, -np.asarray(factor, np.float64), curve)


def _clusterings(x: NDArray[np.float64], clusters: int) -> dict[str, NDArray[np.int64]]:
    from sklearn.cluster import HDBSCAN

    least = min(max(LEAST_CLUSTER, len(x) // 50), len(x))
    assigned = {
        "k-means": _kmeans(x, clusters),
        "Gaussian mixture": _mixture(x, clusters).predict(x),
        "HDBSCAN": HDBSCAN(min_cluster_size=least, copy=True).fit_predict(x),
    }
    return {name: np.asarray(labels, np.int64) for name, labels in assigned.items()}


def _scores(x: NDArray[np.float64], clusters: int) -> dict[str, float]:
    from sklearn.metrics import silhouette_score

    assigned = _kmeans(x, clusters)
    sample = np.random.default_rng(SEED).permutation(len(x))[:SILHOUETTE_SAMPLE]
    several = len(np.unique(assigned[sample])) > 1  # of a small cluster the sample may have none
    silhouette = float(silhouette_score(x[sample], assigned[sample])) if several else 0.0
    return {"silhouette": silhouette, "bic": float(_mixture(x, clusters).bic(x))}


def _kmeans(x: NDArray[np.float64], clusters: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(clusters, n_init=10, random_state=SEED).fit_predict(x), np.int64)


def _mixture(x: NDArray[np.float64], clusters: int) -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(clusters, n_init=2, reg_covar=1e-3, random_state=SEED).fit(x)
