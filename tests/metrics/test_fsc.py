from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.metrics.fsc import Resolution, Scorer, correlation, fsc_curve, region_masks, resolution
from cryoaae.physics.wedge import MissingWedge


def noise(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(32, 32, 32), (20, 33, 27)])
def test_fsc_of_a_volume_with_itself_is_one_and_of_its_negative_minus_one(shape):
    volume = noise(shape, 0)
    assert torch.allclose(fsc_curve(volume, volume, 8), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(fsc_curve(volume, -3 * volume, 8), -torch.ones(8, dtype=torch.float64))


def test_fsc_of_signal_with_equal_noise_is_one_over_root_two():
    signal, other = noise((64, 64, 64), 1), noise((64, 64, 64), 2)
    curve = fsc_curve(signal, signal + other, 8)[2:]
    assert float((curve - math.sqrt(0.5)).abs().max()) < 0.03


def test_fsc_equals_the_full_spectrum_sum():
    a, b = noise((16, 18, 15), 3), noise((16, 18, 15), 4)
    fa, fb = np.fft.fftn(a.double().numpy()), np.fft.fftn(b.double().numpy())
    kz, ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in a.shape), indexing="ij")
    shell = (np.sqrt(kz**2 + ky**2 + kx**2) * 2 * 8).astype(int)
    for i, value in enumerate(fsc_curve(a, b, 8).tolist()):
        m = shell == i
        power = (np.abs(fa[m]) ** 2).sum() * (np.abs(fb[m]) ** 2).sum()
        assert value == pytest.approx((fa[m] * fb[m].conj()).real.sum() / math.sqrt(power), abs=1e-9)


def test_regions_leave_a_zone_between_and_follow_the_ends_of_a_tilt_list():
    tilts = MissingWedge.from_tilts(range(-48, 61, 6))
    masks = region_masks((48, 40, 44), tilts)
    solid = region_masks((48, 40, 44), MissingWedge((-48, 60)))
    assert not bool((masks["seen"] & masks["missing"]).any())
    assert not bool((masks["seen"] | masks["missing"]).all())
    assert torch.equal(masks["seen"], solid["seen"])
    assert torch.equal(masks["missing"], solid["missing"])


def test_score_tells_what_was_taken_from_which_region():
    truth = noise((48, 48, 48), 5)
    wedge = MissingWedge((-50, 50))
    score = Scorer(truth, wedge, 10.0).score(2 * wedge.measured(truth))
    seen, missing = (score["regions"][r]["bands"]["band"] for r in ("seen", "missing"))
    assert seen["fcc"] > 0.99
    assert seen["slope"] == pytest.approx(2.0, abs=0.02)
    assert abs(missing["slope"]) < 0.05


def test_excess_power_is_one_for_a_conditional_mean_and_four_for_doubled_invention():
    truth, other = noise((64, 64, 64), 6), noise((64, 64, 64), 7)
    scorer = Scorer(truth, MissingWedge((-60, 60)), 10.0)
    observed = truth + other  # the conditional mean of the truth is half of it
    for factor, expected in ((0.5, 1.0), (1.0, 4.0)):
        band = scorer.score(factor * observed)["regions"]["missing"]["bands"]["band"]
        assert band["excess_power"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1, 1, 0.75, 0.25, 0, 0, 0, 0], Resolution(10.0 * 16 / 3.0)),
        ([1, 1, 1, 1, 1, 1, 1, 1], Resolution(10.0 * 16 / 7.5, "better than")),
        ([1, 0.2, 0.9, 0, 0, 0, 0, 0], Resolution(10.0 * 16 / 1.5, "worse than")),
        ([1, math.nan, 1.0, math.nan, 0.0, 0, 0, 0], Resolution(10.0 * 16 / 3.5)),
    ],
)
def test_resolution_interpolates_and_says_when_it_is_a_bound(curve, expected):
    found = resolution(torch.tensor(curve, dtype=torch.float64), 0.5, 10.0)
    assert found.angstrom == pytest.approx(expected.angstrom)
    assert found.bound == expected.bound


def test_resolution_of_nothing_is_no_number():
    assert math.isnan(resolution(torch.full((8,), torch.nan), 0.5, 10.0).angstrom)


def test_correlation_ignores_scale_and_offset_and_a_constant_has_none():
    volume = noise((8, 9, 10), 8)
    assert correlation(volume, 3 * volume + 1e4) == pytest.approx(1.0, abs=1e-6)
    assert math.isnan(correlation(volume, torch.ones_like(volume)))


def test_score_refuses_another_shape():
    with pytest.raises(ValueError, match="shape"):
        Scorer(noise((16, 16, 16), 9), MissingWedge(), 1.0).score(noise((16, 16, 15), 9))


@pytest.mark.data
def test_numbers_equal_the_reference_tool_on_phantom_a():
    root = os.environ.get("CRYOAAE_DATA")
    if not root or not (Path(root) / "phantoms" / "A").is_dir():
        pytest.skip("CRYOAAE_DATA with phantoms/A is not set")
    tool = Path(root).parent / "tools" / "score_phantom.py"
    if not tool.exists():
        pytest.skip("the reference tool does not stand beside CRYOAAE_DATA")
    spec = importlib.util.spec_from_file_location("score_phantom", tool)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_phantom"] = module
    spec.loader.exec_module(module)
    folder = Path(root) / "phantoms" / "A"
    even, odd, truth = (module.load(folder / f"{n}.mrc") for n in ("even", "odd", "truth"))
    meta = json.loads((folder / "meta.json").read_text())
    mean = (even + odd) / 2
    theirs = module.score_arrays(mean, truth, meta["lo"], meta["hi"])
    ours = Scorer(torch.from_numpy(truth), MissingWedge((meta["lo"], meta["hi"])), 10.0).score(
        torch.from_numpy(mean)
    )
    seen, missing = (ours["regions"][r]["bands"] for r in ("seen", "missing"))
    assert ours["cc"] == pytest.approx(theirs["cc"], abs=1e-3)
    assert seen["band"]["fcc"] == pytest.approx(theirs["seen_fcc"], abs=1e-3)
    for band, key in (("band", "wedge_fcc"), ("low", "wedge_lo"), ("mid", "wedge_mid")):
        assert missing[band]["fcc"] == pytest.approx(theirs[key], abs=1e-3)
