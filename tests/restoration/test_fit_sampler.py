"""The sampler's fit on halves: what it is shown, that it goes on where it was stopped, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shrinking import VOXEL, Gain
from torch import Tensor

from cryoaae.cli import run as cli
from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.fitting.loop import Loop
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import save_rotating
from cryoaae.io.project import Tomogram
from cryoaae.models.general import GeneralRestorer, GeneralSpec
from cryoaae.models.half_deviations import band_sizes
from cryoaae.nets.deviation import Deviation, DeviationSpec
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration import turned_feed
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.fit_posterior import begin_anew, ended
from cryoaae.restoration.fit_sampler import CHECKPOINTS, SamplerFit, SamplerSettings
from cryoaae.restoration.sampler_weights import FILE, weights_beside
from cryoaae.restoration.samplers import SAMPLERS
from cryoaae.restoration.tomogram_draws import SampleOptions
from cryoaae.restoration.turned_halves import TurnedHalf, TurnedHalves
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.runs.progress import NullProgress
from cryoaae.volume import Volume

SHAPE, WEDGE = (20, 24, 16), MissingWedge((-60.0, 60.0))
WIDTHS = (2, 3, 4)
SETTINGS = SamplerSettings(
    box_size=16, boxes=1, redrawn_boxes=1, renew_every=2, steps=4, held_out_fraction=0.0, learning_rate=0.1
)


class StopsAt(NullProgress):
    """A user who stops a fit after so many steps."""

    fit: SamplerFit

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def check(self) -> None:
        if hasattr(self, "fit") and self.fit.loop.budget.step >= self.step:
            self.cancel()
        super().check()


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    """Networks with few channels come along."""
    torch.manual_seed(4)
    spec = GeneralSpec({"widths": list(WIDTHS), "conditions": CONDITIONS}, (10.0, 30.0), (40.0, 70.0))
    general = GeneralRestorer(spec).eval().requires_grad_(False)
    state = Deviation(DeviationSpec(features=WIDTHS, full=4, coarse=4)).requires_grad_(False).state_dict()

    def bundled() -> Deviation:
        made = Deviation(DeviationSpec(features=WIDTHS, full=4, coarse=4)).requires_grad_(False)
        made.load_state_dict(state)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GeneralRestorer, "bundled", lambda: general)
        patch.setattr(Deviation, "bundled", bundled)
        patch.setattr(turned_feed, "WATCHED", 1)
        yield


def volumes(
    signal: float = 5.0, wedge: MissingWedge = WEDGE, shape: tuple[int, int, int] = SHAPE
) -> list[Volume]:
    generator = torch.Generator().manual_seed(1)
    structure = band_limit(torch.randn(shape, generator=generator), 0.1, 0.15) * signal
    noise = [torch.randn(shape, generator=generator) for _ in range(2)]
    return [Volume(wedge.measured(structure + n).numpy(), VOXEL) for n in noise]


def tomogram() -> Tomogram:
    return Tomogram("t", *volumes(), None, WEDGE)


def fitted(folder: Path, progress: NullProgress | None = None, *, resume: bool = False) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    told = progress or NullProgress()
    made = SamplerFit([tomogram()], Gain(), folder, SETTINGS, device=torch.device("cpu"), progress=told)
    if isinstance(told, StopsAt):
        told.fit = made
    facts = made.run(resume=resume)
    assert facts["steps"] == SETTINGS.steps and facts["fitted_on"] == ["t"]
    return dict(Deviation.load(folder / FILE).state_dict())


@pytest.mark.parametrize("step", [1, 3])
def test_a_fit_that_was_stopped_goes_on_to_the_same_bits(step: int, tmp_path: Path) -> None:
    """Draws that were measured again are made again by who drew them, not by who draws now."""
    whole = fitted(tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        fitted(tmp_path / "parts", StopsAt(step))
    assert not (tmp_path / "parts" / FILE).exists(), "nothing half-written"
    parts = fitted(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / CHECKPOINTS).exists()


def test_only_what_says_how_large_deviations_are_is_fitted(tmp_path: Path) -> None:
    after = fitted(tmp_path / "run")
    before = Deviation.bundled().state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved <= {"by_size", "heads.amplitude.weight", "heads.amplitude.bias"}
    assert "heads.amplitude.bias" in moved


def test_where_nothing_does_better_on_what_is_kept_out_the_start_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "evaluate", rising)
    settings = replace(SETTINGS, held_out_fraction=0.1, evaluations=1)
    made = SamplerFit([tomogram()], Gain(), tmp_path, settings, device=torch.device("cpu"), progress=NullProgress())
    facts, before = made.run(), Deviation.bundled().state_dict()
    after = Deviation.load(tmp_path / FILE).state_dict()
    assert facts["scores_kept_out"] == [1.0, 2.0]
    assert all(torch.equal(after[name], before[name]) for name in before)


def rising(loop: Loop) -> float:
    """Readings that only get worse; the first belongs to the start."""
    loop.next_evaluation = 2.0
    loss = 1.0 if loop.budget.step == 0 else 2.0
    if loop.plateau.update(loss):
        loop.best = loop._weights(loop.average)
    return loss


@pytest.mark.parametrize("axis_deg", [0.0, 90.0])
def test_without_structure_target_and_fresh_noise_have_the_same_law(axis_deg: float) -> None:
    """All that is left is noise: the same power band by band, what was shown and what was hidden, however it lies."""
    wedge = MissingWedge((-60.0, 60.0), tilt_axis_deg=axis_deg)
    working = WorkingTomogram.of(
        volumes(0.0, wedge), wedge, Gain(0.0), options=RestoreOptions(device="cpu", symmetries=False)
    )
    source = TurnedHalves(working, edge=24, held_out_fraction=0.0, seed=0)
    boxes = [source.make(seed) for seed in range(12)]

    def power(pick: str) -> Tensor:
        fields = {"target": lambda box: [box.target], "noise": lambda box: list(box.noise)}[pick]
        each = [
            torch.stack([band_sizes(field, box.regions, box.fitted).square() for field in fields(box)]).mean(dim=0)
            for box in boxes
        ]
        return torch.stack(each).mean(dim=0)

    ratio = (power("target") / power("noise"))[:, 2:]  # coarse bands have few numbers
    assert ratio.shape[0] == 2
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.0, atol=0.35)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.1)


def source_of(restorer: Gain, given: list[Volume]) -> TurnedHalves:
    working = WorkingTomogram.of(given, WEDGE, restorer, options=RestoreOptions(device="cpu", symmetries=False))
    return TurnedHalves(working, edge=40, held_out_fraction=0.0, seed=0)


def width(measured: float, wedge: float) -> Deviation:
    """Draws the linear posterior times these factors, where data were measured and in the wedge."""
    made = Deviation(DeviationSpec(features=WIDTHS, full=4, coarse=4)).requires_grad_(False)
    torch.nn.init.zeros_(made.by_size)
    bias, uneven = made.heads["amplitude"].bias, made.heads["uneven"].bias
    assert isinstance(bias, Tensor) and isinstance(uneven, Tensor)
    half = len(bias) // 2
    bias[:half], bias[half:] = math.log(measured), math.log(wedge)
    uneven.fill_(-20.0)
    return made


def test_of_a_draw_that_was_measured_again_a_restorer_that_makes_nothing_misses_all() -> None:
    """The target is the turned draw without noise: of draws twice as wide, in the wedge too, twice as much."""
    source = source_of(Gain(0.0), volumes())
    once, twice = (source.redraw(3, width(factor, factor)) for factor in (1.0, 2.0))
    torch.testing.assert_close(twice.target, 2 * once.target, rtol=1e-4, atol=1e-5)
    measured, wedge = (source.redraw(3, width(*factors)) for factors in ((2.0, 1.0), (1.0, 2.0)))
    torch.testing.assert_close(measured.target + wedge.target, 3 * once.target, rtol=1e-4, atol=1e-5)


def test_of_a_draw_that_was_measured_again_a_restorer_that_hands_it_back_misses_the_noise() -> None:
    shape = (40, 40, 40)
    source = source_of(Gain(1.0), volumes(0.0, shape=shape))
    boxes = [source.redraw(seed, width(1e-3, 1e-3)) for seed in range(2)]
    one, other = (half[source.tomogram.core] for half in source.tomogram.halves)
    noise = source.faced[0].like((one - other) / 2**0.5).density
    own = torch.stack([band_sizes(noise, box.regions, box.fitted).square() for box in boxes]).mean(dim=0)
    missed = torch.stack([box.sizes.square() for box in boxes]).mean(dim=0)
    torch.testing.assert_close(missed[0, 2:], own[0, 2:], rtol=0.2, atol=0.0)


def test_a_draw_measured_again_is_a_function_of_the_seed_and_the_sampler() -> None:
    source = source_of(Gain(), volumes())
    one, again, other = (source.redraw(3, width(1.0, wedge)) for wedge in (1.0, 1.0, 1.5))
    assert torch.equal(one.target, again.target) and not torch.equal(one.target, other.target)
    assert not bool(one.noise.any()), "nothing but the error is in the target"


def test_without_boxes_of_halves_nothing_is_fitted() -> None:
    with pytest.raises(InputError, match="boxes"):
        SamplerSettings(boxes=0, redrawn_boxes=2)


def test_what_is_kept_out_is_not_fitted_on() -> None:
    working = WorkingTomogram.of(volumes(), WEDGE, Gain(), options=RestoreOptions(device="cpu", symmetries=False))
    source = TurnedHalves(working, edge=16, held_out_fraction=0.1, seed=0)
    box: TurnedHalf = source.make(3, held_out=True)
    assert bool(box.kept_out.any()) and not bool((box.kept_out & box.fitted).any())
    again = source.make(3, held_out=True)
    assert torch.equal(box.target, again.target) and torch.equal(box.noise, again.noise), "a function of the seed"
    for kept_out, where in ((False, box.fitted), (True, box.kept_out)):
        made = box.batch(3, kept_out=kept_out, coarse=4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(made.where[0], where) and len(made.noise) == 3


# -- what is refused, and who uses the weights --------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--single", "--posterior"], "two halves"),
        (["--posterior", "--hold-out-deg", "20"], "--hold-out-deg"),
        (["--keep-restorer"], "--posterior"),
        (["--posterior-steps", "5"], "--posterior"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_what_cannot_be_fitted_on_is_refused_in_one_line(
    words: list[str], said: str, dry: bool, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    even, odd = str(tiny / "t_EVN.mrc"), str(tiny / "t_ODD.mrc")
    given = [even] if "--single" in words else ["--even", even, "--odd", odd]
    asked = [word for word in words if word != "--single"] + (["--dry-run"] if dry else ["-q"])
    assert cli(["fit", *given, "--tilt-range", "-60", "60", "-o", str(tmp_path / "run"), "--steps", "1", *asked]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "run").exists()


def test_draws_are_by_the_weights_of_the_models_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert weights_beside(None) is None and weights_beside(tmp_path) is None and weights_beside(Gain()) is None
    fitted(run)
    (run / "model.safetensors").write_bytes(b"")
    for model in (run, run / "model.safetensors", str(run)):
        assert SampleOptions().by_run(model).weights == run / FILE
    assert SampleOptions(weights="general").by_run(run).weights == "general"
    assert SampleOptions(sampler="bootstrap").by_run(run).weights is None
    for name, made in SAMPLERS.items():
        if "weights" not in made.takes:
            with pytest.raises(InputError, match="--weights"):
                SampleOptions(sampler=name, weights=run / FILE)
    begin_anew(run)
    assert weights_beside(run) is None, "another restorer has other errors"


def test_a_restorer_stands_when_its_budget_is_spent(tmp_path: Path) -> None:
    assert not ended(tmp_path, FitSettings(steps=3))
    for name in ("model.safetensors", "report.html"):
        (tmp_path / name).write_bytes(b"")
    save_rotating(tmp_path / "checkpoints", {"step": 3, "seconds": 30.0, "plateau": [0.5, 0]})
    assert ended(tmp_path, FitSettings(steps=3)) and not ended(tmp_path, FitSettings(steps=4))
    assert ended(tmp_path, FitSettings(minutes=0.5)) and not ended(tmp_path, FitSettings(minutes=1.0))
    save_rotating(tmp_path / "checkpoints", {"step": 3, "seconds": 30.0, "plateau": [0.5, 8]})
    assert ended(tmp_path, FitSettings(steps=5, patience=8)) and not ended(tmp_path, FitSettings(steps=9, patience=8))
