"""What `fit` refuses, it refuses before a folder is made; and what it is not to be shown, it is not shown."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoaae.cli import run as cli
from cryoaae.errors import InputError
from cryoaae.fitting.session import Session, prepare, shown_wedge
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.project import Tomogram
from cryoaae.models.restorer import Restorer
from cryoaae.patches.pairs import BlockRecipe, PairBatch
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.fit import fit
from cryoaae.volume import Volume


def old_run(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("fault", ["empty half", "no such weights to start from"])
def test_a_refused_fit_leaves_the_old_run_and_no_new_one(fault: str, tiny: Path, tmp_path: Path) -> None:
    before = old_run(tmp_path / "old")
    even, init = tiny / "t_EVN.mrc", None
    if fault == "empty half":
        even = tmp_path / "t_EVN.mrc"
        even.write_bytes(b"")
    else:
        init = tmp_path / "nowhere"
    given = {"even": even, "odd": tiny / "t_ODD.mrc", "tilt_range": (-60, 60), "init": init}
    with pytest.raises(InputError, match="0 bytes|nowhere"):
        fit([], tmp_path / "old", settings=FitSettings(steps=1), overwrite=True, **given)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    with pytest.raises(InputError):
        fit([], tmp_path / "new", settings=FitSettings(steps=1), **given)
    assert not (tmp_path / "new").exists()


# -- tilts that are hidden from fitting ---------------------------------------------------------------

Change = Callable[[Tensor], Tensor]
HIDDEN_DEG = 20.0
SHAPE = (36, 40, 44)
SMALL = FitSettings.from_spectrum(
    patch_size=16, block_size=36, blocks=2, widths=(4, 8), working_bin=1, batch_size=4, hold_out_deg=HIDDEN_DEG
)
SERIES = {
    "halves": MissingWedge((-60.0, 60.0)),
    "asymmetric": MissingWedge.from_tilts(range(-40, 61, 2), flipped=True),
    "lower end": MissingWedge((-60.0, 40.0), tilt_axis_deg=90.0),
    "single": MissingWedge((-50.0, 60.0), tilt_axis_deg=20.0),
}
FILLED = ("halves", "single")  # filling the wedge takes long


def louder(spectrum: Tensor) -> Tensor:
    return 5 * spectrum


def other(spectrum: Tensor) -> Tensor:
    return 2 * rfft(torch.randn(SHAPE, generator=torch.Generator().manual_seed(77))).to(spectrum)


@functools.cache
def prepared(series: str, change: Change | None, hold_out_deg: float = HIDDEN_DEG) -> Session:
    """A fit on volumes of which what the last tilts measured is changed, before its first step."""
    wedge = SERIES[series]
    hidden = wedge.solid().support(SHAPE) & ~shown_wedge("t", wedge, HIDDEN_DEG).solid().support(SHAPE)
    generator = torch.Generator().manual_seed(3)
    truth = 2 * band_limit(torch.randn(SHAPE, generator=generator), 0.1, 0.2)
    volumes = []
    for _ in range(1 if series == "single" else 2):
        spectrum = rfft(wedge.measured(truth + torch.randn(SHAPE, generator=generator)))
        if change is not None:
            spectrum = torch.where(hidden, change(spectrum), spectrum)
        volumes.append(Volume((100 + irfft(spectrum, SHAPE)).numpy(), 10.0))
    pair = (volumes[0], volumes[1], None) if len(volumes) == 2 else (None, None, volumes[0])
    settings = dataclasses.replace(SMALL, hold_out_deg=hold_out_deg)
    tomogram = Tomogram("t", *pair, wedge)
    return prepare([tomogram], settings, device=torch.device("cpu"), scratch=Path("unused"), init=None)


@functools.cache
def batches(series: str, change: Change | None, hold_out_deg: float = HIDDEN_DEG) -> list[PairBatch]:
    """Drawn patches, and those of both halves turned alike, before and after the wedge is filled."""
    session = prepared(series, change, hold_out_deg)
    pool = session.feed.pool
    pool.generator.manual_seed(8)
    pool.pool = [pool._make(pool._draw()) for _ in range(3)]
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(4))[0]
    recipes = [BlockRecipe(0, (18.0, 20.0, 22.0), rotation, 9, half) for half in (0, 1)]
    found = [pool.batch(4, margin=8), *(pool.centre_patch(recipe) for recipe in recipes)]
    if series in FILLED and hold_out_deg:
        restorer = session.restorer.eval()
        pool.refill(restorer, multiple=restorer.multiple, seed=1)
        found += [pool.centre_patch(recipe) for recipe in recipes]
    return found


def difference(one: list[PairBatch], two: list[PairBatch], name: str) -> float:
    """Largest change of a field over its own size, but for one factor: its units are set by all tilts together."""
    fields = [[getattr(batch, name) for batch in drawn] for drawn in (one, two)]
    a, b = (torch.cat([v.flatten() for v in values]) for values in fields)
    factor = float(a @ b / (a @ a))
    return max(float((y - factor * x).norm() / (factor * x).norm()) for x, y in zip(*fields, strict=True))


@pytest.mark.parametrize(("series", "replacement"), [*((name, louder) for name in SERIES), ("halves", other)])
def test_nothing_that_fitting_draws_depends_on_tilts_that_are_hidden(series: str, replacement: Change) -> None:
    session, changed = prepared(series, None), prepared(series, replacement)
    one, two = batches(series, None), batches(series, replacement)
    assert difference(one, two, "inputs") < 2e-4
    assert difference(one, two, "targets") < 2e-4
    for name in ("seen", "kept", "weight", "held_out_weight"):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in zip(one, two, strict=True))
    torch.testing.assert_close(session.spectra[0].fsc, changed.spectra[0].fsc, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("series", ["halves", "single"])
def test_what_is_not_hidden_does_change_what_fitting_draws(series: str) -> None:
    one, two = (batches(series, replaced, 0.0) for replaced in (None, louder))
    for name in ("inputs", "targets"):
        assert difference(one, two, name) > 0.2


def test_a_fit_compares_no_target_where_its_tilts_are_hidden() -> None:
    shown = shown_wedge("t", SERIES["halves"], HIDDEN_DEG)
    session = prepared("halves", None)
    assert session.feed.pool.sources[0].wedge == shown
    recipe = BlockRecipe(0, (18.0, 20.0, 22.0), torch.eye(3))
    batch = session.feed.pool.centre_patch(recipe)
    depth = shown.depth((16, 16, 16))
    assert batch.seen.any() and not batch.seen[0, 0][depth > 0].any()
    assert not batch.kept[0, 0][depth > 1].any()


@pytest.mark.parametrize(
    ("wedge", "expected"),
    [
        (MissingWedge((-60.0, 60.0)), (-60.0, 40.0)),
        (MissingWedge((-40.0, 60.0)), (-40.0, 40.0)),
        (MissingWedge((-60.0, 40.0)), (-40.0, 40.0)),
        (MissingWedge((-20.0, 20.0)), (-20.0, 0.0)),
        (MissingWedge.from_tilts([-50, -20, 0, 30, 41, 60], flipped=True), (-50.0, 40.0)),
    ],
)
def test_the_further_end_of_a_tilt_series_is_hidden(wedge: MissingWedge, expected: tuple[float, float]) -> None:
    shown = shown_wedge("t", wedge, HIDDEN_DEG)
    assert shown.tilt_range_deg == expected
    assert (shown.flipped, shown.tilt_axis_deg) == (wedge.flipped, wedge.tilt_axis_deg)
    if wedge.tilts_deg is not None:
        assert shown.tilts_deg == (-50, -20, 0, 30)
    assert shown_wedge("t", wedge, 0.0) == wedge
    with pytest.raises(InputError, match="of tilts would be hidden from fitting; give a smaller --hold-out-deg"):
        shown_wedge("t", wedge, (wedge.tilt_range_deg[1] - wedge.tilt_range_deg[0]) / 2 + 0.1)


def test_the_run_says_what_was_hidden_and_a_fit_on_all_says_nothing(tiny: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, steps=2, refills=0, presence=False)
    given = {"even": tiny / "t_EVN.mrc", "odd": tiny / "t_ODD.mrc", "tilt_range": (-40, 60)}
    for hidden, expected in ((HIDDEN_DEG, [-40.0, 40.0]), (0.0, None)):
        folder = fit([], tmp_path / f"{hidden:g}", settings=dataclasses.replace(settings, hold_out_deg=hidden), **given)
        facts = Restorer.load(folder).spec.tomograms[0]
        assert facts.get("fitted_range_deg") == expected
        assert facts["tilt_range_deg"] == [-40.0, 60.0]


@pytest.mark.parametrize(("degrees", "dry"), [("25", False), ("25", True), ("46", False), ("-1", False), ("x", False)])
def test_too_large_a_strip_is_refused_in_one_line(
    degrees: str, dry: bool, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc"), "--tilt-range", "-24", "24"]
    more = ["--dry-run"] if dry else ["-q"]
    assert cli(["fit", *given, "-o", str(tmp_path / "run"), "--steps", "1", "--hold-out-deg", degrees, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert "hold" in said and "Traceback" not in said
    if degrees == "25":
        assert len(said.splitlines()) == 1 and "25 of 48 degrees" in said
    assert not (tmp_path / "run").exists()
