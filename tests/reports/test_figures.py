from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from cryoaae.physics.wedge import MissingWedge
from cryoaae.reports.figures import fsc_figure, slices_figure, spectra_figure, spectrum_image
from cryoaae.reports.progress_figures import loss_figure, preview_figure
from cryoaae.reports.style import bar_length_angstrom, contrast_limits, png


def volume(shape: tuple[int, int, int] = (20, 36, 28), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels(figure) -> np.ndarray:
    from matplotlib.image import imread

    image = imread(io.BytesIO(png(figure)), format="png")
    assert image.shape[0] > 100
    return image


@pytest.mark.parametrize(
    ("width", "bar"), [(1280.0, 200.0), (990.0, 200.0), (8000.0, 2000.0), (40.0, 10.0), (399.0, 50.0)]
)
def test_scale_bars_are_round_and_about_a_quarter(width, bar):
    assert bar_length_angstrom(width) == pytest.approx(bar)


def test_contrast_ignores_a_few_gold_beads():
    image = volume((1, 100, 100))[0]
    plain = contrast_limits([image])
    image[:3, :3] = 1e4
    assert contrast_limits([image]) == pytest.approx(plain, abs=0.5)
    low, high = contrast_limits([np.zeros((4, 4))])
    assert low < high


def test_figures_show_what_they_are_given():
    one = pixels(slices_figure([("before", volume()), ("after", volume(seed=1))], 10.0))
    two = pixels(slices_figure([("before", volume()), ("after", volume(seed=2))], 10.0))
    half = one.shape[1] // 2
    assert np.array_equal(one[:, : half - 20], two[:, : half - 20])
    assert not np.array_equal(one[:, half:], two[:, half:])


@pytest.mark.parametrize("axis_deg", [0.0, 90.0, 35.0])
@pytest.mark.parametrize("shape", [(48, 48, 48), (24, 60, 44)])
def test_spectrum_image_shows_power_where_the_wedge_measured(shape, axis_deg):
    import torch

    wedge = MissingWedge((-40, 60), tilt_axis_deg=axis_deg)
    image = spectrum_image(wedge.measured(torch.from_numpy(volume(shape))).numpy(), axis_deg)
    n = image.shape[0]
    k = np.linspace(-0.5, 0.5, n)
    kz, across = np.meshgrid(k, k, indexing="ij")
    angle = np.degrees(np.arctan2(kz * np.sign(across), np.abs(across)))
    ring = (np.hypot(kz, across) > 0.25) & (np.hypot(kz, across) < 0.42)
    inside = ring & (angle > -48) & (angle < 28)
    outside = ring & ((angle < -72) | (angle > 52))
    assert np.isfinite(image).all()
    assert np.median(image[inside]) > np.median(image[outside]) + 1.5


def test_spectra_and_curves_are_drawn_without_warnings():
    wedge = MissingWedge((-40, 60))
    assert pixels(spectra_figure([("before", volume())], wedge, 10.0)).std() > 0.05
    curve = [float("nan"), 1.0, 0.8, None, 0.1]
    regions = {"all": curve, "seen": curve, "missing": [None] * 5}
    assert (
        pixels(fsc_figure([0.005 * i for i in range(1, 6)], {"Restored": regions}, "Restored")).std() > 0.05
    )


def test_loss_figure_takes_missing_values_and_one_step():
    steps = list(range(200))
    fitting = list(np.linspace(2, 1, 200))
    held_out = [1.5 if i % 50 == 0 else float("nan") for i in steps]
    assert pixels(loss_figure(steps, {"fitting": fitting, "held out": held_out})).std() > 0.03
    assert pixels(loss_figure([0], {"fitting": [1.0]})).std() > 0.0
    assert pixels(loss_figure([], {"fitting": []})).std() > 0.0


def test_preview_takes_a_note():
    assert pixels(preview_figure(volume(), volume(seed=3), 13.2, note="step 100")).std() > 0.1


def test_the_modules_load_no_matplotlib():
    modules = "cryoaae.reports.evaluation, cryoaae.reports.inspection, cryoaae.reports.progress_figures"
    code = f"import {modules}, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
