"""What can be read from codes by a classifier that is fitted afterwards, and what K-means finds in pixels."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

HIDDEN = (128, 128)
NEIGHBOURS = 15
# Below so many of a class, none are held out to decide when to stop.
ENOUGH_TO_HOLD_OUT = 20
# Chosen on laws whose best accuracy is known: less patience misses what is learnt late (a ring of narrow parts),
# no held-out part memorises.
TRAINING = {"learning_rate_init": 3e-3, "validation_fraction": 0.2, "n_iter_no_change": 30, "max_iter": 150}
RESTARTS = 4

Kind = Literal["mlp", "linear", "knn"]


def probe_accuracy(
    train_codes: Tensor,
    train_labels: Tensor,
    test_codes: Tensor,
    test_labels: Tensor,
    *,
    seed: int,
    kind: Kind = "mlp",
) -> float:
    """Accuracy on test codes of a classifier fitted to training codes.

    Parameters
    ----------
    train_codes : (n, d)
    train_labels : (n,) int
    test_codes : (m, d)
    test_labels : (m,) int
    seed : int
        Of the classifier's start, shuffling and held-out part.
    kind : {"mlp", "linear", "knn"}
        Two hidden layers of 128 units; multinomial logistic regression; the majority of 15 neighbours.
        The first two see coordinates standardised by the training codes, neighbours see them as they are.

    Returns
    -------
    float
        From 0 to 1.
    """
    if train_codes.shape[1:] != test_codes.shape[1:] or train_codes.dim() != 2:
        raise ValueError(f"codes {tuple(train_codes.shape)} and {tuple(test_codes.shape)} are not of one space")
    x, y, test_x, test_y = (t.detach().cpu() for t in (train_codes, train_labels, test_codes, test_labels))
    if kind != "knn":
        x, test_x = _standardised(x, test_x)
    return float(_fitted(_classifier(kind, seed, y), x, y).score(test_x.numpy(), test_y.numpy()))


def probe_log_odds(codes: Tensor, labels: Tensor, points: Tensor, *, seed: int) -> Tensor:
    """Log odds of label 1 against 0 at points, (m,) float64, of the "mlp" probe fitted to codes (n, d)."""
    x, at = _standardised(codes.detach().cpu(), points.detach().cpu())
    shares = _fitted(_classifier("mlp", seed, labels.cpu()), x, labels.cpu()).predict_proba(at.numpy())
    return torch.logit(torch.from_numpy(shares[:, 1]).double(), eps=1e-6)


def knn_accuracy(
    train_codes: Tensor, train_labels: Tensor, test_codes: Tensor, test_labels: Tensor, *, k: int = NEIGHBOURS
) -> float:
    """Accuracy on test codes, (m, d), of the majority among k nearest training codes, (n, d)."""
    x, y, test_x, test_y = (t.detach().cpu().numpy() for t in (train_codes, train_labels, test_codes, test_labels))
    return float(_neighbours(min(k, len(x))).fit(x, y).score(test_x, test_y))


def kmeans_assign(
    pixels_train: Tensor, pixels_test: Tensor, clusters: int, components: int = 50, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cluster images by K-means on their principal components, the baseline for learned clusters.

    Parameters
    ----------
    pixels_train : (n, p)
        Components and clusters are found on these.
    pixels_test : (m, p)
    clusters : int
    components : int
        Principal components; no more than there are images or pixels.
    seed : int

    Returns
    -------
    (n,) int64, (m,) int64
        Cluster of each training and each test image.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    train, test = pixels_train.cpu().numpy(), pixels_test.cpu().numpy()
    pca = PCA(min(components, *train.shape), random_state=seed)
    kmeans = KMeans(clusters, n_init=RESTARTS, random_state=seed)
    assigned = kmeans.fit_predict(pca.fit_transform(train)), kmeans.predict(pca.transform(test))
    return torch.from_numpy(assigned[0]).long(), torch.from_numpy(assigned[1]).long()


def _standardised(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both in units of the first's spread, from its mean."""
    mean, std = x.mean(dim=0), x.std(dim=0)
    std = torch.where(std > 0, std, 1.0)
    return (x - mean) / std, (other - mean) / std


def _fitted(classifier: Any, x: Tensor, y: Tensor) -> Any:
    with warnings.catch_warnings():
        # A probe is stopped when it is good enough to tell, not when its weights stand still.
        warnings.filterwarnings("ignore", category=_convergence_warning())
        return classifier.fit(x.numpy(), y.numpy())


def _classifier(kind: Kind, seed: int, labels: Tensor) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    if kind == "linear":
        return LogisticRegression(max_iter=1000)
    if kind == "knn":
        return _neighbours(min(NEIGHBOURS, len(labels)))
    if kind != "mlp":
        raise ValueError(f"{kind!r} is no probe: mlp, linear or knn")
    least = int(labels.unique(return_counts=True)[1].min())
    return MLPClassifier(HIDDEN, early_stopping=least >= ENOUGH_TO_HOLD_OUT, random_state=seed, **TRAINING)


def _neighbours(k: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(k)


def _convergence_warning() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning
