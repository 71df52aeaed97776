"""Draws: centred, the same however they were come by, and their statistics those of the files."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from shrinking import VOXEL, Gain

from cryoaae.cli import run as cli
from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume, write_volume
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports import sampling_figures
from cryoaae.restoration import calibrated_draws, draw_store
from cryoaae.restoration.draw_store import DrawStore, principal_modes, root_mean_square, weighted_sum
from cryoaae.restoration.found_errors import FoundErrors, find_errors
from cryoaae.restoration.posterior import sample
from cryoaae.restoration.restore import restore
from cryoaae.restoration.tomogram_draws import SampleOptions, TomogramDraws
from cryoaae.runs.progress import NullProgress

SHAPE = (15, 18, 22)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two halves of a smooth field, offset 50, unit 3."""
    folder = tmp_path_factory.mktemp("halves")
    generator = torch.Generator().manual_seed(1)
    wedge = MissingWedge((-60.0, 60.0))
    signal = band_limit(torch.randn(SHAPE, generator=generator), 0.1, 0.15) * 5
    paths = [folder / "t_EVN.mrc", folder / "t_ODD.mrc"]
    for path in paths:
        noisy = wedge.measured(signal + 0.5 * torch.randn(SHAPE, generator=generator))
        write_volume(path, (3 * noisy + 50).numpy(), voxel_size_angstrom=VOXEL)
    return paths


def found_once(*given: Any, known: dict[Any, FoundErrors] = {}, **keywords: Any) -> FoundErrors:  # noqa: B006
    """Errors by one turn in place of three, and the same ones once; test_recalibration looks at what is found."""
    key = tuple(float(estimate.double().square().sum()) for estimate in given[1])
    if key not in known:
        known[key] = find_errors(*given, turns_deg=(45.0,), **keywords)
    return known[key]


@pytest.fixture(scope="module", autouse=True)
def less_to_do() -> Iterator[None]:
    """Figures and turns take longer than all else; tests/reports draws figures."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = dict.fromkeys(("slices", "spread", "reliability", "modes"), b"png")
        patch.setattr(sampling_figures, "sampling_figures", lambda *_: nothing)
        patch.setattr(calibrated_draws, "find_errors", found_once)
        yield


def drawn(halves: list[Path], output: Path, *, model: Any = None, **keywords: Any) -> dict[str, Any]:
    even, odd = halves
    given: dict[str, Any] = {"draws": 3, "modes": 2, "sampler": "bootstrap", "device": "cpu"}
    (result,) = sample(
        (), output, model=model or Gain(), even=even, odd=odd, tilt_range=(-60, 60), **{**given, **keywords}
    )
    return result


def pooled(squares: np.ndarray, working_bin: int = 1) -> np.ndarray:
    """Mean squares over the window of std.mrc."""
    return gaussian_filter(squares, 2.0 * working_bin, mode="reflect")


def read(folder: Path, *names: str) -> np.ndarray:
    return np.stack([open_volume(folder / f"{name}.mrc").numpy().astype(np.float64) for name in names])


@pytest.fixture(scope="module")
def whole(halves: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three draws in one go, with all their modes, as there are fewer than are written of many draws."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    drawn(halves, folder, modes=None)
    return folder


def same_volumes(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.mrc"))
    assert names and names == sorted(path.name for path in other.glob("*.mrc"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def identity_of(path: Path) -> tuple[int, int]:
    """Which file it is, and when it was last written; when it was read does not matter."""
    return path.stat().st_ino, path.stat().st_mtime_ns


NAMES = [f"draw_{n:03d}" for n in (1, 2, 3)]


@pytest.mark.parametrize("working_bin", [1, 2])
def test_std_is_that_of_the_draws_about_the_mean(working_bin: int, halves, whole, tmp_path) -> None:
    folder = whole
    if working_bin == 2:
        folder = tmp_path / "out"
        drawn(halves, folder, model=Gain(working_bin=2))
    mean, std = read(folder, "mean", "std")
    draws = read(folder, *NAMES)
    expected = pooled(((draws - mean) ** 2).mean(axis=0), working_bin)
    assert np.abs(std - np.sqrt(expected)).max() < 1e-3 * std.max()
    assert std.min() >= 0 and std.max() > 0.1


def test_the_mean_is_the_restoration_and_keeps_header_and_units(halves, whole, tmp_path) -> None:
    even, odd = halves
    restore((), tmp_path / "x.mrc", model=Gain(), even=even, odd=odd, tilt_range=(-60, 60), device="cpu")
    np.testing.assert_array_equal(read(tmp_path, "x"), read(whole, "mean"))
    for path in whole.glob("*.mrc"):
        assert open_volume(path).voxel_size_angstrom == pytest.approx(VOXEL)
        assert open_volume(path).shape == SHAPE
    assert read(whole, "mean").mean() == pytest.approx(50, abs=1)


def test_what_the_draws_have_in_common_changes_sign(whole) -> None:
    """The restorer shrinks, and so do the bootstrap's restorations; the mean of the draws must not."""
    mean = read(whole, "mean")[0]
    sizes = [float(((draw - mean) * (mean - 50)).mean()) for draw in read(whole, *NAMES)]
    assert sizes[0] < 0 < sizes[1] and sizes[2] < 0


def test_modes_are_orthogonal_and_their_squares_add_up_to_the_variance(whole) -> None:
    modes, std = read(whole, "mode_01", "mode_02", "mode_03"), read(whole, "std")[0]
    sizes = (modes**2).sum(axis=(1, 2, 3))
    for a, b in itertools.combinations(range(3), 2):
        assert abs((modes[a] * modes[b]).sum()) < 1e-4 * sizes[0]
    assert np.abs(pooled((modes**2).sum(axis=0)) - std**2).max() < 2e-3 * (std**2).max()
    shares = json.loads((whole / "report.json").read_text())["modes"]
    np.testing.assert_allclose(sizes / sizes.sum(), shares, rtol=1e-3)
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


class StopsInTheSecondDraw(NullProgress):
    """A user who stops the work."""

    folder = Path()

    def advance(self, amount: float = 1.0, **facts: Any) -> None:
        if (self.folder / "working" / "draw_001.mrc").exists():
            self.cancel()


def test_stopped_and_gone_on_it_ends_with_the_same_bits(halves, whole, tmp_path) -> None:
    told = StopsInTheSecondDraw()
    told.folder = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        drawn(halves, told.folder, modes=3, progress=told)
    first = identity_of(told.folder / "working" / "draw_001.mrc")
    assert not (told.folder / "report.json").exists() and not (told.folder / "working" / "draw_002.mrc").exists()
    drawn(halves, told.folder, modes=3)
    assert identity_of(told.folder / "working" / "draw_001.mrc") == first
    assert same_volumes(told.folder, whole)


def test_more_draws_extend_fewer_and_a_copy_elsewhere_goes_on(halves, whole, tmp_path) -> None:
    moved = [Path(shutil.copy(path, tmp_path / path.name)) for path in halves]
    out = tmp_path / "out"
    drawn(halves, out, draws=2)
    drawn(moved, out, draws=3, modes=3)
    assert same_volumes(out, whole)
    report = (out / "report.json").read_bytes()
    again = drawn(halves, out, draws=3, modes=3)
    assert json.loads(report) == again, "done already"
    # A report of draws that were calibrated in another way is made again, of the same draws.
    drawn_as = identity_of(out / "working" / "draw_001.mrc")
    (out / "report.json").write_text(report.decode().replace("spread calibration 4", "spread calibration 3"))
    assert drawn(halves, out, draws=3, modes=3)["calibration"] == again["calibration"]
    assert identity_of(out / "working" / "draw_001.mrc") == drawn_as


def test_another_seed_draws_others_and_no_draws_keeps_none(halves, whole, tmp_path) -> None:
    other = tmp_path / "out"
    drawn(halves, other, seed=1, keep_draws=False)
    assert not list(other.glob("draw_*")) and (other / "mode_02.mrc").exists()
    one, two = (read(folder / "working", "draw_001")[0].ravel() for folder in (whole, other))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.9
    np.testing.assert_array_equal(read(other, "mean"), read(whole, "mean"))


def test_without_a_wedge_an_exact_restorer_leaves_the_noise_alone(tmp_path) -> None:
    """x_b = x_hat + R^-1 n: the spread is the noise of the mean of two halves, at every place."""
    generator = torch.Generator().manual_seed(2)
    signal = band_limit(torch.randn(24, 24, 24, generator=generator), 0.1, 0.15) * 5
    paths = [tmp_path / "n_EVN.mrc", tmp_path / "n_ODD.mrc"]
    for path in paths:
        noise = band_limit(torch.randn(24, 24, 24, generator=generator), 0.2, 0.3)
        write_volume(path, (signal + 0.1 * noise).numpy(), voxel_size_angstrom=VOXEL)
    even, odd = (open_volume(path).numpy() for path in paths)
    expected = float((even - odd).std()) / 2  # sqrt(2) sigma, over 2: sigma / sqrt(2)
    sample(
        (), tmp_path / "out", model=Gain(1.0), even=paths[0], odd=paths[1], tilt_range=(-90, 90), draws=4, modes=0,
        sampler="bootstrap", device="cpu",
    )  # fmt: skip
    inner = read(tmp_path / "out", "std")[0][4:-4, 4:-4, 4:-4]
    assert np.sqrt((inner**2).mean()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("made", [root_mean_square, principal_modes, lambda d: weighted_sum(d, np.ones(len(d)))])
def test_memory_does_not_grow_with_the_draws(made: Callable[[Any], Any], tmp_path, monkeypatch) -> None:
    """Draws are read from their files a part at a time, however many there are."""
    monkeypatch.setattr(draw_store, "VALUES", 1 << 16)
    path = tmp_path / "draw.npy"
    np.save(path, np.random.default_rng(0).standard_normal((48, 64, 64), dtype=np.float32))

    def peak(count: int) -> int:
        draws = [np.load(path, mmap_mode="r") for _ in range(count)]
        tracemalloc.start()
        made(draws)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(64) < 1.3 * peak(16)


def test_what_was_stopped_between_a_file_and_its_record_goes_on(halves, whole, tmp_path) -> None:
    """Killed after the mean was put in place, before it was written what it was made from."""
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    for name in ("mean.json", "report.json"):
        (out / name).unlink()
    drawn(halves, out, modes=3)
    assert same_volumes(out, whole)


BAD = {
    "one draw": ({"draws": 1}, "--draws: 1 draws"),
    "too many": ({"draws": 1000}, "give 2 to 999"),
    "modes": ({"modes": 17}, "--modes: 17 modes of 16 draws"),
    "sampler": ({"sampler": "bootstap"}, "did you mean 'bootstrap'"),
    "turns": ({"turns": "beam"}, "any, quarter or tilt-axis"),
    "turns of another": ({"turns": "quarter"}, "--turns: the learned sampler turns nothing.*add --sampler bootstrap"),
    "seed": ({"seed": -1}, "--seed"),
    "temperature": ({"gamma": 0.0, "sampler": "langevin"}, "--gamma: a temperature of 0"),
    "temperature of another": ({"gamma": 2.0}, "--gamma: the learned sampler has none.*importance or langevin"),
    "tempered": ({"temper": "all", "sampler": "langevin"}, "give data or posterior"),
    "tempered by weights": ({"temper": "posterior", "sampler": "importance"}, "add --sampler langevin"),
    "region": ({"region": 4, "sampler": "langevin"}, "--region: 4 working voxels"),
    "structure": ({"structure": Path("run"), "sampler": "importance"}, "--structure.*add --sampler langevin"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused(name: str) -> None:
    keywords, words = BAD[name]
    with pytest.raises(InputError, match=words):
        SampleOptions(**keywords)


@pytest.mark.parametrize("sampler", ["importance", "langevin"])
def test_what_needs_two_halves_refuses_a_single_volume(sampler: str, halves: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"a single volume; the {sampler} sampler needs two halves"):
        sample(halves[0], tmp_path / "out", model=Gain(), tilt_range=(-60, 60), sampler=sampler)
    with pytest.raises(InputError, match="run"):
        drawn(halves, tmp_path / "out", sampler="langevin", structure=tmp_path / "run")
    assert not (tmp_path / "out").exists()


def test_a_temperature_other_than_one_is_a_what_if() -> None:
    """Nothing is brought to the size of errors: that would undo it."""
    item: Any = SimpleNamespace()
    draws = TomogramDraws(item, Path("x"), None, SampleOptions(gamma=2.0, sampler="importance"), {})
    assert "the temperature is 2" in str(draws.not_calibrated_because)


def test_draws_of_something_else_are_not_mixed_in(halves, whole, tmp_path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in out.rglob("*.mrc")}
    for other in ({"seed": 1}, {"model": Gain(0.6)}, {"turns": "tilt-axis"}, {"turns": "quarter"}):
        with pytest.raises(InputError, match=r"working: holds draws of other.*--overwrite"):
            drawn(halves, out, **other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "std.mrc").write_text("mine")
    with pytest.raises(InputError, match=r"std\.mrc: exists"):
        drawn(halves, tmp_path / "mine")
    for name in ("report.json", "mode_07.mrc", "draw_900.mrc"):  # of another command, or a user's own
        folder = tmp_path / name.partition(".")[0]
        (folder / "working").mkdir(parents=True)
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=rf"{name}: exists"):
            drawn(halves, folder)
        assert (folder / name).read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        drawn(halves, out / "std.mrc")
    assert before == {path.name: path.read_bytes() for path in out.rglob("*.mrc")}


# -- on the command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tiny: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Options of a tiny tomogram with a tiny restorer, and the latter's folder."""
    model = tmp_path_factory.mktemp("fitted") / "run"
    given = ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc")]
    fit = ["fit", *given, "--tilts", str(tiny / "t.tlt"), "-o", str(model), "--steps", "12", "-q", *tiny_settings]
    assert cli(fit) == 0
    return [*given, "--model", str(model), "--no-symmetries"], model


def check_of_the_calibration(told: dict[str, Any]) -> None:
    """What a calibration must say."""
    assert told["draws"] == 2 and len(told["measured"]) == 8 and len(told["wedge"]) > 10
    for cell in told["measured"] + told["wedge"]:
        low, high = cell["interval"]
        assert 0 < low < high and cell["gain"] > 0 and cell["added_power"] >= 0
    whole = told["check"]["whole"]["measured"]
    assert whole["after"] == pytest.approx(1, abs=0.25)
    places = told["places"]
    assert places["told_by"] == "draws" and places["applied"] == 1 and len(places["check"]["groups"]) == 3
    assert len(told["made_from"]["model"]) == 64 and len(told["made_from"]["inputs"]) == 2


def test_calibrating_can_be_left_out_and_done_later_with_the_same_draws(fitted, tmp_path, capsys) -> None:
    given, _ = fitted
    out = tmp_path / "out"
    command = ["sample", *given, "-o", str(out), "--draws", "2", "--modes", "2", "-q"]
    assert cli([*command, "--no-calibrate"]) == 0
    drawn_as, std, mean = identity_of(out / "working" / "draw_001.mrc"), read(out, "std"), read(out, "mean")
    told = json.loads((out / "report.json").read_text())
    assert told["calibrated"] is False and told["calibration"]["why"] == "it was not asked for"
    assert "not calibrated: it was not asked for" in (out / "report.html").read_text()
    assert not (out / "working" / "errors.json").exists() and not (out / "working" / "calibrated").exists()
    assert cli(command) == 0
    assert identity_of(out / "working" / "draw_001.mrc") == drawn_as
    np.testing.assert_array_equal(read(out, "mean"), mean)
    assert np.abs(read(out, "std") / std - 1).max() > 0.05
    # Draws, spread and modes are those of the calibrated draws.
    draws, modes = read(out, "draw_001", "draw_002"), read(out, "mode_01", "mode_02")
    variance = read(out, "std")[0] ** 2
    np.testing.assert_allclose(pooled(((draws - mean) ** 2).mean(axis=0)), variance, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(pooled((modes**2).sum(axis=0)), variance, rtol=3e-3, atol=2e-3)
    # What was found is not looked for again, unless it cannot be read; and back again all is as it was.
    found = (out / "working" / "errors.json").stat().st_mtime_ns
    assert cli([*command, "--no-draws"]) == 0 and not list(out.glob("draw_*"))
    assert (out / "working" / "errors.json").stat().st_mtime_ns == found
    told = (out / "calibration.json").read_bytes()
    (out / "working" / "errors.json").write_text("{")
    assert cli(command) == 0 and (out / "calibration.json").read_bytes() == told
    assert cli([*command, "--no-calibrate"]) == 0
    np.testing.assert_array_equal(read(out, "std"), std)
    capsys.readouterr()


def test_stopped_while_calibrating_it_goes_on_and_ends_with_the_same_bits(fitted, tiny, tmp_path) -> None:
    _, model = fitted
    halves_of_tiny = {"even": tiny / "t_EVN.mrc", "odd": tiny / "t_ODD.mrc"}
    given: dict[str, Any] = {
        "model": model, "tilts": tiny / "t.tlt", "draws": 2, "modes": 1, "device": "cpu", "symmetries": False,
        "sampler": "bootstrap",
    }  # fmt: skip
    sample((), tmp_path / "whole", **halves_of_tiny, **given)
    for name in ("errors.json", "calibrated/draw_001.mrc"):
        folder = tmp_path / Path(name).stem
        with pytest.raises(InterruptedRunError):
            sample((), folder, **halves_of_tiny, **given, progress=StopsOnce(folder / "working" / name))
        assert (folder / "working" / name).exists() and not (folder / "report.json").exists()
        sample((), folder, **halves_of_tiny, **given)
        assert same_volumes(folder, tmp_path / "whole")
        told = [json.loads((f / "calibration.json").read_text()) for f in (folder, tmp_path / "whole")]
        assert told[0] == told[1]
    whole, places = told[1]["check"]["whole"]["measured"], told[1]["places"]
    assert abs(math.log(whole["after"])) < abs(math.log(whole["before"]))
    assert 0 <= places["applied"] <= 1 and len(places["told_by"]) == 16


class StopsOnce(NullProgress):
    """A user who stops the work once a file stands."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def check(self) -> None:
        if self.path.exists():
            self.cancel()
        super().check()


def test_a_single_volume_is_not_calibrated_and_says_why(fitted, tiny, tmp_path, capsys) -> None:
    _, model = fitted
    given = [str(tiny / "t_EVN.mrc"), "--tilts", str(tiny / "t.tlt"), "--model", str(model), "--no-symmetries"]
    command = ["sample", *given, "-o", str(tmp_path / "out"), "--draws", "2", "--modes", "0", "--json"]
    assert cli(command) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["calibrated"] is False and "second half" in told["calibration"]["why"]
    assert "not calibrated: a single volume" in (tmp_path / "out" / "report.html").read_text()
    assert "second half" in json.loads((tmp_path / "out" / "calibration.json").read_text())["why"]


def test_one_too_thin_is_not_calibrated(whole) -> None:
    told = json.loads((whole / "report.json").read_text())
    assert told["calibrated"] is False and "too thin" in told["calibration"]["why"]


def test_the_commands_on_a_tiny_tomogram(fitted, tmp_path, capsys) -> None:
    given, _ = fitted
    out, beside = tmp_path / "out", tmp_path / "x.mrc"
    assert cli(["sample", *given, "-o", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "16 draws by learned" in said and "GB of memory" in said and not out.exists()
    assert cli(["sample", *given, "-o", str(out), "--draws", "2", "--modes", "1", "-q"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["calibrated"] is True
    regions = report["regions"]
    assert 0.1 < regions["measured"]["over_restoration"] < regions["wedge"]["over_restoration"]
    html = (out / "report.html").read_text()
    assert "size of this spread is calibrated" in html and html.count("data:image/png") == 4
    assert json.loads((out / "calibration.json").read_text()) == report["calibration"]
    check_of_the_calibration(report["calibration"])
    # The spread beside a restoration is that of the same draws, and what was needed for it is gone.
    restored = ["restore", *given, "-o", str(beside), "--uncertainty", "--draws", "2", "-q"]
    assert cli(restored) == 0
    np.testing.assert_array_equal(read(tmp_path, "x_std"), read(out, "std"))
    np.testing.assert_array_equal(read(tmp_path, "x"), read(out, "mean"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.json", "x.mrc", "x_std.json", "x_std.mrc"]
    written = (tmp_path / "x_std.mrc").stat().st_mtime_ns
    assert cli(restored) == 0 and (tmp_path / "x_std.mrc").stat().st_mtime_ns == written
    # Stopped before what it was made from stood beside it, or before the draws were removed.
    draws = tmp_path / "x_std.draws"
    record = json.loads((tmp_path / "x_std.json").read_text())
    assert record["calibration"]["measured"] == report["calibration"]["measured"]
    store = DrawStore(draws, record["made_from"])
    store.open(10.0, overwrite=False)
    assert cli(restored) == 0 and not draws.exists()
    assert cli([*restored, "--seed", "1"]) == 2
    assert cli([*restored, "--no-calibrate"]) == 2  # another spread stands there
    assert cli(["restore", *given, "-o", str(beside), "--no-calibrate", "-q"]) == 2
    assert cli([*restored, "--keep-measured", "--overwrite"]) == 2
    assert cli(["restore", *given, "-o", str(beside), "--draws", "2", "-q"]) == 2
    capsys.readouterr()
