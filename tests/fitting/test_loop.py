"""Fitting: learns, resumes bit for bit, survives numbers that are not, tells structure from noise."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoaae.errors import FittingDivergedError
from cryoaae.fitting.budget import Budget, Plateau
from cryoaae.fitting.loop import Loop
from cryoaae.fitting.presence import learn_presence
from cryoaae.fitting.session import Session, prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.models.general import GeneralRestorer
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE
from cryoaae.patches.featureless import random_phases
from cryoaae.physics.fourier import irfft, rfft, taper

SIZE = 48
SMALL = FitSettings.from_spectrum(
    patch_size=16, block_size=36, blocks=2, renew_every=2, batch_size=1, widths=(4, 8), working_bin=1,
    minutes=None, steps=10, warm_up_steps=2, evaluations=4, held_out_fraction=0.1,
    refills=0,
)  # fmt: skip


def weights(fit: Loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in fit.average.parameters()])


def moved(session: Session, by: float) -> dict[str, torch.Tensor]:
    """Let the fit have found weights so far from those it started from; return these."""
    network = session.loop.average.restorer.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in session.loop.best.items():
        if ".network." in name:
            value += by
    return before


@pytest.mark.parametrize("kept", [0.0, 0.7, 1.0])
def test_of_the_general_restorer_a_share_of_the_change_is_kept(kept: float, tmp_path: Path, tomogram) -> None:
    settings, general = replace(SMALL, kept_change=kept), GeneralRestorer.bundled()
    session = prepare([tomogram()], settings, device=torch.device("cpu"), scratch=tmp_path, init=general)
    before = moved(session, 0.5)
    after = session.best().network.state_dict()
    assert before
    for name, value in before.items():
        torch.testing.assert_close(after[name], value + kept * 0.5)


def test_of_any_other_start_all_is_kept(tmp_path: Path, tomogram) -> None:
    session = prepare([tomogram()], SMALL, device=torch.device("cpu"), scratch=tmp_path, init=None)
    before = moved(session, 0.5)
    after = session.best().network.state_dict()
    assert before
    assert all(torch.allclose(after[name], value + 0.5) for name, value in before.items())


@pytest.mark.parametrize(("refills", "general"), [(0, False), (1, False), (1, True)])
def test_resume_is_bit_identical(refills: int, general: bool, tmp_path: Path, loop, go) -> None:
    """Of two halves from the spectrum; and of a single volume, held to what the general restorer makes of it."""
    settings = replace(SMALL, refills=refills)
    data: dict[str, Any] = {"single": True, "init": GeneralRestorer.bundled()} if general else {}
    whole = loop(settings, **data)
    go(whole)
    broken = loop(settings, **data)
    go(broken, until=6)  # later than the refill
    save_rotating(tmp_path / "ckpt", broken.state())
    resumed = loop(settings, **data)
    resumed.load_state(load_latest(tmp_path / "ckpt"))
    go(resumed)
    assert weights(whole).abs().max() > 0
    assert torch.equal(weights(whole), weights(resumed))
    assert all(torch.equal(a, b) for a, b in zip(whole.best.values(), resumed.best.values(), strict=True))


def test_resume_without_the_optimiser_differs(loop, go) -> None:
    """The law above can fail: forgetting Adam's moments changes the weights."""
    whole, broken = loop(SMALL), loop(SMALL)
    go(whole)
    go(broken, until=5)
    state, fresh = broken.state(), loop(SMALL)
    state["optimisers"] = [o.state_dict() for o in fresh.optimisers]
    fresh.load_state(state)
    go(fresh)
    assert not torch.equal(weights(whole), weights(fresh))


def hidden_correlation(fit: Loop) -> float:
    """Correlation with the target where only the second wedge, not the tomogram's own, took data away."""
    cross = own = other = 0.0
    for batch in fit.held_out:
        window = taper(batch.inputs.shape[-3:])
        with torch.no_grad():
            estimate = rfft(fit.average.restorer(batch.inputs) * window)
        target, hidden = rfft(batch.targets * window), batch.seen & ~batch.kept
        cross += float((estimate * target.conj()).real[hidden].sum())
        own += float((estimate.abs() ** 2)[hidden].sum())
        other += float((target.abs() ** 2)[hidden].sum())
    return cross / math.sqrt(own * other + 1e-9)


@pytest.mark.parametrize("single", [False, True])
def test_fitting_fills_wedges_on_data_kept_out(tmp_path: Path, single: bool, loop, go) -> None:
    fit = loop(replace(SMALL, steps=100, patch_size=24, block_size=44, widths=(8, 16)), single=single)
    before = hidden_correlation(fit)
    go(fit)
    assert hidden_correlation(fit) > before + 0.05


def test_a_bad_step_is_skipped_then_rolled_back_then_refused(loop, go) -> None:
    fit = loop(SMALL)
    go(fit, until=2)
    before = weights(fit).clone()
    with torch.no_grad():
        fit.phases[0].parameters[0].fill_(math.nan)
    for _ in range(4):
        fit.step()
    # Skipped three times, then back to the last good state at half the rate.
    assert fit.rollbacks == 1
    assert fit.rate == SMALL.learning_rate / 2
    assert torch.isfinite(weights(fit)).all()
    assert before.isfinite().all()
    with torch.no_grad():
        fit.phases[0].parameters[0].fill_(math.nan)
    with pytest.raises(FittingDivergedError, match="pairs"):
        for _ in range(4):
            fit.step()


def test_rate_warms_up_and_falls_to_zero() -> None:
    budget = Budget(steps=100, minutes=None)
    rates = []
    for budget.step in range(101):
        rates.append(budget.rate_factor(10))
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[-1] == pytest.approx(0.0)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_plateau_is_flat_after_its_patience() -> None:
    plateau = Plateau(patience=2)
    assert plateau.update(1.0)
    assert not plateau.update(1.0)
    assert not plateau.flat
    assert not plateau.update(1.1)
    assert plateau.flat
    assert plateau.update(0.5)
    assert not plateau.flat


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_presence_is_learned_and_leaves_the_network(tomogram, loop, go) -> None:
    settings = replace(SMALL, steps=40, patch_size=24, block_size=60, blocks=6)
    fit = loop(settings)
    go(fit)
    restorer = fit.average.restorer
    again = copy.deepcopy(restorer)
    learn_presence(restorer, fit.feed.pool, margin=8, seed=0)
    assert_same(restorer.network, again.network)
    learn_presence(again, fit.feed.pool, margin=8, seed=0)
    assert_same(restorer.presence, again.presence)
    # On whole volumes of another seed, seen as a restoration sees them.
    fresh = tomogram(seed=7).volumes
    generator = torch.Generator().manual_seed(0)
    even, odd = (torch.from_numpy(v.numpy()).float() for v in fresh)
    given = {
        STRUCTURE: even,
        FEATURELESS: irfft(rfft(even) * random_phases(even.shape, generator), even.shape),
        NOTHING: (even - odd) / 2**0.5,
    }
    scale = float(even.std())
    for case, volume in given.items():
        with torch.no_grad():
            p = restorer.presence(restorer.features((volume / scale)[None, None])).mean(dim=(0, 2, 3, 4))
        assert int(p.argmax()) == case
