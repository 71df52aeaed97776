"""The tile around the cursor: split and looked at in a thread once the cursor rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from cryoaae.runs.progress import Progress
from napari_cryoaae.cursor_link import Place
from napari_cryoaae.facts import StatedWedge
from napari_cryoaae.jobs import Jobs
from napari_cryoaae.sources import Source, window_around

if TYPE_CHECKING:
    from napari_cryoaae.wedge_split import Examined

# The cursor rests so long before the tile around it is split.
REST_MS = 200


@dataclass(frozen=True)
class Wanted:
    """Which volumes are looked at, with which wedge, and where."""

    sources: tuple[Source, ...]
    wedge: StatedWedge | None
    place: Place

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(source.title for source in self.sources)


@dataclass(frozen=True)
class Tile:
    """What was found out around the cursor, and for which volumes and wedge."""

    titles: tuple[str, ...]
    wedge: StatedWedge | None
    examined: Examined

    def of(self, wanted: Wanted) -> bool:
        """Whether it is of the same volumes and wedge, if perhaps of another place."""
        return self.titles == wanted.titles and self.wedge == wanted.wedge

    def serves(self, wanted: Wanted) -> bool:
        """Whether the cursor is in it, too."""
        return self.of(wanted) and self.examined.window.contains(wanted.place)


class TileAtCursor(QObject):
    """Makes tiles as they are wanted. `made` says that one is there, `said` and `failed` what goes on."""

    made = Signal(object)
    said = Signal(str)
    failed = Signal(str)

    def __init__(self, parent: QObject, jobs: Jobs) -> None:
        super().__init__(parent)
        self.tile: Tile | None = None
        self._jobs = jobs
        self._wanted: Wanted | None = None
        self._asked: Any = None
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.timeout.connect(self._examine)

    def forget(self) -> None:
        """The volumes are others now."""
        self.tile = None

    def want(self, wanted: Wanted) -> None:
        """Have a tile made soon, unless the one at hand serves."""
        self._wanted = wanted
        if wanted.sources and not (self.tile and self.tile.serves(wanted)):
            self._rest.start(REST_MS)

    def near(self, wanted: Wanted) -> Tile | None:
        """The tile of these volumes, if need be around a cursor of before: better than none while one is made."""
        return self.tile if self.tile and self.tile.of(wanted) else None

    def _examine(self) -> None:
        wanted = self._wanted
        if wanted is None or (self.tile and self.tile.serves(wanted)):
            return
        window = window_around(wanted.place, wanted.sources[0].shape)
        asked: tuple[Sequence[str], StatedWedge | None, Any] = (wanted.titles, wanted.wedge, window)
        if "tile" in self._jobs.running and self._asked == asked:
            return  # it is being made

        def work(progress: Progress) -> Tile:
            from napari_cryoaae.wedge_split import examine

            wedge = None if wanted.wedge is None else wanted.wedge.build()
            return Tile(wanted.titles, wanted.wedge, examine(wanted.sources, window, wedge, progress))

        self._asked = asked
        self.said.emit("Splitting around the cursor …")
        self._jobs.start("tile", work, returned=self._made, failed=self.failed)

    def _made(self, tile: Tile) -> None:
        self.tile = tile
        self.said.emit("")
        self.made.emit(tile)
