"""Volumes from a fitted model: draws of a class, or a walk along one axis of the style.

    x = A(y, z),    z ~ N(0, 1)        y: the classes of a cluster, in their learned proportions

Densities are those of the particles on the working grid, in units of their background noise; no noise is added and
no wedge is cut. Where the decoder makes particles in their own pose the pose is part of the style, so draws of
one class differ in it, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import choose_device, set_threads
from cryoaae.runs.volume_series import write_series
from cryoaae.subtomograms.model_files import FittedModel, check_apart

# A walk goes from one end of the style's prior to the other, in its standard deviations.
WALK = 2.0
CLUSTERS = "clusters.json"


@dataclass(frozen=True)
class Clusters:
    """Clusters of a run, as ``clusters.json`` has them: names are labels, or else numbers from 1."""

    names: tuple[str, ...]
    class_to_cluster: NDArray[np.int64]

    @classmethod
    def of_run(cls, run: Path) -> Clusters:
        """Read a run folder of `cluster`.

        Raises
        ------
        InputError
        """
        file = run / CLUSTERS
        try:
            found = json.loads(file.read_text())
            return cls(tuple(found["names"]), np.array(found["class_to_cluster"], dtype=np.int64))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(run, "holds no finished clustering", "give the run folder of cryoaae cluster") from error

    def number(self, name: str) -> int:
        """Index of a cluster by its name.

        Raises
        ------
        InputError
        """
        if name in self.names:
            return self.names.index(name)
        raise InputError("--class", f"there is no class {name}", f"choose one of {', '.join(self.names)}")


@torch.no_grad()
def decode_volumes(fitted: FittedModel, classes: Tensor, style: Tensor) -> NDArray[np.float32]:
    """Densities (n, z, y, x) of class codes (n, classes) and styles (n, dim)."""
    model = fitted.model
    device = model.inside.device
    whitened = model.decode(model.from_class(classes.to(device), style.to(device))).cpu()
    return np.asarray(fitted.standard.unwhitened(whitened).numpy(), np.float32)


def decoded(fitted: FittedModel, members: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What the decoder makes of a cluster alone, its style at the prior's mean, (z, y, x)."""
    y = class_code(fitted, members)[None]
    return np.asarray(decode_volumes(fitted, y, torch.zeros(1, fitted.settings.style_dim))[0], np.float32)


def class_code(fitted: FittedModel, members: NDArray[np.bool_]) -> Tensor:
    """The likeliest class of a cluster, one-hot, (classes,): a mixture of classes is no class the decoder knows."""
    shares = fitted.model.proportions.cpu() * torch.from_numpy(members)
    return torch.nn.functional.one_hot(shares.argmax(), len(shares)).float()


def drawn_codes(
    fitted: FittedModel, clusters: Clusters, cluster: int | None, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws of the prior: one-hot classes (count, classes), of a cluster or of all, and styles (count, dim).

    Classes come as often as they are learned to be.
    """
    shares = fitted.model.proportions.cpu()
    if cluster is not None:
        shares = shares * torch.from_numpy(clusters.class_to_cluster == cluster)
    drawn = torch.multinomial(shares, count, replacement=True, generator=generator)
    classes = torch.nn.functional.one_hot(drawn, len(shares)).float()
    return classes, fitted.model.prior.sample(count, generator=generator)


def generate(
    run: Path | str,
    output: Path | str,
    *,
    class_name: str | None = None,
    count: int = 16,
    traverse: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write volumes that a model makes, as a series of MRC files.

    Parameters
    ----------
    run : path
        Run folder of `cluster`.
    output : path
        Folder to make.
    class_name : str, optional
        A cluster by its name (its number from 1, or its label); None: any, as often as it is.
    count : int
        Volumes to write.
    traverse : int, optional
        Walk along this axis of the style, from 1, instead of drawing it; needs a class.
    seed : int

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    InputError
    """
    set_threads(threads)
    run, folder = Path(run), Path(output)
    check_apart(folder, run)
    fitted, clusters = FittedModel.load(run, choose_device(device)), Clusters.of_run(run)
    cluster = None if class_name is None else clusters.number(class_name)
    _check(fitted, cluster, count, traverse)
    config: dict[str, Any] = {
        "run": str(run), "digest": fitted.digest, "class": class_name, "count": count, "traverse": traverse,
        "seed": seed,
    }  # fmt: skip
    stem = "any" if cluster is None else f"class_{cluster + 1:02d}"
    stem += "" if traverse is None else f"_axis_{traverse}"
    classes, style = _codes(fitted, clusters, cluster, count, traverse, seed)

    def volume(index: int) -> NDArray[np.float32]:
        return np.asarray(decode_volumes(fitted, classes[index : index + 1], style[index : index + 1])[0])

    return write_series(
        folder, config, [f"{stem}_{i + 1:03d}" for i in range(count)], volume,
        voxel_size_angstrom=fitted.standard.working_voxel_angstrom, overwrite=overwrite, dry_run=dry_run,
        progress=progress,
    )  # fmt: skip


def _codes(
    fitted: FittedModel, clusters: Clusters, cluster: int | None, count: int, traverse: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Class codes (count, classes) and styles (count, dim) to be decoded."""
    dim, prior = fitted.settings.style_dim, fitted.model.prior
    generator = torch.Generator().manual_seed(seed)
    if traverse is None or cluster is None:
        return drawn_codes(fitted, clusters, cluster, count, generator)
    style = torch.zeros(count, dim)
    style[:, traverse - 1] = prior.scale * torch.linspace(-WALK, WALK, count)
    return class_code(fitted, clusters.class_to_cluster == cluster).expand(count, -1), style


def _check(fitted: FittedModel, cluster: int | None, count: int, traverse: int | None) -> None:
    if count < 1:
        raise InputError("--count", f"{count} volumes", "give 1 or more")
    if traverse is None:
        return
    if cluster is None:
        raise InputError("--traverse", "needs a class to walk in", "give --class")
    if not 1 <= traverse <= fitted.settings.style_dim:
        dim = fitted.settings.style_dim
        raise InputError("--traverse", f"there is no axis {traverse} of the style", f"give 1 to {dim}")
