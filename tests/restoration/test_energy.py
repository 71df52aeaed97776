"""The energy map: higher where a restoration is smeared, on the restoration's grid, refused in one line."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from cryoaae.cli import run
from cryoaae.matching import transport as matching
from cryoaae.matching.frozen import load_energy, save_energy
from cryoaae.matching.referee import Referee
from cryoaae.matching.structure import Clouds, Microscope, blocks_at
from cryoaae.matching.structure_energy import places
from cryoaae.matching.transport import Transport
from cryoaae.nets.discriminators import MultiScaleDiscriminator
from cryoaae.patches.normalise import Normalisation
from cryoaae.patches.source import prepare_source
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.energy_map import EnergyMap, energy_map
from cryoaae.volume import Volume

SIZE, PATCH, BLOCK = 48, 16, 28
WEDGE = MissingWedge((-40.0, 40.0))
PRIORS = ("adversarial", "transport")


def truth() -> Tensor:
    field = band_limit(torch.randn((SIZE,) * 3, generator=torch.Generator().manual_seed(0)), 0.08, 0.14)
    blobs = (field / field.std() - 1).clamp(min=0)
    return (blobs - blobs.mean()) / blobs.std()


def smeared() -> Tensor:
    seen = WEDGE.measured(truth())
    return seen / seen.std()


def clouds(seed: int = 0) -> Clouds:
    generator = torch.Generator().manual_seed(1)
    noise = [0.3 * torch.randn((SIZE,) * 3, generator=generator) for _ in range(2)]
    halves = [Volume(WEDGE.measured(truth() + part).numpy(), 10.0) for part in noise]
    source = prepare_source(
        "t", halves, WEDGE, Normalisation(0.0, 1.0), working_bin=1, held_out=torch.zeros(0, 2, 3), noise=torch.ones(4)
    )
    return Clouds([source], patch=PATCH, block=BLOCK, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def again() -> tuple[Tensor, Tensor]:
    """Real patches, and what a restorer that fills no wedge would show its prior."""
    made = clouds()
    draw = made.draw(48)
    return draw.real, Microscope([WEDGE], patch=PATCH, block=BLOCK)(blocks_at([smeared()], draw, BLOCK), draw)


@functools.cache
def learned(kind: str, real: Tensor, again: Tensor) -> Any:
    if kind == "transport":
        made = Transport(PATCH, features="wavelets", divergence="sinkhorn", bank=256, turns=WEDGE.half_turns())
        made.learn_real(real)
        made.remember(made.features(again), real)
        return made
    torch.manual_seed(0)
    judge = Referee(MultiScaleDiscriminator(1, (8, 16)), r1=1.0)
    optimiser = torch.optim.Adam(judge.parameters(), lr=2e-3)
    turns = WEDGE.half_turns()
    for step in range(200):  # so few patches are soon known by heart
        some, axes = torch.arange(12) + 12 * (step // 4 % 4), turns[step % 4]
        optimiser.zero_grad()
        judge.loss(torch.flip(real[some], axes), torch.flip(again[some], axes)).backward()
        optimiser.step()
    return judge


@pytest.mark.parametrize("kind", PRIORS)
def test_a_smear_has_more_energy_than_the_truth(
    kind: str, again: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoaae.restoration.energy_map.REAL_PATCHES", 48)
    matcher = learned(kind, *again)
    microscope = Microscope([WEDGE], patch=PATCH, block=BLOCK)
    found = [
        energy_map(volume, clouds(seed=5), microscope, matcher.energies, turns=2, step=12)
        for volume in (truth(), smeared())
    ]
    assert found[0].values.shape == (3, 3, 3)
    more = (found[1].values - found[0].values).flatten()  # at the same places, turns and noise
    assert more.mean() > 2 * more.std(ddof=1) / len(more) ** 0.5
    assert (more > 0).mean() > 0.6


@pytest.mark.parametrize("kind", PRIORS)
def test_a_frozen_prior_gives_the_energies_it_gave(kind: str, again: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    matcher = learned(kind, *again)
    save_energy(tmp_path / "energy.safetensors", matcher, patch=PATCH, block=BLOCK)
    loaded, spec = load_energy(tmp_path)
    assert (spec["kind"], spec["patch"], spec["block"]) == (kind, PATCH, BLOCK)
    assert torch.equal(loaded.energies(again[0]), matcher.energies(again[0]))


def test_the_map_goes_through_its_places_and_is_level_at_the_faces() -> None:
    axes = tuple(places(8, 15, 6) for _ in range(3))
    assert [axis.tolist() for axis in axes] == [[8, 13, 17, 22]] * 3
    assert places(5, 1, 4).tolist() == [5]
    values = np.random.default_rng(0).normal(size=(4, 4, 4))
    core = (slice(4, 34),) * 3
    grid = EnergyMap(values, axes, 1.0, 0.0).on_grid(core, (40, 40, 40))
    assert np.allclose(grid[np.ix_(*(4 + axis for axis in axes))], values, atol=1e-6)
    assert np.allclose(grid[4:12, 12, 12], values[0, 0, 0], atol=1e-6)
    wrapped = np.abs(np.diff(np.concatenate([grid, grid[:1]]), axis=0)).max()
    assert wrapped <= np.abs(np.diff(values, axis=0)).max() / 2, "no jump from one face to the other"


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tiny: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with and without a prior, and a restoration."""
    folder = tmp_path_factory.mktemp("energy")
    halves = ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc")]
    quick = [*tiny_settings, "--set", "presence=false", "--set", "refills=0", "--steps", "3", "-q"]
    least, matching.LEAST = matching.LEAST, 8
    for prior in ("none", *PRIORS, "reference"):
        kept = ["--set", "prior_bank=128", "--prior", prior]
        if prior == "reference":
            kept = ["--set", "reference_steps=6"]
        assert run(["fit", *halves, "--tilts", str(tiny / "t.tlt"), "-o", str(folder / prior), *quick, *kept]) == 0
    matching.LEAST = least
    out = str(folder / "restored.mrc")
    assert run(["restore", *halves, "--model", str(folder / "none"), "-o", out, "--no-symmetries", "-q"]) == 0
    return {"folder": folder, "even": tiny / "t_EVN.mrc", "odd": tiny / "t_ODD.mrc"}


def command(fitted: dict[str, Path], out: Path, *, model: str, restored: str | Path = "restored.mrc") -> list[str]:
    folder = fitted["folder"]
    return [
        "energy", str(folder / restored), "--even", str(fitted["even"]), "--odd", str(fitted["odd"]),
        "--model", str(folder / model), "-o", str(out), "--turns", "1", "--step", "20",
    ]  # fmt: skip


@pytest.mark.parametrize("prior", PRIORS)
def test_the_map_has_the_grid_and_header_of_the_restoration(
    prior: str, fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command(fitted, tmp_path / "map.mrc", model=prior), "--dry-run"]) == 0
    assert f"{prior} prior" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert run([*command(fitted, tmp_path / "map.mrc", model=prior), "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    with mrcfile.open(tmp_path / "map.mrc") as made, mrcfile.open(fitted["folder"] / "restored.mrc") as restored:
        assert made.data.shape == restored.data.shape
        assert made.voxel_size == restored.voxel_size
        assert np.isfinite(made.data).all()
        assert float(made.data.std()) > 0
        assert result["lowest"] - 0.1 * result["real_sd"] <= made.data.mean() <= result["highest"] + 0.1
    assert result["prior"] == prior
    assert 0 <= result["unusual"] <= 1
    # The same seed, the same map.
    assert run([*command(fitted, tmp_path / "again.mrc", model=prior), "-q"]) == 0
    with mrcfile.open(tmp_path / "map.mrc") as one, mrcfile.open(tmp_path / "again.mrc") as other:
        assert np.array_equal(one.data, other.data)


def test_a_descent_lowers_the_energy_and_leaves_what_the_working_grid_does_not_hold(
    fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = tmp_path / "map.mrc"
    words = [*command(fitted, tmp_path / "energy.mrc", model="reference"), "--descend", str(down), "--steps", "3"]
    assert run([*words, "--dry-run"]) == 0
    assert "mode" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert run([*words, "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = result["descent"]
    assert result["prior"] == "reference"
    assert found["energies"][-1] < found["energies"][0]
    assert sorted(found["energies"], reverse=True) == found["energies"]
    begun, linear, ended = found["misfit"]
    assert linear < 1
    assert ended < max(1.0, begun)
    with mrcfile.open(down) as made, mrcfile.open(fitted["folder"] / "restored.mrc") as restored:
        assert made.data.shape == restored.data.shape
        assert made.voxel_size == restored.voxel_size
        moved = made.data.astype(float) - restored.data
        assert 0 < moved.std() < 2 * restored.data.std()
        k = np.abs(np.fft.fftn(moved))
        freq = np.linalg.norm(np.meshgrid(*(np.fft.fftfreq(n) for n in moved.shape), indexing="ij"), axis=0)
        assert (k[freq > 0.55] ** 2).sum() < 0.01 * (k**2).sum(), "corners of the grid stay as they are"


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "map.mrc", fitted["folder"]
    small = np.zeros((20, 20, 20), np.float32)
    with mrcfile.new(tmp_path / "small.mrc", small + np.arange(20, dtype=np.float32)) as file:
        file.voxel_size = 10.0
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "energy.safetensors").write_bytes((folder / "transport" / "energy.safetensors").read_bytes()[:-7])
    cases = {
        "no prior on structure; .*--prior transport": command(fitted, out, model="none"),
        "nowhere: no such file": command(fitted, out, model="nowhere"),
        "not a run folder": command(fitted, out, model=str(tmp_path / "small.mrc")),
        "whole safetensors": command(fitted, out, model=str(damaged)),
        "shape": command(fitted, out, model="transport", restored=tmp_path / "small.mrc"),
        "missing.mrc": command(fitted, out, model="transport", restored="missing.mrc"),
        "--turns": [*command(fitted, out, model="transport"), "--turns", "0"],
        "no prior of its own; .*reference_steps": [*command(fitted, out, model="transport"), "--descend", str(out)],
        "not by prior": [*command(fitted, out, model="transport"), "--by", "prior", "--descend", str(out)],
        "--steps": [*command(fitted, out, model="reference"), "--by", "reference", "--steps", "0"],
        "also an input": command(fitted, fitted["even"], model="transport"),
        "does not exist": command(fitted, tmp_path / "no" / "map.mrc", model="transport"),
    }
    before = sorted(tmp_path.iterdir())
    for words, arguments in cases.items():
        capsys.readouterr()
        assert run(arguments) == 2, words
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cryoaae:")]
        assert len(lines) == 1, words
        assert re.search(words, lines[0]), lines[0]
        assert sorted(tmp_path.iterdir()) == before
