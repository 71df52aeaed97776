"""The latent map of particles: what `cryoaae cluster` and `cryoaae embed` wrote, and whose codes they are.

A row of ``codes.npz`` says which particle it is by store, index in the store and row in the list. The stores are looked
for where the run found them, then beside it; without its store a particle is placed by the list that the run wrote, and
has a code and a position, but no voxels.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.particle_files import read_particles
from cryoaae.runs.progress import Progress
from napari_cryoaae.particle_groups import ParticleGroups
from napari_cryoaae.particles import PlacedParticles, list_positions_angstrom_zyx, place_list, place_particles
from napari_cryoaae.run_folder import CONFIG, RECORD, WEIGHTS, read_json, read_yaml

CODES, CLUSTERS = "codes.npz", "clusters.json"
COMMANDS = ("cluster", "embed")
# Of the log-likelihood by which references explain a particle: `cryoaae.subtomograms.page` warns below it.
EXPLAINED = 50.0
# Names of what codes.npz holds one number a particle of, for people.
COLUMNS = {
    "outlier_score": "outlier score", "error": "reconstruction error", "kmeans": "k-means",
    "gaussian_mixture": "Gaussian mixture", "hdbscan": "HDBSCAN",
}  # fmt: skip
NO_DECODER = (
    "Clustered by alignment, which fits no model: nothing can be decoded, walked through or drawn here or under "
    "Variability; cluster again with --by both for that."
)
WHOSE = ("store", "index", "row")
NEEDED = (*WHOSE, "features", "style", "class_probabilities")


@dataclass(frozen=True)
class LatentMap:
    """Codes of n particles.

    Parameters
    ----------
    folder : Path
        Of `cryoaae cluster` or `cryoaae embed`.
    codes : dict
        Name to array (n, ...), as ``codes.npz`` holds them.
    found : ParticleGroups
        The clusters; for codes alone the likeliest class of each particle.
    placed : dict
        Name of a store to its particles; without those that were not found.
    stores : dict
        Name of a store to its file, where that was found.
    model : Path, optional
        Run folder with the weights of an autoencoder.
    averages : dict
        Name of a class to the average that the run wrote of it, in the order of the classes.
    remarks : tuple of str
        What a user should know of the map.
    """

    folder: Path
    codes: dict[str, NDArray[Any]] = field(repr=False)
    found: ParticleGroups = field(repr=False)
    placed: dict[str, PlacedParticles] = field(repr=False)
    stores: dict[str, Path]
    model: Path | None
    averages: dict[str, Path] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.codes["store"])

    @property
    def by_alignment(self) -> bool:
        """Whether an alignment alone made the codes: they have no style, and there is no decoder."""
        return self.codes["style"].shape[1] == 0

    @property
    def without_model(self) -> str:
        """Why nothing can be decoded, in a sentence, where it cannot."""
        return NO_DECODER if self.by_alignment else ""

    @property
    def store_names(self) -> list[str]:
        """Stores in their order."""
        return list(dict.fromkeys(self.codes["store"].tolist()))

    def of_store(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Particles of a store: their numbers on the map, and their indices in the store."""
        own = np.flatnonzero(self.codes["store"] == name)
        return own, self.codes["index"][own]

    @cached_property
    def positions_angstrom_zyx(self) -> NDArray[np.float64]:
        """Positions (n, 3) from the first voxel of the tomogram; NaN where unknown."""
        positions = np.full((len(self), 3), np.nan)
        for name, placed in self.placed.items():
            own, index = self.of_store(name)
            positions[own] = placed.positions_angstrom_zyx[index]
        return positions

    @cached_property
    def tomograms(self) -> NDArray[Any]:
        """Name of each particle's tomogram; "" where unknown."""
        return self._texts("tomograms")

    @cached_property
    def axes(self) -> dict[str, NDArray[np.float64]]:
        """What the particles can be spread along, (n,) each: the map first, then the numbers of the code."""
        plane = self.codes.get("plane")
        named = {} if plane is None else {f"map {i + 1}": plane[:, i] for i in range(2)}
        for name, key in (("style", "style"), ("feature", "features")):
            named |= {f"{name} {i + 1}": column for i, column in enumerate(self.codes[key].T)}
        return {name: np.asarray(values, np.float64) for name, values in named.items()}

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """What is known of the particles, (n,) each, but for their class."""
        known: dict[str, NDArray[Any]] = {"tomogram": self.tomograms}
        labels = self._texts("labels")
        if (labels != "").any():
            known["label"] = labels
        if "cluster_probabilities" in self.codes:
            known["probability"] = self.codes["cluster_probabilities"].max(axis=1)
        known |= {name: self.codes[key] for key, name in COLUMNS.items() if key in self.codes}
        return known | self._listed_columns()

    def _listed_columns(self) -> dict[str, NDArray[Any]]:
        """Columns that the lists of all stores have."""
        lists = {name: placed.columns() for name, placed in self.placed.items()}
        if len(lists) < len(self.store_names):
            return {}
        merged: dict[str, NDArray[Any]] = {}
        for column in set.intersection(*(set(table) for table in lists.values())):
            own = [(self.of_store(name), table[column]) for name, table in lists.items()]
            values = np.empty(len(self), np.result_type(*(v.dtype for _, v in own)))
            for (numbers, index), listed in own:
                values[numbers] = listed[index]
            merged[column] = values
        return {column: merged[column] for column in next(iter(lists.values())) if column in merged}

    def _texts(self, what: str) -> NDArray[Any]:
        texts = np.full(len(self), "", dtype=object)
        for name, placed in self.placed.items():
            own, index = self.of_store(name)
            texts[own] = np.array(getattr(placed, what), dtype=object)[index]
        return texts


def is_latent_folder(path: Path) -> bool:
    """Whether a folder holds codes of particles; never raises."""
    record = read_json(path / RECORD)
    return record is not None and record.get("command") in COMMANDS and (path / CODES).is_file()


def read_latent_map(path: Path | str, progress: Progress) -> LatentMap:
    """Read a folder of `cryoaae cluster` or `cryoaae embed`, or its codes.npz.

    Raises
    ------
    InputError
        When there are no codes, or not ours.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    progress.start("reading codes", None, "")
    codes = _read_codes(folder / CODES)
    record = read_json(folder / RECORD) or {}
    stores, placed, remarks = {}, {}, []
    for name in dict.fromkeys(codes["store"].tolist()):
        progress.check()
        own = codes["store"] == name
        try:
            stores[name], placed[name] = _store_of(folder, record, name, codes, own)
        except InputError as error:
            remarks.append(f"{error}; without the store there are no averages and no galleries")
            listed = _listed_by_run(folder, name)
            if listed is not None and len(listed) == own.sum():
                placed[name] = listed
    summary = read_json(folder / CLUSTERS) or {}
    names = _names(summary, codes)
    found = ParticleGroups.of(names, _assigned(codes))
    said = [*_trust(summary, codes), *([NO_DECODER] if codes["style"].shape[1] == 0 else [])]
    averages = _averages(folder, names)
    return LatentMap(folder, codes, found, placed, stores, _model(folder), averages, (*said, *remarks))


def _read_codes(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            codes = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(file, "no codes that can be read", "give a folder of `cryoaae cluster`") from error
    missing = [name for name in NEEDED if name not in codes]
    if missing:
        raise InputError(file, f"has no {missing[0]}", "give the codes.npz of `cryoaae cluster`")
    if len({len(values) for values in codes.values()}) != 1 or not len(codes["store"]):
        raise InputError(file, "its columns are of different lengths, or empty", "embed the particles again")
    return codes


def _store_of(
    folder: Path, record: dict[str, Any], name: str, codes: dict[str, NDArray[Any]], own: NDArray[np.bool_]
) -> tuple[Path, PlacedParticles]:
    """A store, where it lay or beside the folder if both were moved together, and its particles."""
    here = folder.absolute()
    stated = [Path(fact["path"]) for fact in record.get("inputs", [])]
    places = [*(path for path in stated if path.name == name), here.parent / name, here / name]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(name, "is not where it was", "put the store beside the folder")
    placed, index = place_particles(file), codes["index"][own]
    if int(index.max()) >= len(placed) or (placed.rows[index] != codes["row"][own]).any():
        raise InputError(file, "holds other particles than were embedded", "put the store of the run beside the folder")
    return file, placed


def _listed_by_run(folder: Path, store: str) -> PlacedParticles | None:
    """Particles of a store by the list that the run wrote, which has them in the store's order."""
    try:
        listed = read_particles(folder / "particles" / f"{Path(store).stem}.star")
    except InputError:
        return None
    try:
        positions = list_positions_angstrom_zyx(listed, [folder, folder.absolute().parent])
    except InputError:
        positions = np.full((len(listed), 3), np.nan)
    return place_list(listed, positions)


def _assigned(codes: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """The cluster of each particle; of codes without clusters the likeliest class."""
    found = codes["cluster"] if "cluster" in codes else codes["class_probabilities"].argmax(axis=1)
    return found.astype(np.int64)


def _names(summary: dict[str, Any], codes: dict[str, NDArray[Any]]) -> list[str]:
    """Names of all clusters, or classes, those that no particle is of among them."""
    if "cluster" not in codes:
        return [f"class {k + 1}" for k in range(codes["class_probabilities"].shape[1])]
    names = [str(name) for name in summary.get("names", [])]
    return names + [str(k + 1) for k in range(len(names), int(codes["cluster"].max()) + 1)]


def _trust(summary: dict[str, Any], codes: dict[str, NDArray[Any]]) -> list[str]:
    """How far to trust the clusters, as the report of the run says it."""
    if "cluster" not in codes:
        return ["no clusters here: the model's classes are shown"]
    kappa, explained = summary.get("pose_agreement_kappa"), summary.get("explained")
    said = [] if kappa is None else [f"poses of a particle agree on its cluster with kappa {kappa:.2f} (chance: 0)"]
    if explained is not None and explained < EXPLAINED:
        said.append(
            f"references made of other particles explain a particle by {explained:.0f} only (of {EXPLAINED:g} and more "
            "that are wanted): poses and classes may be found in noise"
        )  # fmt: skip
    return said


def _averages(folder: Path, names: list[str]) -> dict[str, Path]:
    """Averages that the run wrote, by the name of their class."""
    files = {name: folder / "classes" / f"average_{k + 1:02d}.mrc" for k, name in enumerate(names)}
    return {name: file for name, file in files.items() if file.is_file()}


def _model(folder: Path) -> Path | None:
    """The run folder whose weights made the codes: this one, or the one that it names."""
    named = read_yaml(folder / CONFIG).get("model")
    places = [folder] if named is None else [folder, Path(named), folder.absolute().parent / Path(named).name]
    return next((place for place in places if (place / WEIGHTS).is_file()), None)
