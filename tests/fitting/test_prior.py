"""Fitting with a prior: it leans on the data, resumes with the run; a referee that is lost ends it."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae import fit
from cryoaae.config import load_fit_config
from cryoaae.errors import FittingDivergedError, InputError
from cryoaae.fitting.session import prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.mrc import write_volume
from cryoaae.matching import transport
from cryoaae.matching.frozen import load_energy
from cryoaae.matching.referee import PATIENCE, Referee
from cryoaae.models.adversarial_prior import AdversarialPrior
from cryoaae.models.restorer import Restorer
from cryoaae.models.transport_prior import TransportPrior

SIZE = 40
SMALL = FitSettings.from_spectrum(
    patch_size=16, block_size=36, blocks=2, renew_every=2, batch_size=1, widths=(4, 8), working_bin=1,
    minutes=None, steps=6, warm_up_steps=2, evaluations=2, held_out_fraction=0.1, refills=0, presence=False,
    prior="adversarial",
)  # fmt: skip

TRANSPORT = replace(SMALL, prior="transport", prior_bank=128)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that counts from the second step on."""
    monkeypatch.setattr(transport, "LEAST", 8)


@pytest.mark.parametrize(
    ("settings", "moving"),
    [
        (SMALL, "referee"),
        (replace(SMALL, prior_spectral=True), "referee"),
        (TRANSPORT, "transport"),
        (replace(TRANSPORT, prior_divergence="sliced"), "transport"),
    ],
    ids=["referee", "spectral", "sinkhorn", "sliced"],
)
@pytest.mark.usefixtures("soon")
def test_resume_is_bit_identical_with_the_prior_in_it(settings: FitSettings, moving, tmp_path: Path, loop, go) -> None:
    whole, broken, resumed = (loop(settings) for _ in range(3))
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    go(whole)
    go(broken, until=3)
    save_rotating(tmp_path / "ckpt", broken.state())
    resumed.load_state(load_latest(tmp_path / "ckpt"))
    go(resumed)
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], start[name])}
    assert moved == {"restorer", moving}
    if moving == "transport":
        assert whole.model.transport.ready, "it had an energy"
        assert broken.model.transport.ready, "before it was stopped"


def test_without_a_prior_nothing_of_it_is_made(loop) -> None:
    plain = loop(replace(SMALL, prior="none"))
    assert [phase.name for phase in plain.phases] == ["pairs"]
    assert plain.figures() == {}
    assert not any(name.startswith(("referee", "transport")) for name in plain.model.state_dict())


@pytest.mark.parametrize("settings", [SMALL, TRANSPORT], ids=["adversarial", "transport"])
@pytest.mark.usefixtures("soon")
def test_the_energys_gradient_is_its_own_and_no_more_than_its_share(settings: FitSettings, loop) -> None:
    """Against the plain backward pass, without the cap and with it."""
    made = loop(settings)
    model = made.model
    made.feed.prepare(0, 0.0, made.average)
    torch.nn.init.normal_(model.restorer.network.last.weight, std=0.1)
    batch = made.feed.batch()
    head = model.restorer.network.last.weight
    if isinstance(model, TransportPrior):
        model._restorer_losses(made.feed.batch())  # something to remember
        model.transport.remember = lambda *_: None  # type: ignore[method-assign]
        assert model.transport.ready

    def energy(again: torch.Tensor) -> torch.Tensor:
        if isinstance(model, AdversarialPrior):
            return model.referee.energy(again)
        return model.transport.energy(model.transport.features(again))

    def slope(term: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(term, head)[0]

    model.weight, model.share = 0.7, math.inf
    terms = model._restorer_losses(batch)
    plain = energy(model.microscope(model.restorer(batch.blocks), batch.draw))
    assert float(terms["energy"].detach()) == pytest.approx(0.7 * float(plain.detach()), rel=1e-5)
    assert torch.allclose(slope(terms["energy"]), 0.7 * slope(plain), rtol=1e-3, atol=1e-7)
    model.weight, model.share = 1e6, 0.1
    terms = model._restorer_losses(batch)
    ratio = float(slope(terms["energy"]).norm() / slope(terms["pairs"]).norm())
    assert ratio == pytest.approx(0.1, rel=1e-3)


def test_a_referee_in_trouble_sends_the_fit_back_once_and_then_ends_it(loop, go) -> None:
    made = loop(SMALL)
    go(made, until=2)
    made.model.referee.accuracy.fill_(0.5)
    made.keep_good()
    good = {name: value.clone() for name, value in made.good["model"].items()}
    for attempt in range(2):
        made.model.referee.accuracy.fill_(1.0)
        made.model.referee.stuck.fill_(PATIENCE)
        made.keep_good()  # a doubtful state is none to go back to
        if attempt:
            with pytest.raises(FittingDivergedError, match="'referee'.*right in") as error:
                made.step()
            assert error.value.exit_code == 4
        else:
            made.step()
            assert made.rate == SMALL.learning_rate / 2
        assert all(torch.equal(value, good[name]) for name, value in made.model.state_dict().items())


def test_a_run_that_a_lost_referee_ends_leaves_its_last_good_state(tmp_path: Path, monkeypatch, tomogram, loop) -> None:
    start = loop(SMALL).good["model"]
    monkeypatch.setattr(Referee, "trouble", lambda self: "lost")
    with pytest.raises(FittingDivergedError, match="'referee', last good at step 0: lost"):
        fit_halves(tomogram, tmp_path)
    left = load_latest(tmp_path / "run" / "checkpoints")
    assert left["model"].keys() == start.keys()
    assert left["step"] == 1, "back once, and ended by the second step"
    assert all(torch.equal(left["model"][name], left["good"]["model"][name]) for name in start)
    logit = "referee.network.scales.0.logit.weight"
    assert torch.equal(left["model"][logit], start[logit])
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_single_volumes_and_unknown_priors_are_refused(tmp_path: Path, tomogram) -> None:
    with pytest.raises(InputError, match="--prior none"):
        prepare([tomogram(single=True)], SMALL, device=torch.device("cpu"), scratch=tmp_path, init=None)
    write_volume(tmp_path / "single.mrc", tomogram(single=True).volumes[0].numpy(), voxel_size_angstrom=10.0)
    with pytest.raises(InputError, match="single volume"):
        fit(tmp_path / "single.mrc", tmp_path / "run", tilt_range=(-60.0, 60.0), settings=SMALL, device="cpu")
    assert not (tmp_path / "run").exists(), "a bad input costs nothing"
    assert load_fit_config(prior="cryogen2") == load_fit_config(prior="transport")
    with pytest.raises(InputError, match="prior_divergence"):
        load_fit_config(prior="transport", overrides=["prior_divergence=sinkhron"])
    for made in (load_fit_config, FitSettings):
        with pytest.raises(InputError, match="prior"):
            made(prior="adversary")
    assert load_fit_config(prior="cryogen1") == load_fit_config(prior="adversarial")
    assert load_fit_config().prior == "none"


def test_patches_of_a_prior_fit_into_turned_blocks() -> None:
    for size in (16, 32, 48, 96, 160):
        patch = FitSettings(patch_size=size).prior_patch
        assert 8 <= patch <= size / math.sqrt(3)


def fit_halves(tomogram, folder: Path, settings: FitSettings = SMALL) -> Path:
    """From files to a run folder."""
    for name, volume in zip(("even", "odd"), tomogram().volumes, strict=True):
        write_volume(folder / f"{name}.mrc", volume.numpy(), voxel_size_angstrom=10.0)
    return fit(
        [], folder / "run", even=folder / "even.mrc", odd=folder / "odd.mrc", tilt_range=(-60.0, 60.0),
        settings=settings, device="cpu",
    )  # fmt: skip


@pytest.mark.usefixtures("soon")
def test_a_run_with_transport_writes_its_record_and_its_energy(tmp_path: Path, tomogram) -> None:
    run_folder = fit_halves(tomogram, tmp_path, TRANSPORT)
    with (run_folder / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["divergence"]) > 0
    assert float(last["floor"]) > 0
    assert 0 < float(last["gradient_share"]) <= TRANSPORT.prior_share
    matcher, spec = load_energy(run_folder)
    kept = load_latest(run_folder / "checkpoints")["model"]
    assert spec["kind"] == "transport"
    assert spec["patch"] == TRANSPORT.prior_patch
    assert all(torch.equal(value, kept[f"transport.{name}"]) for name, value in matcher.state_dict().items())


def test_a_run_with_a_prior_writes_its_record_and_a_restorer_that_loads(tmp_path: Path, tomogram) -> None:
    run_folder = fit_halves(tomogram, tmp_path)
    with (run_folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 2
    for row in rows[1:]:
        assert 0 < float(row["accuracy"]) < 1
        assert 0 < float(row["gradient_share"]) <= SMALL.prior_share
        assert float(row["divergence"]) < math.log(2)
    # The referee stays in the checkpoints; what restores is a restorer like any other.
    assert Restorer.load(run_folder).spec.working_bin == 1
    assert any(key.startswith("referee") for key in load_latest(run_folder / "checkpoints")["model"])
