"""Films without Qt: what frames hold, what is written of them, and the draws of the sample that the plugin brings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume, peek_header, write_volume
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.draw_playback import REACH, SWING_FRAMES, PosteriorDraws, glow_limits
from napari_cryoaae.film import Film, WeightedVolume, write_series
from napari_cryoaae.film_export import write_film
from napari_cryoaae.sample_data import SAMPLE

SHAPE = (4, 6, 5)
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


def volumes(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)


def film(frames: Any, **more: Any) -> Film:
    return Film("a film", tuple(f"frame {i}" for i in range(len(frames))), frames.__getitem__, **more)


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sample's folder of draws."""
    return Path(shutil.copytree(SAMPLE / "draws", tmp_path_factory.mktemp("films") / "draws"))


@pytest.mark.parametrize(
    "key", [2, np.s_[1:3], np.s_[:, 2, :], np.s_[..., 4], np.s_[::2, 1:4, ::-1], (0, 1, 2)], ids=str
)
def test_any_piece_of_a_weighted_volume_is_the_piece_of_the_sum(key: Any) -> None:
    one, other = (100 * volumes(2)).astype(np.int8)
    summed = WeightedVolume((1.0, one), (-0.5, other))
    whole = one.astype(np.float32) - 0.5 * other.astype(np.float32)
    assert np.array_equal(summed[key], whole[key])
    assert np.array_equal(np.asarray(summed), whole)
    assert summed.shape == SHAPE


# -- files --------------------------------------------------------------------------------------


def test_a_series_holds_every_frame_under_the_header_of_its_source(tmp_path: Path) -> None:
    frames = volumes()
    write_volume(tmp_path / "like.mrc", frames[0], voxel_size_angstrom=7.5, label="of the source")
    paths = write_series(film(frames, like=tmp_path / "like.mrc"), tmp_path / "x.mrc", NullProgress())
    assert [path.name for path in paths] == ["x_001.mrc", "x_002.mrc", "x_003.mrc"]
    for path, frame in zip(paths, frames, strict=True):
        written = open_volume(path)
        assert np.array_equal(written.data, frame)
        assert written.voxel_size_angstrom == pytest.approx(7.5)
        labels = " ".join(peek_header(path).labels)
        assert "of the source" in labels
        assert f"frame {paths.index(path)}" in labels


def test_a_series_takes_the_films_voxel_size_and_never_replaces_a_file(tmp_path: Path) -> None:
    made = film(volumes(), voxel_size_angstrom=16.0)
    (tmp_path / "x_002.mrc").write_text("mine")
    with pytest.raises(InputError, match=r"x_002\.mrc.*exists"):
        write_series(made, tmp_path / "x.mrc", NullProgress())
    assert [path.name for path in tmp_path.iterdir()] == ["x_002.mrc"]
    (first, *_) = write_series(made, tmp_path / "y", NullProgress())
    assert open_volume(first).voxel_size_angstrom == pytest.approx(16.0)


def test_a_stopped_series_leaves_whole_files(tmp_path: Path) -> None:
    told = NullProgress()
    told.cancel()
    with pytest.raises(InterruptedRunError):
        write_series(film(volumes(), voxel_size_angstrom=16.0), tmp_path / "x.mrc", told)
    assert np.array_equal(open_volume(tmp_path / "x_001.mrc").data, volumes()[0])
    assert len(list(tmp_path.iterdir())) == 1


def pictures(height: int = 21, width: int = 33) -> list[np.ndarray]:
    return [np.full((height, width, 3), colour, np.uint8) for colour in COLOURS]


@pytest.mark.parametrize(("rate", "milliseconds"), [(10.0, 100), (8.0, 120), (100.0, 20), (0.5, 2000)])
def test_a_gif_shows_its_pictures_in_order_at_its_rate_for_ever(tmp_path: Path, rate: float, milliseconds: int) -> None:
    from PIL import Image, ImageSequence

    write_film(tmp_path / "x.gif", pictures(), rate)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.info["loop"] == 0
        shown = [(frame.info["duration"], np.array(frame.convert("RGB"))) for frame in ImageSequence.Iterator(gif)]
    assert [duration for duration, _ in shown] == [milliseconds] * 3
    for (_, frame), picture in zip(shown, pictures(), strict=True):
        assert frame.shape == picture.shape
        assert np.abs(frame.astype(int) - picture).max() <= 8


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the reader's, which is here alone
def test_an_mp4_shows_its_pictures_in_order_at_its_rate(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra gui is not installed")
    write_film(tmp_path / "x.mp4", [p for p in pictures(121, 133) for _ in range(4)], 5.0)
    reader = ffmpeg.read_frames(str(tmp_path / "x.mp4"))
    facts = next(reader)
    shown = [np.frombuffer(frame, np.uint8).reshape(-1, 3) for frame in reader]
    assert facts["fps"] == 5.0
    assert facts["size"] == (132, 120)  # even edges
    assert len(shown) == 12
    for frame, colour in zip(shown[1::4], COLOURS, strict=True):
        assert np.abs(frame.mean(axis=0) - colour).max() < 30
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("x.avi", "is no film"), ("x", "is no film"), ("nowhere/x.gif", "no such folder"), ("x.mp4", "imageio-ffmpeg")],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    tmp_path: Path, name: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari_cryoaae.film_export as export

    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=problem):
        write_film(tmp_path / name, pictures(), 5.0)
    assert not list(tmp_path.iterdir())


def test_an_mp4_without_its_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels for rare machines come without the program."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra gui is not installed")

    def nowhere() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(ffmpeg, "get_ffmpeg_exe", nowhere)
    with pytest.raises(InputError, match="install ffmpeg"):
        write_film(tmp_path / "x.mp4", pictures(), 5.0)
    assert not list(tmp_path.iterdir())


# -- draws --------------------------------------------------------------------------------------


def test_the_draws_of_a_folder_are_its_files_in_their_order(draws: Path) -> None:
    found = PosteriorDraws.of(draws)
    made = found.draw_film()
    files = sorted(draws.glob("draw_*.mrc"))
    assert len(made) == len(files) >= 2
    assert made.labels[-1] == f"draw {len(files)} of {len(files)}"
    for index, path in enumerate(files):
        assert np.array_equal(made.frame(index), open_volume(path).data)
    assert found.name == "TS_01"
    assert found.shares == json.loads((draws / "report.json").read_text())["modes"]


def test_a_swing_starts_at_the_mean_and_reaches_as_far_on_both_sides(draws: Path) -> None:
    found = PosteriorDraws.of(draws)
    made = found.mode_film(1)
    assert len(made) == SWING_FRAMES
    mean, mode = (open_volume(draws / name).data.astype(np.float32) for name in ("mean.mrc", "mode_02.mrc"))
    quarter = SWING_FRAMES // 4
    assert np.array_equal(made.frame(0)[...], mean)
    for frame, place in ((quarter, REACH), (3 * quarter, -REACH)):
        assert np.allclose(made.frame(frame)[...], mean + place * mode, atol=1e-3)
        assert f"{place:+.1f} standard deviations" in made.labels[frame]
    across = [float(np.vdot(made.frame(i)[...] - mean, mode)) for i in range(SWING_FRAMES)]
    assert np.argmax(across) == quarter
    assert np.argmin(across) == 3 * quarter


def test_the_spread_beside_a_restoration_has_no_draws_but_is_found_from_either_file(
    draws: Path, tmp_path: Path
) -> None:
    """As `restore --uncertainty` leaves it."""
    for name, own in (("mean.mrc", "x.mrc"), ("std.mrc", "x_std.mrc")):
        shutil.copy(draws / name, tmp_path / own)
    restoration = json.loads((draws / "mean.json").read_text()) | {"outputs": ["x.mrc"]}
    (tmp_path / "x.json").write_text(json.dumps(restoration))
    report = json.loads((draws / "report.json").read_text())
    record = {"format": report["format"], "made_from": report["made_from"], "draws": 4}
    (tmp_path / "x_std.json").write_text(json.dumps(record))
    for name in ("x.mrc", "x_std.mrc", "x_std.json"):
        found = PosteriorDraws.of(tmp_path / name)
        assert (found.std, found.mean) == (tmp_path / "x_std.mrc", tmp_path / "x.mrc")
        assert (found.draws, found.modes, found.shares) == ((), (), [])


def test_a_spread_glows_above_its_median_only() -> None:
    spread = np.random.default_rng(1).exponential(size=(8, 40, 40))
    low, high = glow_limits(spread)
    assert (spread < low).mean() == pytest.approx(0.5, abs=0.02)
    assert (spread > high).mean() == pytest.approx(0.005, abs=0.005)
    low, high = glow_limits(np.zeros((4, 4, 4)))  # no spread at all
    assert low < high


def test_what_is_gone_or_never_was_is_said(draws: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing that cryoaae sample wrote"):
        PosteriorDraws.of(tmp_path)
    with pytest.raises(InputError, match="nothing that cryoaae sample wrote"):
        PosteriorDraws.of(SAMPLE / "TS_01_restored.mrc")
    whole = Path(shutil.copytree(draws, tmp_path / "many" / "TS_09"))
    with pytest.raises(InputError, match="one tomogram: TS_09"):
        PosteriorDraws.of(tmp_path / "many")
    (whole / "mean.mrc").unlink()
    (whole / "draw_002.mrc").unlink()
    found = PosteriorDraws.of(whole)
    assert "draw_002.mrc" not in {path.name for path in found.draws}
    with pytest.raises(InputError, match="its mean is gone"):
        found.mode_film(0)
    (whole / "std.mrc").unlink()
    with pytest.raises(InputError, match="its spread is gone"):
        PosteriorDraws.of(whole)
