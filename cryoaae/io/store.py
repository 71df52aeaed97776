"""Subtomograms in one HDF5 file: one chunk and one checksum a particle, read one at a time.

HDF5 promises nothing for a file whose writer was killed. So the writer makes everything that has a structure first
(tables, and the place of every chunk), flushes it, and from then on only fills chunks and checksums in place, under
another name, OUTPUT.partial. A particle counts as written when its checksum is the one of its voxels; whatever a
crash left is found by that and written again. The last step is a rename. `docs/formats.md` lists the data sets.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError, ResourceError
from cryoaae.io.atomic import DISK_FULL, sync_file
from cryoaae.io.particle_files import read_particles
from cryoaae.io.particles import Particles
from cryoaae.physics.wedge import MissingWedge

if TYPE_CHECKING:
    import h5py

FORMAT, VERSION = "cryoaae-subtomograms", 1
UNWRITTEN = -1
# Facts of a store that may differ when it is made again from the same: where files lay, versions.
PROVENANCE = "provenance"
# Kind of a store whose boxes are cut about the coordinates: the origins say where the particles truly are in them.
SIMULATION = "simulation"
# After so many particles the file is flushed: what a crash can cost.
FLUSH_EVERY = 32
TEXT_COLUMNS = ("tomogram", "class")
NUMBER_COLUMNS = ("position_zyx", "rotation", "half_set", "row", "wedge")


@dataclass(frozen=True)
class ParticleFacts:
    """What a store says of its n particles, in their order.

    Parameters
    ----------
    tomograms, classes : tuple of str
        "" where unknown.
    positions_zyx : (n, 3)
        Centre in voxels of the tomogram, at the store's voxel size; NaN where unknown.
    rotations : (n, 3, 3)
        On (z, y, x) vectors; each turns the reference onto the particle.
    half_sets : (n,)
        1 or 2; 0 where there is none.
    rows : (n,)
        Row in the particle list.
    wedges : tuple of MissingWedge
    wedge_index : (n,)
        Which of the wedges is the particle's.
    """

    tomograms: tuple[str, ...]
    classes: tuple[str, ...]
    positions_zyx: NDArray[np.float64]
    rotations: NDArray[np.float64]
    half_sets: NDArray[np.int64]
    rows: NDArray[np.int64]
    wedges: tuple[MissingWedge, ...]
    wedge_index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: NDArray[np.int64]) -> ParticleFacts:
        """Facts of some of the particles; all wedges stay."""
        return replace(
            self, tomograms=tuple(self.tomograms[i] for i in rows), classes=tuple(self.classes[i] for i in rows),
            positions_zyx=self.positions_zyx[rows], rotations=self.rotations[rows], half_sets=self.half_sets[rows],
            rows=self.rows[rows], wedge_index=self.wedge_index[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Subtomogram:
    """One particle: densities (z, y, x) float32 with its centre in voxel n // 2, and its facts."""

    volume: NDArray[np.float32]
    wedge: MissingWedge
    rotation: NDArray[np.float64]
    position_zyx: NDArray[np.float64]
    tomogram: str
    class_name: str
    half_set: int
    row: int


def partial_path(path: Path) -> Path:
    """Name of a store that is not complete."""
    return path.with_name(path.name + ".partial")


# -- reading --------------------------------------------------------------------------------------


class SubtomogramStore:
    """A complete store, indexed like a list of `Subtomogram`; holds tables in memory, voxels on disk.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
        When the file is no store, not complete, of a newer version or damaged; on reading a particle
        whose voxels do not have their checksum.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._process = 0
        with _opened(self.path, "r") as file:
            self.about = _about(self.path, file)
            if not file.attrs["complete"]:
                raise InputError(self.path, "the extraction was interrupted", "go on with cryoaae extract --resume")
            self.facts = _read_facts(self.path, file)
            self._checksums = file["checksum"][:]
        self.box = int(self.about["box"])
        self.voxel_size_angstrom = float(self.about["voxel_size_angstrom"])

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[Subtomogram]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Subtomogram:
        facts, i = self.facts, self._checked(index)
        return Subtomogram(
            self.volume(i), facts.wedges[facts.wedge_index[i]], facts.rotations[i], facts.positions_zyx[i],
            facts.tomograms[i], facts.classes[i], int(facts.half_sets[i]), int(facts.rows[i]),
        )  # fmt: skip

    def volume(self, index: int) -> NDArray[np.float32]:
        """Densities of one particle, (z, y, x) float32; reads nothing else."""
        i = self._checked(index)
        if self._file is None or self._process != os.getpid():  # a forked worker needs a file of its own
            self._file, self._process = _opened(self.path, "r"), os.getpid()
        voxels = _read_voxels(self._file, i)
        if voxels is None or checksum(voxels) != self._checksums[i]:
            raise InputError(self.path, f"particle {i} is damaged (checksum)", "extract it again")
        return voxels

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"particle {index} of {len(self)}")
        return index % len(self)

    def particles(self) -> Particles:
        """The particle list the store was made from, with all its columns; `facts.rows` are its rows."""
        name, content = self.source_file()
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / name
            copy.write_bytes(content)
            particles = read_particles(copy, coordinates=self.about["coordinates"])
        return replace(particles, source=self.path)

    def source_file(self) -> tuple[str, bytes]:
        """Name and content of that list as it was."""
        with _opened(self.path, "r") as file:
            return str(file["source"].attrs["name"]), zlib.decompress(file["source"][:].tobytes())

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


def checksum(voxels: NDArray[np.float32]) -> int:
    """CRC-32 of a particle's voxels as little-endian float32."""
    return zlib.crc32(np.ascontiguousarray(voxels, dtype="<f4").tobytes())


def _opened(path: Path, mode: str) -> h5py.File:
    import h5py

    if not path.is_file():
        raise InputError(path, "no such file", "check the name")
    try:
        return h5py.File(path, mode)
    except BlockingIOError as error:
        raise InputError(path, "is being written by another process", "wait until it ends") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(path, f"cannot be opened ({os.strerror(error.errno)})", "check its rights") from error
        raise InputError(path, "not an HDF5 file, or cut off", "extract it again") from error


def _about(path: Path, file: h5py.File) -> dict[str, Any]:
    """Facts of the whole store."""
    if file.attrs.get("format") != FORMAT:
        raise InputError(path, "an HDF5 file, but no store of subtomograms", "make one with cryoaae extract")
    if int(file.attrs["version"]) > VERSION:
        raise InputError(path, f"a store of version {file.attrs['version']}", "upgrade cryoaae")
    return dict(json.loads(file.attrs["about"]))


def other_facts(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of the facts, but for the provenance, in which two stores differ."""
    wanted = json.loads(json.dumps(wanted))
    return sorted(k for k in (found.keys() | wanted.keys()) - {PROVENANCE} if found.get(k) != wanted.get(k))


def _read_facts(path: Path, file: h5py.File) -> ParticleFacts:
    table = file["particles"]
    try:
        tomograms, classes = (tuple(t.decode() for t in table[name][:]) for name in TEXT_COLUMNS)
        positions, rotations, half_sets, rows, wedge_index = (table[name][:] for name in NUMBER_COLUMNS)
        wedges = tuple(_wedge_of(json.loads(text)) for text in file["wedges"][:])
    except (OSError, ValueError) as error:
        raise InputError(path, f"its tables are damaged ({error})", "extract it again") from error
    return ParticleFacts(tomograms, classes, positions, rotations, half_sets, rows, wedges, wedge_index)


def _wedge_of(facts: dict[str, Any]) -> MissingWedge:
    rotation: Any = tuple(map(tuple, facts["rotation"]))
    return replace(MissingWedge.from_facts(facts), rotation=rotation)


def _read_voxels(file: h5py.File, index: int) -> NDArray[np.float32] | None:
    """Voxels of a particle; None where the file has been cut off."""
    try:
        return np.asarray(file["subtomograms"][index], dtype=np.float32)
    except OSError:
        return None


# -- writing --------------------------------------------------------------------------------------


class StoreWriter:
    """A store being written; use as a context manager, and call `finish` when every particle is in.

    Parameters
    ----------
    path : path
        The store to make; until it is complete its name ends in ".partial".
    facts : ParticleFacts
    about : dict
        Facts of the whole store as plain data, with box, voxel_size_angstrom, coordinates and `PROVENANCE`.
    particle_file : (str, bytes)
        Name and content of the particle list.
    resume : bool
        Go on with an interrupted store of the same facts; start it where there is none.

    Raises
    ------
    InputError
        When there is nothing to resume from, or the interrupted store was of other inputs or settings.
    ResourceError
        When the disk is full.
    """

    def __init__(
        self, path: Path, facts: ParticleFacts, about: dict[str, Any], particle_file: tuple[str, bytes], *, resume: bool
    ) -> None:
        self.path, self.partial, self.count = path, partial_path(path), len(facts)
        self._unflushed = 0
        self._about = about
        if resume and self.partial.exists():
            self._file = _opened(self.partial, "r+")
            self._refuse_another()
        else:
            _remove_unheld(self.partial)
            self._file = self._guarded(lambda: _create(self.partial, facts, self._about, particle_file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def _refuse_another(self) -> None:
        other = other_facts(_about(self.partial, self._file), self._about)
        if other or len(self._file["checksum"]) != self.count:
            self._file.close()
            raise InputError(
                self.partial, f"was begun with other inputs or settings ({', '.join(other) or 'particles'})",
                "give the same, or --overwrite to start again",
            )  # fmt: skip

    def missing(self) -> list[int]:
        """Particles that are not, or not wholly, written."""
        sums = self._file["checksum"][:]
        return [i for i in range(self.count) if sums[i] == UNWRITTEN or not self._whole(i, int(sums[i]))]

    def _whole(self, index: int, wanted: int) -> bool:
        voxels = _read_voxels(self._file, index)
        return voxels is not None and checksum(voxels) == wanted

    def write(self, index: int, volume: NDArray[np.float32]) -> None:
        """Put one particle (z, y, x) in its place."""

        def put() -> None:
            self._file["subtomograms"][index] = volume
            self._file["checksum"][index] = checksum(volume)
            self._unflushed += 1
            if self._unflushed >= FLUSH_EVERY:
                self.flush()

        self._guarded(put)

    def flush(self) -> None:
        """Hand everything written so far to the system."""
        self._file.flush()
        self._unflushed = 0

    def finish(self) -> None:
        """Put the store under its own name."""
        self._file.attrs["complete"] = True
        self._guarded(self._file.close)
        sync_file(self.partial)
        self.partial.replace(self.path)
        sync_file(self.path.parent)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Do something that may fill the disk."""
        try:
            return work()
        except OSError as error:
            # HDF5 puts the system's number into its text only.
            full = error.errno in DISK_FULL or any(f"errno = {number}" in str(error) for number in DISK_FULL)
            if not full:
                raise
            raise ResourceError(f"{self.partial}: the disk is full; free space and go on with --resume") from error


def _remove_unheld(partial: Path) -> None:
    """Remove an interrupted store, unless another process is writing it."""
    import h5py

    try:
        h5py.File(partial, "r+").close()
    except FileNotFoundError:
        return
    except BlockingIOError as error:
        raise InputError(partial, "is being written by another process", "wait until it ends") from error
    except OSError:  # damaged: nothing to keep
        pass
    partial.unlink()


def _create(path: Path, facts: ParticleFacts, about: dict[str, Any], particle_file: tuple[str, bytes]) -> h5py.File:
    """Make a file with all tables and, empty, all chunks."""
    import h5py

    count, box = len(facts), int(about["box"])
    file = h5py.File(path, "w")
    file.attrs.update({"format": FORMAT, "version": VERSION, "about": json.dumps(about), "complete": False})
    table = file.create_group("particles")
    for name, texts in zip(TEXT_COLUMNS, (facts.tomograms, facts.classes), strict=True):
        _put(table, name, np.array([text.encode() for text in texts], dtype=bytes))
    numbers = (facts.positions_zyx, facts.rotations, facts.half_sets, facts.rows, facts.wedge_index)
    for name, values in zip(NUMBER_COLUMNS, numbers, strict=True):
        _put(table, name, np.asarray(values))
    _put(file, "wedges", np.array([json.dumps(asdict(wedge)).encode() for wedge in facts.wedges], dtype=bytes))
    name, content = particle_file
    _put(file, "source", np.frombuffer(zlib.compress(content), dtype=np.uint8))
    file["source"].attrs["name"] = name
    _put(file, "checksum", np.full(count, UNWRITTEN, dtype=np.int64), plain=True)
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.create_dataset("subtomograms", (count, box, box, box), "<f4", chunks=(1, box, box, box), dcpl=early)
    file.flush()
    return file


def _put(group: h5py.Group, name: str, values: NDArray[Any], *, plain: bool = False) -> None:
    """Write a table with HDF5's own checksum; `plain` ones can be changed in place."""
    group.create_dataset(name, data=values, **({} if plain else {"chunks": values.shape, "fletcher32": True}))


def wedge_table(wedges: Sequence[MissingWedge]) -> tuple[tuple[MissingWedge, ...], NDArray[np.int64]]:
    """Distinct wedges, and for each given one which of them it is."""
    distinct = {wedge: i for i, wedge in enumerate(dict.fromkeys(wedges))}
    return tuple(distinct), np.array([distinct[wedge] for wedge in wedges], dtype=np.int64)
