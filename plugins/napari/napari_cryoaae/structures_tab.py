"""Structures that a fitted model can make, decoded as sliders move: styles, classes, ways between particles, draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from cryoaae.errors import InputError
from cryoaae.runs.progress import Progress
from napari_cryoaae.code_sliders import CodeSliders
from napari_cryoaae.contrast import sampled_limits
from napari_cryoaae.facts import KEY, LayerFacts, Role
from napari_cryoaae.film import Film
from napari_cryoaae.film_bar import FilmBar
from napari_cryoaae.jobs import Jobs
from napari_cryoaae.latent_decoding import Code, Directions, StructureModel
from napari_cryoaae.latest_job import LatestJob
from napari_cryoaae.particles import AXES
from napari_cryoaae.picked_particles import picked_particles
from napari_cryoaae.small_widgets import button, chip, line_with_button, row
from napari_cryoaae.volume_layer import VolumeLayer, place_beside
from napari_cryoaae.volume_sections import VolumeSections

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRUCTURE = "decoded structure"
FRAMES, MOST_FRAMES = 16, 200
STYLE_AXES, MODES = "style axes", "principal modes"


@dataclass(frozen=True)
class _Decoded:
    """A volume, and how long it took to make."""

    volume: NDArray[Any]
    seconds: float


class StructuresTab(QWidget):
    """A run of `cryoaae cluster`, looked through. `said` tells what was done or is wrong."""

    said = Signal(str)

    def __init__(self, viewer: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.model: StructureModel | None = None
        self.code: Code | None = None
        self.shown = VolumeLayer(viewer)
        self.jobs, self.decoder = Jobs(self), LatestJob(self)
        self._asked: Path | None = None
        self._seed = 0
        self._new_levels = True  # of the grey scale, for another class
        self._build()
        self.decoder.returned.connect(self._show_decoded)
        self.decoder.failed.connect(self.said)
        self._enable()

    # -- widgets -------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.run = QLineEdit()
        self.run.setPlaceholderText("run folder of `cryoaae cluster`")
        self.run.editingFinished.connect(self._edited)
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.sections = VolumeSections()
        self.sliders = CodeSliders()
        self.sliders.moved.connect(self._slid)
        self.sliders.walked.connect(self.walk)
        self.bar = FilmBar(self.viewer)
        self.bar.turned.connect(self._turn)
        self.bar.said.connect(self.said)
        self.controls = QWidget()
        form = QFormLayout(self.controls)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Class", self._class_row())
        form.addRow("Particle", self._particle_row())
        form.addRow("Along", self._direction_row())
        self.film_row = self._film_row()
        layout = QVBoxLayout(self)
        layout.addWidget(row(QLabel("Model"), line_with_button(self.run, self._choose_run)))
        layout.addWidget(self.about)
        layout.addWidget(self.controls)
        layout.addWidget(self.sliders, stretch=1)
        layout.addWidget(self.sections, stretch=1)
        layout.addWidget(self.film_row)
        layout.addWidget(self.bar)

    def _class_row(self) -> QWidget:
        self.cluster = QComboBox()
        self.cluster.currentIndexChanged.connect(self._choose_cluster)
        mean = button("Mean", "the class at the mean of its prior", self.show_mean)
        draw = button("New draw", "a style drawn from the prior", self.show_draw)
        return row(self.cluster, mean, draw, None)

    def _particle_row(self) -> QWidget:
        self.particle, self.other = QSpinBox(), QSpinBox()
        show = button("Show", "the first particle as the model sees it", self.show_particle)
        between = button("Film between", "from the first particle to the second", self.film_between)
        picked = button("From points", "one selected point: show it; two: film between them", self.from_points)
        return row(self.particle, show, QLabel("and"), self.other, between, picked, None)

    def _direction_row(self) -> QWidget:
        self.directions = QButtonGroup(self)
        chips = [chip(text, checked=text == STYLE_AXES) for text in (STYLE_AXES, MODES)]
        for one in chips:
            self.directions.addButton(one)
            one.clicked.connect(self._lay_sliders)
        self.took = QLabel()
        return row(*chips, None, self.took)

    def _film_row(self) -> QWidget:
        self.frames = QSpinBox()
        self.frames.setRange(2, MOST_FRAMES)
        self.frames.setValue(FRAMES)
        self.frames.setSuffix(" frames")
        draws = button("Draws of the class", "as many draws of the prior as frames", self.film_draws)
        return row(QLabel("Film"), self.frames, draws, None)

    def _enable(self) -> None:
        for part in (self.controls, self.sliders, self.film_row):
            part.setEnabled(self.model is not None)

    # -- the model -----------------------------------------------------------------------------------

    def open(self, run: Path) -> None:
        """Load a model in the background, and show its largest class."""
        self._asked = run
        self.run.setText(str(run))
        self.said.emit("Loading the model …")
        load = partial(StructureModel.load, run)
        self.jobs.start("load", load, returned=self._loaded, failed=self._not_loaded)

    def _edited(self) -> None:
        path = Path(self.run.text().strip()).expanduser()
        if self.run.text().strip() and path != self._asked:
            self.open(path)

    def _choose_run(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Run folder of cryoaae cluster")
        if name:
            self.open(Path(name))

    def _not_loaded(self, why: str) -> None:
        self.model = None
        self.about.setText("")
        self.bar.set_film(None)
        self._enable()
        self.said.emit(why)

    def _loaded(self, model: StructureModel) -> None:
        self.decoder.cancel()  # of the model before
        self.model, self.code = model, None
        self.about.setText(
            f"{len(model)} particles in {len(model.names)} classes, style of {model.dim} numbers, "
            f"box of {model.box} voxels of {model.voxel_size_angstrom:.4g} Å"
        )
        self.cluster.blockSignals(True)
        self.cluster.clear()
        self.cluster.addItems([f"class {name}" for name in model.names])
        self.cluster.blockSignals(False)
        for spin in (self.particle, self.other):
            spin.setRange(1, max(1, len(model)))
        self.other.setValue(min(2, len(model)))
        self.bar.set_film(None)
        self._enable()
        self.said.emit("")
        self._choose_cluster()

    # -- codes ---------------------------------------------------------------------------------------

    def show_code(self, code: Code, cluster: int | None = None) -> None:
        """Show what a code is decoded to; `cluster` says in which class's modes it is to be seen."""
        self.code = code
        self.bar.pause()
        if cluster is not None and cluster != self.cluster.currentIndex():
            self.cluster.blockSignals(True)
            self.cluster.setCurrentIndex(cluster)
            self.cluster.blockSignals(False)
            self._new_levels = True
        self._lay_sliders()
        self._decode()

    def _choose_cluster(self, _: int = 0) -> None:
        """Another class, its style as it is."""
        if self.model is None:
            return
        code = self.model.cluster_code(self.cluster.currentIndex())
        self._new_levels = True
        self.show_code(code if self.code is None else code.with_style(self.code.style))

    def show_mean(self) -> None:
        """Show the class at the mean of the prior."""
        if self.model is not None:
            self.show_code(self.model.cluster_code(self.cluster.currentIndex()))

    def show_draw(self) -> None:
        """Show a draw of the prior in this class; another one each time."""
        if self.model is not None:
            self._seed += 1
            self.show_code(self.model.drawn(self.cluster.currentIndex(), 1, self._seed)[0])

    def show_particle(self) -> None:
        """Show the first particle as the model sees it."""
        if self.model is not None:
            number = self.particle.value()
            self.show_code(self.model.particle_code(number), int(self.model.assigned[number - 1]))

    def from_points(self) -> None:
        """Show the particle of the selected point, or go between those of two."""
        if self.model is None:
            return
        try:
            numbers = picked_particles(self.viewer.layers, self.model.latent)
        except InputError as error:
            self.said.emit(str(error))
            return
        self.particle.setValue(numbers[0])
        if len(numbers) == 1:
            self.show_particle()
        else:
            self.other.setValue(numbers[1])
            self.film_between()

    def _directions(self) -> Directions | None:
        if self.model is None:
            return None
        chosen = self.directions.checkedButton().text()
        return self.model.axes() if chosen == STYLE_AXES else self.model.modes(self.cluster.currentIndex())

    def _lay_sliders(self, _: Any = None) -> None:
        """Sliders of the chosen directions, where the code is."""
        directions = self._directions()
        if directions is None or self.code is None:
            return
        self.sliders.set_names(directions.names)
        self.sliders.set_places(directions.places(self.code))

    def _slid(self, index: int, place: float) -> None:
        directions = self._directions()
        if directions is not None and self.code is not None:
            self.code = directions.moved(self.code, index, place)
            self.bar.pause()
            self._decode()

    # -- decoding ------------------------------------------------------------------------------------

    def _decode(self) -> None:
        model, code = self.model, self.code
        if model is None or code is None:
            return

        def work(_: Progress) -> _Decoded:
            started = perf_counter()
            return _Decoded(model.volume(code), perf_counter() - started)

        self.decoder.ask(work)

    def _show_decoded(self, made: _Decoded) -> None:
        self.took.setText(f"{1000 * made.seconds:.0f} ms")
        self._show(made.volume)

    def _show(self, volume: NDArray[Any], title: str = STRUCTURE) -> None:
        """Put a volume beside the other layers, and keep it on the slice that the viewer shows."""
        model = self.model
        if model is None:
            return
        size = model.voxel_size_angstrom * model.box
        facts = LayerFacts(
            Role.FILM, STRUCTURE, voxel_size_angstrom=model.voxel_size_angstrom, run=model.run,
            made=f"{title}; what the model expects, not a measurement",
        )  # fmt: skip
        new = not self.shown.alive
        self.shown.show(volume, {
            "name": title, "scale": (model.voxel_size_angstrom,) * 3, "units": ("angstrom",) * 3, "axis_labels": AXES,
            "colormap": "gray", "interpolation2d": "linear", "contrast_limits": sampled_limits(volume),
            "metadata": {KEY: facts},
        })  # fmt: skip
        layer = self.shown.layer
        z = float(self.viewer.dims.point[-3])
        if new or not layer.extent.world[0][0] <= z <= layer.extent.world[1][0]:
            layer.translate = place_beside(self.viewer, size, but=layer)
        if new:
            self.viewer.reset_view()  # what lies beside all else is outside the picture
        elif self._new_levels:
            layer.contrast_limits = sampled_limits(volume)
        self._new_levels = False
        self.sections.show_volume(volume, tuple(layer.contrast_limits))

    # -- films ---------------------------------------------------------------------------------------

    def walk(self, index: int) -> None:
        """Film a walk along one of the sliders, from one end of the prior to the other."""
        directions, code, count = self._directions(), self.code, self.frames.value()
        if directions is not None and code is not None:
            self._film(directions.names[index], *directions.walk(code, index, count))

    def film_between(self) -> None:
        """Film the way from the first particle to the second."""
        if self.model is None:
            return
        first, second, count = self.particle.value(), self.other.value(), self.frames.value()
        way = f"particle {first} to {second}"
        labels = [f"{100 * step / (count - 1):.0f} % of the way from {way}" for step in range(count)]
        self._film(way, self.model.between(first, second, count), labels)

    def film_draws(self) -> None:
        """Film draws of the prior in the chosen class."""
        if self.model is None:
            return
        count, name = self.frames.value(), self.cluster.currentText()
        self._seed += 1
        codes = self.model.drawn(self.cluster.currentIndex(), count, self._seed)
        self._film(f"draws of {name}", codes, [f"draw {number} of {name}" for number in range(1, count + 1)])

    def _film(self, title: str, codes: Sequence[Code], labels: Sequence[str]) -> None:
        """Decode all frames in the background, then play them."""
        model = self.model
        if model is None:
            return
        self.bar.pause()
        self.said.emit(f"Decoding {len(codes)} volumes …")
        self.jobs.start(
            "film", lambda progress: model.film(title, codes, labels, progress), returned=self._play, failed=self.said
        )

    def _play(self, film: Film) -> None:
        self.said.emit("")
        self._new_levels = True
        self.bar.set_film(film)
        self.bar.show_frame(0)
        self.bar.play.setChecked(True)

    def _turn(self, frame: int) -> None:
        film = self.bar.film
        if film is not None:
            self._show(film.frame(frame), film.title)

    def close_down(self) -> None:
        """Stop what runs."""
        self.decoder.cancel()
        self.jobs.cancel()
        self.bar.close_down()
