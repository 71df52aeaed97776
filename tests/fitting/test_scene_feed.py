"""Batches of filtered, mixed and cut scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae.fitting import scene_feed
from cryoaae.fitting.scene_feed import Mixed, SceneFeed, draw_transfer, mix
from cryoaae.models.general_fitting import GeneralFitting, squared_error
from cryoaae.nets.presence import STRUCTURE
from cryoaae.nets.unet import UNet
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.fourier import radius, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.simulation.scenes import Scene

EDGE, PATCH = 40, 16
CPU = torch.device("cpu")


def made_scene(seed: int) -> Scene:
    """Blobs and white noise, seen through a lopsided wedge."""
    generator = torch.Generator().manual_seed(seed)
    shape, wedge = (EDGE,) * 3, MissingWedge((-40.0, 65.0))
    field = band_limit(torch.randn(shape, generator=generator), 0.10, 0.14)
    truth = (field / field.std() - 1.0).clamp(min=0) * 4
    noises = [wedge.measured(torch.randn(shape, generator=generator)).numpy() for _ in range(2)]
    return Scene(wedge.measured(truth).numpy(), *noises, truth.numpy(), 20.0, (-40.0, 65.0), 3.0)


def mixed(scene: Scene, seed: int, *, structure: bool = True) -> Mixed:
    return mix(scene, seed=seed, patch=PATCH, hidden_weight=2.0, device=CPU, case=STRUCTURE if structure else None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    for index in range(3):
        made_scene(index).save(folder / f"{index}.npz")
    return sorted(folder.iterdir())


def feed_of(files: list[Path], **changes: object) -> SceneFeed:
    settings = {"held_out": 1, "patch": PATCH, "blocks": 2, "renew_every": 2, "batch_size": 2, "hidden_weight": 2.0}
    return SceneFeed(files, **(settings | changes), seed=0, device=CPU)  # type: ignore[arg-type]


def share_in_wedge(volume: torch.Tensor, wedge: MissingWedge) -> float:
    box = (EDGE,) * 3
    power = rfft(volume - volume.mean()).abs().square() * (radius(box) < 0.2)
    return float(power[wedge.depth(box) > 1.5].sum() / power.sum())


def test_the_condition_tells_the_tilts_of_the_scene_as_it_was_turned() -> None:
    told = set()
    for seed in range(8):
        made = mixed(made_scene(0), seed)
        low, high = (55 + 10 * float(made.condition[0])), (55 + 10 * float(made.condition[1]))
        told.add((round(low), round(high)))
        own, other = MissingWedge((-low, high)), MissingWedge((-high, low))
        assert share_in_wedge(made.inputs[0], own) < 0.02 < share_in_wedge(made.inputs[0], other)
    assert told == {(40, 65), (65, 40)}


def test_truth_and_signal_pass_the_same_transfer() -> None:
    silent = replace(made_scene(1), even=1e-4 * made_scene(1).even, odd=1e-4 * made_scene(1).odd)
    for seed in range(3):
        made = mixed(silent, seed)
        # The noise is brought to a level of its own; what the two tomograms share is T h x, and the target h x.
        spectrum, target = rfft(made.inputs[0]), rfft(made.truth[0])
        low, high = -(55 + 10 * float(made.condition[0])), 55 + 10 * float(made.condition[1])
        box = (EDGE,) * 3
        seen = MissingWedge((low, high)).support(box, margin=1.0) & (radius(box) > 0.03) & (radius(box) < 0.12)
        slope = (spectrum * target.conj()).real[seen].sum() / target.abs().square()[seen].sum()
        assert float(slope) == pytest.approx(1.0, abs=0.1)


def test_either_half_can_be_asked_for_and_one_of_them_is_drawn() -> None:
    given = {"seed": 4, "patch": PATCH, "hidden_weight": 2.0, "device": CPU, "case": STRUCTURE}
    drawn, even, odd = (mix(made_scene(0), **given, **which) for which in ({}, {"half": 0}, {"half": 1}))
    assert torch.equal(even.truth, odd.truth) and torch.equal(even.condition, odd.condition)
    assert not torch.equal(even.inputs, odd.inputs)
    assert sum(torch.equal(drawn.inputs, one.inputs) for one in (even, odd)) == 1


def test_transfer_is_positive_and_starts_at_the_amplitude_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    k = radius((32, 32, 32))
    for _ in range(20):
        transfer = draw_transfer(k, 20.0, generator)
        assert float(transfer.min()) >= 0 and float(transfer.max()) < 6
        first = float(transfer.flatten()[0])
        assert first == pytest.approx(1.0) or 0.05 <= first <= 0.15


def test_noise_alone_has_no_target_and_a_twin_has_no_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = made_scene(2)
    monkeypatch.setattr(scene_feed, "NOTHING_SHARE", 1.0)
    nothing = mixed(scene, 5, structure=False)
    assert float(nothing.truth.abs().max()) == 0 and float(nothing.inputs[0].std()) > 0
    monkeypatch.setattr(scene_feed, "NOTHING_SHARE", 0.0)
    monkeypatch.setattr(scene_feed, "TWIN_SHARE", 1.0)
    twin, real = mixed(scene, 5, structure=False), mixed(scene, 5)
    assert float(twin.truth.std()) == pytest.approx(float(real.truth.std()), rel=0.1)

    def skewness(x: torch.Tensor) -> float:
        x = x - x.mean()
        return float((x**3).mean() / (x**2).mean() ** 1.5)

    assert abs(skewness(twin.truth)) < 0.25 < skewness(real.truth)


def test_same_seed_same_batches_and_kept_out_scenes_stay_out(files: list[Path]) -> None:
    feeds = [feed_of(files) for _ in range(2)]
    for step in range(5):
        for feed in feeds:
            feed.prepare(step, 0.0, None)
        a, b = (feed.batch() for feed in feeds)
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
    assert feeds[0].kept_out == files[:1] and files[0] not in feeds[0].pool.scenes
    more = feed_of([*files, files[-1]])
    assert more.kept_out == files[:1]  # scenes that come later change nothing there


def test_resumed_feed_goes_on_as_if_it_had_not_stopped(files: list[Path]) -> None:
    whole, first = feed_of(files), feed_of(files)
    for step in range(3):
        for feed in (whole, first):
            feed.prepare(step, 0.0, None)
            feed.batch()
    second = feed_of(files)
    second.load_state(first.state(), None)
    for step in range(3, 6):
        for feed in (whole, second):
            feed.prepare(step, 0.0, None)
        assert torch.equal(whole.batch().inputs, second.batch().inputs)


@torch.no_grad()
def test_the_error_is_a_share_of_the_linear_filters(files: list[Path]) -> None:
    """A network that adds nothing leaves all of it; the errors of many patches average to about that."""
    feed = feed_of(files)
    model = GeneralFitting(UNet(in_channels=2, widths=(4, 8), conditions=CONDITIONS))
    (batch,) = feed.held_out()
    assert float(model.held_out_loss(batch)) == pytest.approx(1.0, abs=0.35)
    perfect = replace(batch, targets=batch.inputs[:, 1:])
    assert float(model.error(perfect)) < 1e-6
    # The error of a quiet tomogram counts as much as that of a loud one.
    loud = replace(
        batch, inputs=5 * batch.inputs, targets=5 * batch.targets, baseline=25 * batch.baseline
    )  # fmt: skip
    assert float(model.error(loud)) == pytest.approx(float(model.error(batch)), rel=1e-4)


def test_what_was_not_measured_weighs_more(files: list[Path]) -> None:
    batch = feed_of(files).held_out()[0]
    error = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(0))
    once, twice = (squared_error(error, batch.kept, batch.shell_weight, weight) for weight in (1.0, 2.0))
    wedge_only = squared_error(error, batch.kept, batch.shell_weight, 0.0)
    assert torch.allclose(twice - once, once - wedge_only, rtol=1e-4) and bool((twice > once).all())


def test_descending_lowers_the_error(files: list[Path]) -> None:
    torch.manual_seed(0)
    model, (batch,) = GeneralFitting(UNet(widths=(4, 8), conditions=CONDITIONS)), feed_of(files).held_out()
    (phase,) = model.phases()
    optimiser = torch.optim.Adam(phase.parameters, lr=1e-2)
    losses = []
    for _ in range(25):
        loss = phase.losses(batch)["scenes"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_at_half_precision_the_error_and_its_gradient_are_nearly_those_at_full(files: list[Path]) -> None:
    torch.manual_seed(0)
    network, (batch,) = UNet(widths=(4, 8), conditions=CONDITIONS), feed_of(files).held_out()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found = []
    for precision in (torch.float32, torch.bfloat16):
        network.zero_grad()
        error = GeneralFitting(network, precision=precision).error(batch)
        error.backward()
        found.append((error.item(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])))
    (full, exact), (half, near) = found
    assert half != full and half == pytest.approx(full, rel=0.02)
    assert float(torch.cosine_similarity(exact, near, dim=0)) > 0.99
