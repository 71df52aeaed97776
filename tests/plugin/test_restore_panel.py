"""The Restore panel without a window: what it takes from the layers, what it says, what it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge, facts_of

pytestmark = pytest.mark.gui
SHAPE = (12, 14, 16)
Wait = Callable[..., None]


def test_restore_panel_fills_itself_in_from_a_run(model: Any, restore_panel: Any, restored: Any, add: Any) -> None:
    panel = restore_panel(model)
    assert "Open a tomogram" in panel.message.text()
    add(model, restored.run)
    request = panel.form.request()
    assert (request.model, request.first, request.odd) == (restored.run, restored.even, restored.odd)
    assert request.output == restored.even.with_name("t_restored.mrc")
    assert (request.wedge, request.voxel_size_angstrom) == (None, None)
    assert "fitted on t at 10 Å" in panel.form.about.text()
    assert panel.form.first.count() == 2  # restorations are not offered


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("model", "", "none chosen"),
        ("model", "/nowhere", "no such file"),
        ("output", "/nowhere/x.mrc", "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_the_panel(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, field: str, value: str, problem: str, add: Any
) -> None:
    add(model, restored.run)
    panel = restore_panel(model)
    getattr(panel.form, field).setText(value)
    panel.restore()
    wait_until(lambda: panel.job is None)
    assert problem in panel.message.text()
    assert panel.restore_button.isEnabled()


def test_missing_gpu_is_said_in_the_panel(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, add: Any
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    add(model, restored.run)
    panel = restore_panel(model)
    panel.form.device.setCurrentText("cuda")
    panel.check()
    wait_until(lambda: panel.job is None)
    assert "no GPU is usable here" in panel.message.text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("a.mrc", "is bad", "mend it"), "a.mrc: is bad; mend it"),
        (ImportError("x", name="torch"), "torch cannot be loaded; install it"),
        (MemoryError(), "not enough memory"),
        (OSError(28, "No space left on device"), "No space left"),
        (ZeroDivisionError("division by zero"), "A bug of ours: ZeroDivisionError"),
    ],
)
def test_every_error_is_a_sentence(error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    from napari_cryoaae.jobs import sentence

    assert said in sentence(error)
    assert bool(caplog.records) == isinstance(error, ZeroDivisionError)  # a traceback for bugs alone


def test_tilts_that_nobody_stated_are_asked_for(
    model: Any, restore_panel: Any, restored: Any, tmp_path: Path, add: Any
) -> None:
    for path in (restored.even, restored.odd):
        add(model, Path(shutil.copy(path, tmp_path)))
    panel = restore_panel(model)
    panel.form.use(restored.run)
    panel.form.known.setChecked(False)
    with pytest.raises(InputError, match="tilts: not stated"):
        panel.form.request()
    (tmp_path / "bad.tlt").write_text("x\n")
    panel.form.wedge.read_file(tmp_path / "bad.tlt")
    assert "line 1" in panel.message.text()
    (tmp_path / "good.tlt").write_text("-30\n0\n33\n")
    panel.form.wedge.read_file(tmp_path / "good.tlt")
    panel.form.wedge.axis.setValue(5.0)
    assert panel.form.request().wedge == StatedWedge((-30.0, 33.0), (-30.0, 0.0, 33.0), 5.0)
    panel.form.wedge.high.setValue(40.0)
    assert panel.form.request().wedge == StatedWedge((-30.0, 40.0), None, 5.0)


def test_tilts_that_a_record_states_follow_the_input_until_the_user_states_others(
    model: Any, restore_panel: Any, restored: Any, add: Any
) -> None:
    add(model, restored.run)
    panel = restore_panel(model)
    panel.form.known.setChecked(False)
    stated = facts_of(model.layers["t_EVN"]).wedge
    assert panel.form.request().wedge == stated is not None
    other = LayerFacts(Role.INPUT, "u", restored.output, 10.0, StatedWedge((-40.0, 30.0)))
    model.add_image(np.zeros(SHAPE), name="u", contrast_limits=(0, 1), metadata={KEY: other})
    panel.form.first.setCurrentText("u")
    assert panel.form.request().wedge == StatedWedge((-40.0, 30.0))
    panel.form.wedge.high.setValue(45.0)
    panel.form.first.setCurrentText("t_EVN")
    assert panel.form.request().wedge == StatedWedge((-40.0, 45.0))


def test_check_says_what_it_takes_and_writes_nothing(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, tmp_path: Path, add: Any
) -> None:
    add(model, restored.run)
    panel = restore_panel(model)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.check()
    assert not panel.check_button.isEnabled()
    wait_until(lambda: panel.job is None)
    assert "44 x 48 x 46 voxels" in panel.message.text()
    assert "GB of memory are free" in panel.message.text()
    assert not list(tmp_path.iterdir())


def test_restoring_adds_the_layer_that_the_library_writes(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, tmp_path: Path, add: Any
) -> None:
    from cryoaae.io.mrc import open_volume
    from cryoaae.models.restorer import Restorer
    from cryoaae.restoration.restore import restore_array

    add(model, restored.run)
    panel = restore_panel(model)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.form.symmetries.setChecked(False)
    panel.form.device.setCurrentText("cpu")
    panel.restore()
    panel.restore()  # a second click
    wait_until(lambda: panel.job is None)
    layer = model.layers["x"]
    even, odd = (open_volume(path).numpy() for path in (restored.even, restored.odd))
    expected = restore_array(
        even, odd, Restorer.load(restored.run), voxel_size_angstrom=10.0, device="cpu"
    )
    assert np.abs(layer.data - expected).max() < 1e-3 * expected.std()
    facts = layer.metadata[KEY]
    assert (facts.role, facts.run, facts.record) == (Role.RESTORED, restored.run, tmp_path / "x.json")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["x.json", "x.mrc"]
    panel.restore()
    wait_until(lambda: panel.job is None)
    assert "Made before from the same" in panel.message.text()
    assert sum(layer.metadata[KEY].source == tmp_path / "x.mrc" for layer in model.layers) == 1


@pytest.mark.parametrize("way", ["button", "layer removed", "panel closed"])
def test_restoration_is_cancelled_and_leaves_nothing(
    model: Any, restore_panel: Any, restored: Any, held: Any, wait_until: Wait, tmp_path: Path, way: str, add: Any
) -> None:
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    add(model, restored.run)
    before = [layer.name for layer in model.layers]
    panel = restore_panel(model)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.restore()
    wait_until(held.started.is_set)
    job = panel.job
    if way == "button":
        panel.cancel_button.click()
    elif way == "layer removed":
        model.layers.remove("t_ODD")
        before.remove("t_ODD")
    else:
        panel.deleteLater()
        del panel  # as nobody but the window owns it
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        assert job.progress.cancelled()
    held.go.set()
    job.join(60)
    if way != "panel closed":
        wait_until(lambda: panel.job is None)
        assert "Stopped" in panel.message.text()
    assert [layer.name for layer in model.layers] == before
    assert not list(tmp_path.iterdir())
