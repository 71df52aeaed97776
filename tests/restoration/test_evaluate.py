from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.io.mrc import write_volume
from cryoaae.metrics.nulls import NULLS
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.evaluate import evaluate

WEDGE = MissingWedge((-54, 60))
SHAPE = (40, 48, 44)


@pytest.fixture(scope="module")
def scene() -> dict[str, np.ndarray]:
    g = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"), dim=-1).float()
    truth = torch.zeros(SHAPE)
    centres = [torch.rand(3, generator=g) * (torch.tensor(SHAPE) - 14) + 7 for _ in range(14)]
    for centre in centres:
        truth += (-((grid - centre) ** 2).sum(-1) / 6).exp()
    noiseless = WEDGE.measured(truth)
    even, odd = (noiseless + 0.2 * WEDGE.measured(torch.randn(SHAPE, generator=g)) for _ in range(2))
    volumes = {"truth": truth, "noiseless": noiseless, "even": even, "odd": odd, "points": torch.stack(centres)}
    return {name: v.numpy() for name, v in volumes.items()}


def test_the_truth_beats_every_null_and_the_input_does_not(scene):
    kwargs = {"truth": scene["truth"], "even": scene["even"], "odd": scene["odd"], "wedge": WEDGE}
    good = evaluate(scene["truth"] * 0.9, noiseless=scene["noiseless"], **kwargs)
    assert [row["name"] for row in good["rows"]] == ["restored", *NULLS, "oracle"]
    assert good["beats_best_null_in_wedge"] is True
    assert good["rows"][0]["regions"]["seen"]["bands"]["mid"]["slope"] == pytest.approx(0.9, abs=1e-3)
    bad = evaluate((scene["even"] + scene["odd"]) / 2, **kwargs)
    assert bad["beats_best_null_in_wedge"] is False
    assert "NOT better" in bad["verdict"]
    assert bad["best_null_in_wedge"]["name"].startswith("clip")


def test_particles_are_counted_in_the_restoration_and_in_every_null_of_either_contrast(scene, tmp_path: Path):
    (tmp_path / "particles.csv").write_text(
        "class,z,y,x\n" + "".join(f"blob,{z},{y},{x}\n" for z, y, x in scene["points"].tolist())
    )
    kwargs = {"wedge": WEDGE, "particles": tmp_path / "particles.csv"}
    erased = scene["truth"].copy()
    erased[:, :, :22] = 0
    gone = int((scene["points"][:, 2] < 18).sum())
    result = evaluate(erased, truth=scene["truth"], even=scene["even"], odd=scene["odd"], **kwargs)
    counts = [row["particles"] for row in result["rows"]]
    assert [c["particles"] for c in counts] == [len(scene["points"])] * (1 + len(NULLS))
    assert counts[0]["lost"] >= gone > 0
    assert counts[1]["lost"] < gone, "the input has not lost what the restoration has"
    assert f"{counts[0]['lost']} are lost (input {counts[1]['lost']})" in result["sentences"][-1]
    assert result["particles"]["noise"]["lost"] > 0.9 * len(scene["points"])
    for density in ("dark", "auto"):
        dark = evaluate(-erased, truth=-scene["truth"], baselines=False, density=density, **kwargs)
        of_dark = dark["rows"][0]["particles"]
        assert (of_dark["lost"], of_dark["invented"]) == (counts[0]["lost"], counts[0]["invented"])


def test_particles_of_a_block_are_those_inside_it(scene, tmp_path: Path):
    table = "".join(f"{z},{y},{x}\n" for z, y, x in scene["points"].tolist())
    (tmp_path / "p.csv").write_text("z,y,x\n" + table)
    block = (slice(18, 40), slice(None), slice(None))
    kwargs = {"wedge": WEDGE, "baselines": False, "block_zyx": block, "particles": tmp_path / "p.csv"}
    result = evaluate(scene["truth"], truth=scene["truth"], **kwargs)
    counts = result["rows"][0]["particles"]
    assert 0 < counts["particles"] <= int((scene["points"][:, 0].round() >= 18).sum()) < len(scene["points"])
    assert (counts["lost"], counts["invented"]) == (0, 0)


def test_parts_of_the_truth_are_scored_apart(scene):
    background = scene["truth"][::-1].copy()
    result = evaluate(
        scene["truth"], truth=scene["truth"] + background, truth_structure=scene["truth"],
        truth_background=background, wedge=WEDGE, baselines=False,
    )  # fmt: skip
    assert result["structure"][0]["cc"] == pytest.approx(1.0, abs=1e-5)
    assert result["background"][0]["cc"] < result["rows"][0]["cc"] < 1.0
    assert result["beats_best_null_in_wedge"] is None


def test_without_truth_the_share_of_the_ceiling_estimates_the_correlation_with_structure(scene):
    g = torch.Generator().manual_seed(5)
    spoilt = [
        (torch.from_numpy(scene["truth"]) + s * torch.randn(SHAPE, generator=g)).numpy() for s in (0.15, 0.15)
    ]
    result = evaluate(
        spoilt[0], even=scene["even"], odd=scene["odd"], halves=(spoilt[0], spoilt[1]), wedge=WEDGE
    )
    from cryoaae.metrics.fsc import region_masks
    from cryoaae.metrics.sectors import tapered
    from cryoaae.physics.fourier import multiplicity, radius, rfft

    mask = region_masks(SHAPE, WEDGE)["seen"] & (radius(SHAPE) < 0.5)
    weight = (multiplicity(SHAPE) * mask).double()
    a, b = (rfft(tapered(torch.from_numpy(v))) for v in (spoilt[0], scene["noiseless"]))
    power = (weight * a.abs() ** 2).sum() * (weight * b.abs() ** 2).sum()
    truth = float((weight * (a * b.conj()).real).sum() / power.sqrt())
    assert result["halves"]["bands"][0]["share_of_ceiling"] == pytest.approx(truth, abs=0.06)
    assert result["beats_best_null_in_wedge"] is None
    assert "rows" not in result


def test_files_are_found_and_everything_is_written(scene, tmp_path: Path):
    for name in ("truth", "noiseless", "even", "odd"):
        data = scene[name]
        write_volume(tmp_path / f"{name}.mrc", data, like=None, voxel_size_angstrom=10.0)
    for name, data in (("out", "truth"), ("out_even", "even"), ("out_odd", "odd")):
        write_volume(tmp_path / f"{name}.mrc", scene[data], like=None, voxel_size_angstrom=10.0)
    result = evaluate(
        tmp_path / "out.mrc", truth=tmp_path / "truth.mrc",
        even=tmp_path / "even.mrc", odd=tmp_path / "odd.mrc", wedge=WEDGE, output=tmp_path / "report",
    )  # fmt: skip
    assert result["rows"][-1]["kind"] == "oracle"
    assert len(result["halves"]["bands"]) == 2
    written = {p.name for p in (tmp_path / "report").iterdir()}
    assert written == {
        "evaluation.json", "report.html", "slices.png", "spectra.png", "fsc.png", "halves.png",
    }  # fmt: skip
    stored = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert stored == json.loads(json.dumps(result))
    html = (tmp_path / "report" / "report.html").read_text()
    assert result["verdict"] in html
    assert html.count("data:image/png;base64,") == 4


def test_a_block_is_scored_alone(scene):
    spoilt = scene["truth"].copy()
    spoilt[20:] = 0
    block = (slice(0, 20), slice(None), slice(None))
    result = evaluate(spoilt, truth=scene["truth"], wedge=WEDGE, baselines=False, block_zyx=block)
    assert result["rows"][0]["cc"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "nothing to compare"),
        ({"truth": "other shape"}, "shape"),
        ({"truth": "nan"}, "not finite"),
        ({"truth": "missing.mrc"}, "missing.mrc"),
        ({"truth": "truth", "density": "grey"}, "density"),
        ({"particles": "p.star"}, "--truth"),
        ({"truth": "truth", "particles": "missing.star"}, "missing.star"),
    ],
)
def test_bad_input_is_refused_in_one_line(scene, change, message):
    bad = np.where(scene["truth"] > 0.5, np.nan, 0).astype(np.float32)
    arrays = {"other shape": scene["truth"][1:], "nan": bad, "truth": scene["truth"]}
    kwargs = {k: arrays.get(v, v) for k, v in change.items()}
    with pytest.raises(InputError, match=message):
        evaluate(scene["truth"], wedge=WEDGE, **kwargs)


def test_another_voxel_size_is_refused(scene, tmp_path: Path):
    for name, size in (("out", 10.0), ("truth", 13.0)):
        write_volume(tmp_path / f"{name}.mrc", scene["truth"], like=None, voxel_size_angstrom=size)
    with pytest.raises(InputError, match="13"):
        evaluate(tmp_path / "out.mrc", truth=tmp_path / "truth.mrc", wedge=WEDGE)
