"""The page holds what it was given, decodes to it, and needs nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from cryoaae.reports.latent_marks import CLASS_COLOURS
from cryoaae.reports.latent_packing import CURVE_POINTS, FIELD_SIDE
from cryoaae.reports.latent_page import LatentFrame, LatentHistory, latent_page, timeline


def history(count: int = 4, n: int = 30, side: int = 0, seed: int = 0, **changes) -> LatentHistory:
    rng = np.random.default_rng(seed)
    fields = [rng.random((side, side)) if side else None for _ in range(count)]
    given = LatentHistory(
        title="AAE",
        frames=[LatentFrame(100 * i, rng.normal(size=(n, 2)), field) for i, field in enumerate(fields)],
        labels=np.arange(n) % 10,
        prior=rng.normal(size=(20, 2)),
        extent=4.0,
        curves={"discriminator accuracy": ([0, 100, 300], [0.9, 0.7, 0.5]), "unbiased MMD": ([0, 300], [0.1, 0.001])},
        references={"discriminator accuracy": 0.5},
        note="a note",
    )
    return replace(given, **changes)


def page(*histories: LatentHistory, **more) -> str:
    return latent_page(histories or [history()], title="Codes", **more)


class Elements(HTMLParser):
    """Elements by name, each with its attributes; texts; and what is still open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def embedded(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))


def integers(text: str, kind: str = "<i2") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def decoded(text: str, run: dict, packing: dict) -> tuple[np.ndarray, np.ndarray]:
    """Codes (..., 2) of a run as drawn, clamped to the edge, and which coordinates lie beyond it."""
    q = integers(text).astype(np.float64).reshape(-1, 2)
    beyond = np.abs(q) == packing["beyond"]
    codes = np.where(beyond, np.sign(q), q / packing["scale"]) * run["extent"]
    return np.where(q == packing["missing"], np.nan, codes), beyond


def drawn_codes(text: str, r: int = 0) -> tuple[np.ndarray, np.ndarray]:
    data = embedded(text)
    run = data["runs"][r]
    codes, beyond = decoded(run["codes"], run, data["packing"])
    shape = (len(run["steps"]), -1, 2)
    return codes.reshape(shape), beyond.reshape(shape)


def test_codes_come_back_within_half_a_step():
    given = history(5, n=200, extent=6.0)
    codes, beyond = drawn_codes(page(given))
    truth = np.stack([frame.codes for frame in given.frames])
    assert not beyond.any()
    assert np.abs(codes - truth).max() <= 6.0 / 32000 / 2 + 1e-12


def test_codes_beyond_the_plane_are_clamped_and_told_apart():
    extent = 4.0
    given = np.array([[9.0, 1.0], [-1.0, -4.1], [4.0, -4.0], [np.inf, -1e30], [0.0, 0.0]])
    text = page(history(labels=np.zeros(5, int), frames=[LatentFrame(0, given)]))
    codes, beyond = drawn_codes(text)
    assert beyond[0].tolist() == [[True, False], [False, True], [False, False], [True, True], [False, False]]
    assert np.allclose(codes[0], np.clip(given, -extent, extent), atol=1e-4)
    assert "lies beyond the plane" in text
    assert "lies beyond the plane" not in page(history(extent=50.0))


def test_codes_that_are_not_numbers_have_no_place():
    given = np.array([[np.nan, 1.0], [1.0, np.nan], [1.0, 2.0]])
    codes, beyond = drawn_codes(page(history(labels=np.zeros(3, int), frames=[LatentFrame(0, given)])))
    assert np.isnan(codes[0]).tolist() == [[True, True], [True, True], [False, False]]
    assert not beyond.any()


def test_draws_of_the_prior_beyond_the_plane_are_left_out():
    prior = np.array([[0.5, -0.5], [30.0, 0.0], [-1.0, 2.0]])
    data = embedded(page(history(prior=prior)))
    codes, _ = decoded(data["runs"][0]["prior"], data["runs"][0], data["packing"])
    assert np.isnan(codes[1]).all()
    assert np.allclose(codes[[0, 2]], prior[[0, 2]], atol=1e-4)


def test_classes_are_those_of_all_runs():
    text = page(history(labels=np.repeat([3, -1], 15)), history(labels=np.repeat([12, 3], 15)), class_names=["a"] * 4)
    data = embedded(text)
    assert [one["name"] for one in data["classes"]] == ["unlabelled", "a", "12"]
    assert [one["colour"] for one in data["classes"]] == ["", CLASS_COLOURS[3], CLASS_COLOURS[2]]
    assert [one["shape"] for one in data["classes"]] == [-1, 0, 1]
    assert [integers(run["labels"])[[0, -1]].tolist() for run in data["runs"]] == [[1, 0], [2, 1]]
    assert not data["linked"]
    assert embedded(page(history(), history(seed=1)))["linked"]
    boxes = [one for one in Elements(text).of("input") if one["type"] == "checkbox"]
    assert [one["data-class"] for one in boxes] == ["0", "1", "2"]


def probabilities(text: str) -> np.ndarray:
    data = embedded(text)
    run, even = data["runs"][0], data["packing"]["even"]
    level = integers(run["fields"], "u1").astype(np.float64)
    root = (level - even) / even
    p = np.where(level == data["packing"]["hole"], np.nan, 0.5 + 0.5 * root * np.abs(root))
    return p.reshape(-1, run["side"], run["side"])


def test_the_discriminators_field_comes_back_finest_where_its_line_is():
    given = history(side=12)
    p, truth = probabilities(page(given)), np.stack([frame.boundary for frame in given.frames])
    assert np.abs(p - truth).max() < 0.005
    near = np.full((8, 8), 0.5 + 1e-3)
    near[:, :4] = 0.5 - 1e-3
    near[0, 0] = np.nan
    frame = replace(given.frames[0], boundary=near)
    back = probabilities(page(history(frames=[frame])))[0]
    assert np.isnan(back[0, 0])
    assert np.nanmax(np.abs(back - near)) < 5e-4
    assert (back[:, 4:] > 0.5).all() and (back[1:, :4] < 0.5).all()


def test_a_fine_field_is_made_coarser_in_place():
    side = 150
    x = (np.arange(side) + 0.5) / side
    linear = 0.2 + 0.3 * x[None, :] + 0.2 * x[:, None]
    frame = replace(history().frames[0], boundary=linear)
    back = probabilities(page(history(frames=[frame])))[0]
    x = (np.arange(FIELD_SIDE) + 0.5) / FIELD_SIDE
    assert np.abs(back - (0.2 + 0.3 * x[None, :] + 0.2 * x[:, None])).max() < 0.005


def test_runs_with_and_without_a_discriminator_share_a_page():
    frames = history(side=6).frames
    mixed = history(frames=[replace(frames[0], boundary=None), *frames[1:]])
    text = page(mixed, history(title="WAE-MMD", curves={"unbiased MMD": ([0], [0.1])}))
    first, second = embedded(text)["runs"]
    assert first["fieldAt"] == [-1, 0, 1, 2] and second["fieldAt"] == [-1] * 4
    assert second["curves"][0] is None and second["curves"][1] is not None
    assert text.count("not measured for this run") == 1
    assert "cannot tell: 50" in text and "cannot tell: 50" not in page(history())


def test_the_slider_has_every_frame():
    slider = next(one for one in Elements(page(history(7))).of("input") if one["type"] == "range")
    assert (slider["min"], slider["max"], slider["step"]) == ("0", "6", "1")
    assert embedded(page(history(7)))["runs"][0]["frameAt"] == list(range(7))


def test_runs_of_different_length_move_by_share_of_training():
    slow, fast = history(5), history(3)  # up to steps 400 and 200
    odd = history(frames=[LatentFrame(30, fast.frames[0].codes), LatentFrame(1000, fast.frames[1].codes)])
    assert timeline([slow, fast, odd]) == [0.0, 0.03, 0.25, 0.5, 0.75, 1.0]
    runs = embedded(page(slow, fast, odd))["runs"]
    assert runs[0]["frameAt"] == [0, 0, 1, 2, 3, 4]
    assert runs[1]["frameAt"] == [0, 0, 0, 1, 1, 2]
    assert runs[2]["frameAt"] == [0, 0, 0, 0, 0, 1]
    assert timeline([history(1)]) == [1.0]


def test_curves_come_back_and_share_an_axis():
    other = history(curves={"unbiased MMD": ([0, 300], [0.4, float("nan")])}, references={"unbiased MMD": 0.001})
    data = embedded(page(history(), other))
    accuracy = data["runs"][0]["curves"][0]
    assert np.allclose(integers(accuracy["values"], "<f4"), [0.9, 0.7, 0.5])
    assert integers(accuracy["steps"], "<f4").tolist() == [0, 100, 300]
    assert (accuracy["reference"], data["runs"][0]["curves"][1]["reference"]) == (0.5, None)
    assert integers(data["runs"][1]["curves"][1]["steps"], "<f4").tolist() == [0]
    axis = data["axes"][1]
    assert (axis["title"], axis["low"], axis["high"], axis["bend"]) == ("unbiased MMD", 0.001, 0.4, 0.001)
    assert data["axes"][0]["percent"] and data["axes"][0]["bend"] is None


def test_long_curves_become_means_of_neighbours():
    n = 5003
    values = np.random.default_rng(0).normal(size=n)
    curve = embedded(page(history(curves={"loss": (np.arange(n), values)})))["runs"][0]["curves"][0]
    steps, means = integers(curve["steps"], "<f4"), integers(curve["values"], "<f4")
    assert len(steps) == len(means) == CURVE_POINTS
    assert (np.diff(steps) > 0).all() and abs(steps[-1] - n) < 2 * n / CURVE_POINTS
    assert abs(means.mean() - values.mean()) < 0.01
    assert means.std() < 0.5  # of 1, in bins of about twelve


def test_thumbnails_are_in_reading_order_in_one_picture():
    from matplotlib.image import imread

    images = np.random.default_rng(0).random((30, 7, 5))
    sprite = embedded(page(history(n=30), thumbnails=images))["thumbnails"]
    sheet = imread(io.BytesIO(base64.b64decode(sprite["png"])), format="png")[..., 0]
    for i, image in enumerate(images):
        top, left = 7 * (i // sprite["columns"]), 5 * (i % sprite["columns"])
        assert np.abs(sheet[top : top + 7, left : left + 5] - image).max() < 0.5 / 15 + 0.005


def test_the_page_needs_nothing_from_outside():
    text = page(history(side=6), thumbnails=np.zeros((30, 4, 4)))
    assert not re.search(r"https?://|//cdn|url\(|@import|\bimport\s*\(|fetch\(|XMLHttpRequest|WebSocket", text)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    policy = next(one["content"] for one in Elements(text).of("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-eval" not in policy


NASTY = "</script><img src=x onerror='alert(1)'> & \"q\" {{ 7 * 7 }}"


def test_texts_are_escaped_wherever_they_go():
    given = history(title=f"run {NASTY}", note=f"note {NASTY}", curves={f"curve {NASTY}": ([0], [1.0])})
    text = latent_page(
        [given, history()], title=f"title {NASTY}", lead=f"lead {NASTY}", class_names=[f"class {NASTY}"] * 10
    )
    elements = Elements(text)  # whose tags would not match otherwise
    assert elements.open == [] and not elements.of("img")
    for word in ("run", "note", "curve", "title", "lead", "class"):
        assert f"{word} {NASTY}" in elements.texts
    assert embedded(text)["axes"][0]["title"] == f"curve {NASTY}"
    assert embedded(text)["classes"][0]["name"] == f"class {NASTY}"


def test_what_is_drawn_is_said_in_words():
    elements = Elements(page(history(), history(title="WAE-MMD")))
    drawings = elements.of("canvas")
    assert len(drawings) == 2 * 3
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)
    assert "WAE-MMD: unbiased MMD over training" in [one["aria-label"] for one in drawings]


def test_two_long_histories_stay_small():
    n = 2000
    curve = (np.arange(20000), np.random.default_rng(0).normal(size=20000))
    curves = {"discriminator accuracy": curve, "unbiased MMD": curve, "held-out reconstruction": curve}
    runs = [history(40, n, side=64, seed=s, curves=curves, prior=np.zeros((n, 2))) for s in (0, 1)]
    assert len(page(*runs)) < 1_500_000


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine")
def test_the_script_is_javascript(tmp_path):
    script = tmp_path / "page.js"
    script.write_text(re.search(r"<script>(.*?)</script>", page(), re.S).group(1), encoding="utf-8")
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: latent_page([], title=""), "no runs"),
        (lambda: history(frames=[]), "rising steps"),
        (lambda: history(frames=history().frames[::-1]), "rising steps"),
        (lambda: history(extent=float("nan")), "extent"),
        (lambda: history(extent=-1.0), "extent"),
        (lambda: history(labels=np.zeros(7, int)), "for 7 labels"),
        (lambda: history(frames=[LatentFrame(0, np.zeros((30, 3)))]), "for 30 labels"),
        (lambda: history(frames=[LatentFrame(0, np.zeros((30, 2)), np.zeros((4, 5)))]), "square plane"),
        (lambda: history(prior=np.zeros((5, 8))), "draws of the prior"),
        (lambda: history(curves={"loss": ([0, 1], [1.0])}), "2 steps for 1 values"),
        (lambda: page(history(), thumbnails=np.zeros((29, 4, 4))), "thumbnails"),
        (lambda: page(history(), thumbnails=np.zeros((30, 4, 4, 3))), "thumbnails"),
    ],
)
def test_histories_that_do_not_fit_are_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make()
