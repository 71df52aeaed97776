"""Runs of the 2-D family on scikit-learn's digits: quality floors, stacks, resuming, guards, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoaae.autoencoding import diagnostics as diagnostics_module
from cryoaae.autoencoding import evaluate as evaluate_module
from cryoaae.autoencoding import judge as judge_module
from cryoaae.autoencoding.diagnostics import READINGS, Diagnostics, Reading
from cryoaae.autoencoding.evaluate import class_scores
from cryoaae.autoencoding.family import FamilyRun
from cryoaae.autoencoding.run import fit_autoencoder, recorded_config
from cryoaae.autoencoding.settings import VARIANTS, AutoencodingSettings
from cryoaae.cli import run as cli
from cryoaae.config import load_aae_config, presets, recorded_stack
from cryoaae.errors import FittingDivergedError, InputError, InterruptedRunError
from cryoaae.io.images import ImageSplit, load_images
from cryoaae.io.weights import load_weights
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress


@pytest.fixture(autouse=True)
def quick_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """What judges a finished run takes longer than a small fit."""
    monkeypatch.setattr(judge_module, "STEPS", 40)
    monkeypatch.setattr(evaluate_module, "FLOOR_REPEATS", 4)


@pytest.fixture(scope="module")
def digits() -> ImageSplit:
    return load_images("digits")


def small(variant: str, **more: Any) -> AutoencodingSettings:
    return load_aae_config(variant, overrides=["hidden=[64,64]"], **more)


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.parametrize(
    "variant",
    ["semisupervised", "dimension-reduction", "supervised", "labelled", "wae", "vae", "sinkhorn", "evia"],
)
def test_a_stack_is_its_separate_runs(variant: str, digits: ImageSplit) -> None:
    settings = small(variant, seed=3)
    steps = 40
    stack = FamilyRun(digits, settings, 3, dtype=torch.float64)
    for _ in range(steps):
        stack.loop.step()
    for index, seed in enumerate(stack.all_seeds()):
        alone = FamilyRun(digits, settings.model_copy(update={"seed": seed}), dtype=torch.float64)
        for _ in range(steps):
            alone.loop.step()
        for name, value in alone.member(0).state_dict().items():
            torch.testing.assert_close(stack.member(index).state_dict()[name], value, rtol=0, atol=1e-5)


def readings_of(folder: Path) -> list[list[str]]:
    """Rows of metrics.csv without the CPU-seconds."""
    return [row[:1] + row[2:] for row in csv.reader((folder / "metrics.csv").read_text().splitlines())]


class StopAfter(NullProgress):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedRunError("stopped")


@pytest.mark.parametrize("stack_seeds", [None, 2])
def test_resuming_is_bit_identical(stack_seeds: int | None, tmp_path: Path) -> None:
    settings = small("semisupervised", epochs=3.0)
    whole = fit_autoencoder("digits", tmp_path / "whole", settings, stack_seeds=stack_seeds)
    with pytest.raises(InterruptedRunError):
        fit_autoencoder("digits", tmp_path / "broken", settings, stack_seeds=stack_seeds, progress=StopAfter(17))
    broken = fit_autoencoder("digits", tmp_path / "broken", settings, stack_seeds=stack_seeds, resume=True)
    tensors, _ = load_weights(whole / "model.safetensors")
    again, _ = load_weights(broken / "model.safetensors")
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert result(whole)["metrics"] == result(broken)["metrics"]
    assert readings_of(whole) == readings_of(broken)


def test_unlabelled_digits_teach_the_classifier(digits: ImageSplit) -> None:
    """20 labels, three seeds: better than what the labels alone give the same encoder."""
    errors = []
    for overrides in ([], ["reconstruction_weight=0", "class_weight=0", "divergence_weight=0"]):
        settings = load_aae_config(
            "semisupervised", overrides=["hidden=[64,64]", *overrides], labels=20, epochs=60.0
        )
        fit = FamilyRun(digits, settings, 3)
        while fit.loop.finished() is None:
            fit.loop.step()
        scores = [class_scores(fit.member(i).eval(), fit.data, labelled=True) for i in range(3)]
        errors.append(sum(score["test_error_percent"] for score in scores) / 3)
    assert errors[0] < 26
    assert errors[0] < errors[1]


def test_codes_follow_their_prior_and_figures_are_drawn(tmp_path: Path) -> None:
    folder = fit_autoencoder("digits", tmp_path / "run", small("wae", epochs=60.0))
    metrics = result(folder)["metrics"]
    assert metrics["two_sample_accuracy"] < 0.7
    assert abs(metrics["code_std_over_prior"] - 1) < 0.15
    assert metrics["half_squared_error"] < 1.9  # the mean image alone: 5.8
    made = {p.name for p in folder.iterdir()}
    assert {"latent.html", "latent.png", "manifold.png", "curves.png", "reconstructions.png"} <= made
    assert "<canvas" in (folder / "latent.html").read_text()


def test_clusters_are_better_than_chance_and_all_used(tmp_path: Path) -> None:
    metrics = result(fit_autoencoder("digits", tmp_path / "run", small("clustering", epochs=60.0)))["metrics"]
    assert metrics["majority_error_percent"] < 35
    assert metrics["clusters_used"] >= 12


def readings(**values: float) -> list[Reading]:
    return [Reading(500 + i, 0.5 + 0.1 * i, {k: [v] for k, v in values.items()}) for i in range(READINGS)]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"accuracy_style": 0.99, "spread": 1.0}, "discriminator of the style .* 99 %"),
        ({"accuracy_style": 0.5, "spread": 0.01}, "all codes lie within 1.0 %"),
    ],
)
def test_a_fit_that_has_failed_stops_and_says_why(values: dict[str, float], word: str, digits: ImageSplit) -> None:
    diagnostics = Diagnostics(digits.validation.pixels, digits.validation.labels, 0, readings(**values))
    with pytest.raises(FittingDivergedError, match=word):
        diagnostics.check()


def test_a_fit_that_goes_well_goes_on(digits: ImageSplit) -> None:
    fine = readings(accuracy_style=0.55, spread=0.9)
    Diagnostics(digits.validation.pixels, digits.validation.labels, 0, fine).check()
    early = [Reading(500 + i, 0.01 * i, {"accuracy_style": [1.0], "spread": [0.0]}) for i in range(READINGS)]
    Diagnostics(digits.validation.pixels, digits.validation.labels, 0, early).check()


def test_a_referee_that_wins_ends_the_run_with_exit_code_4(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Codes that hardly any weight draws towards the prior."""
    monkeypatch.setattr(diagnostics_module, "REFEREE_WINS", 0.55)
    arguments = [
        "aae", "aae", "--data", "digits", "-o", str(tmp_path / "run"), "--epochs", "60", "-q",
        "--set", "divergence_weight=1e-6", "--set", "learning_rate=0.003", "--set", "reconstruction_weight=1",
        "--set", "hidden=[64,64]",
    ]  # fmt: skip
    assert cli(arguments) == 4
    assert "tells codes from prior" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


BAD = {
    "variant": (["gan", "--data", "digits"], "none of"),
    "near variant": (["clusterin", "--data", "digits"], "did you mean 'clustering'"),
    "no data": (["aae", "--data", "nowhere"], "nowhere"),
    "labels": (["semisupervised", "--data", "digits", "--labels", "7"], "no multiple"),
    "labels for nothing": (["aae", "--data", "digits", "--labels", "100"], "uses no labels"),
    "fewer classes than labels": (["semisupervised", "--data", "digits", "--clusters", "5"], "5 classes for 10"),
    "no run beside": (["aae", "--data", "digits", "--beside", "nowhere"], "nowhere"),
    "latent": (["aae", "--data", "digits", "--latent", "gausian"], "gausian"),
    "divergence": (["aae", "--data", "digits", "--divergence", "gan"], "gan"),
    "setting": (["aae", "--data", "digits", "--set", "epoch=3"], "did you mean 'epochs'"),
    "setting of a part": (["aae", "--data", "digits", "--set", "prior.sdt=3"], "did you mean 'std'"),
    "nothing to compare": (["evia", "--data", "digits", "--divergence", "adversarial"], "--divergence adversarial"),
    "no classes to tell": (["aae", "--data", "digits", "--set", "tell_class=false"], "would be ignored"),
    "temperature": (["wae", "--data", "digits", "--set", "temperature=1.0"], "would be ignored"),
    "another variant's preset": (["wae", "--data", "digits", "--preset", "aae"], "for the variant aae, not wae"),
    "stack": (["aae", "--data", "digits", "--stack-seeds", "2", "--set", "network=convolutional"], "do not stack"),
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_usage_is_one_line_and_writes_nothing(case: str, dry: bool, tmp_path: Path, capsys: Any) -> None:
    arguments, word = BAD[case]
    target = tmp_path / "run"
    assert cli(["aae", *arguments, "-o", str(target), *(["--dry-run"] if dry else [])]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert len(said.splitlines()) == 1
    assert not target.exists()


@pytest.mark.parametrize("preset", presets("aae"))
def test_every_preset_makes_a_step_on_digits(preset: str, digits: ImageSplit) -> None:
    variant = {"parzen": "aae", "colour": "aae"}.get(preset, preset)
    settings = load_aae_config(variant, preset=preset)
    fit = FamilyRun(digits, settings)
    before = [p.detach().clone() for p in fit.loop.model.parameters()]
    for _ in range(2):
        terms = fit.loop.step()
    assert all(v == v for v in terms.values())
    assert all(not torch.equal(a, b) for a, b in zip(before, fit.loop.model.parameters(), strict=True))


def test_a_finished_run_taken_up_again_stays_as_it_is(tmp_path: Path) -> None:
    settings = small("aae", epochs=2.0)
    folder = fit_autoencoder("digits", tmp_path / "run", settings)
    before, metrics = readings_of(folder), result(folder)["metrics"]
    page = (folder / "latent.html").read_bytes()
    fit_autoencoder("digits", folder, settings, resume=True)
    assert readings_of(folder) == before
    assert result(folder)["metrics"] == metrics
    assert (folder / "latent.html").read_bytes() == page


def test_two_runs_share_a_page_and_a_wrong_one_costs_nothing(tmp_path: Path) -> None:
    settings = small("aae", epochs=1.0)
    one = fit_autoencoder("digits", tmp_path / "one", settings)
    two = fit_autoencoder("digits", tmp_path / "two", small("wae", epochs=1.0), beside=one)
    page = (two / "latent.html").read_text()
    assert "aae (adversarial)" in page
    assert "wae (mmd)" in page
    result_before = (one / "result.json").read_bytes()
    for beside in (tmp_path / "nowhere", one):
        with pytest.raises(InputError):
            fit_autoencoder("digits", one, settings, beside=beside, overwrite=True)
    assert (one / "result.json").read_bytes() == result_before


def test_what_an_earlier_run_left_does_not_outlive_it(tmp_path: Path) -> None:
    folder = fit_autoencoder("digits", tmp_path / "run", small("aae", epochs=1.0))
    assert (folder / "manifold.png").exists()
    fit_autoencoder("digits", folder, small("supervised", epochs=1.0), overwrite=True)
    assert not (folder / "manifold.png").exists()


def test_options_change_a_part_and_keep_what_the_preset_says_of_it() -> None:
    kept = load_aae_config("semisupervised", parts={"prior": "gaussian", "divergence": "adversarial"})
    assert kept == load_aae_config("semisupervised")
    other = load_aae_config("semisupervised", parts={"prior": "uniform"}, overrides=["prior.half_width=2"])
    assert other.prior == {"name": "uniform", "dim": 10, "half_width": 2}
    assert load_aae_config("aae", parts={"prior": "mixture"}).prior == {"name": "mixture"}


def test_what_a_preset_says_of_a_part_goes_with_the_part() -> None:
    """The mmd is told no class, the paper's phases have their own rates: neither is in the way."""
    assert load_aae_config("semisupervised").tell_class
    assert not load_aae_config("semisupervised", parts={"divergence": "mmd"}).tell_class
    assert load_aae_config("aae", overrides=["phased=true"]).critic_rate == 1.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_s_config_makes_the_same_run_again(variant: str, tmp_path: Path, capsys: Any) -> None:
    again = tmp_path / "config.yaml"
    settings = load_aae_config(variant, overrides=["hidden=[8]"], seed=7)
    RunFolder.create(tmp_path / "run", "aae", recorded_config("digits", settings, 3))
    again.write_text((tmp_path / "run" / "config.yaml").read_text())
    assert load_aae_config(variant, file=again) == settings
    assert recorded_stack(again) == 3
    assert ("temperature" in again.read_text()) == (variant == "evia")
    if variant != "evia":  # as an older version with another default would have left it
        again.write_text(again.read_text() + "temperature: 0.9\n")
        assert load_aae_config(variant, file=again) == settings
    other = "wae" if variant == "aae" else "aae"
    assert cli(["aae", other, "--data", "digits", "-o", str(tmp_path / "new"), "--config", str(again)]) == 2
    assert f"for the variant {variant}, not {other}" in capsys.readouterr().err


def test_the_paper_s_phases_learn_too(digits: ImageSplit) -> None:
    settings = load_aae_config(
        "semisupervised", overrides=["hidden=[64,64]", "phased=true", "learning_rate=0.1"], epochs=40.0
    )
    fit = FamilyRun(digits, settings)
    assert [p.name for p in fit.loop.phases] == ["reconstruction", "critic", "generator", "supervised"]
    while fit.loop.finished() is None:
        fit.loop.step()
    assert class_scores(fit.member(0).eval(), fit.data, labelled=True)["test_error_percent"] < 20


def test_more_labels_of_a_class_than_there_are_is_an_input_error(digits: ImageSplit) -> None:
    with pytest.raises(InputError, match="class"):
        FamilyRun(digits, small("semisupervised", labels=990))


def test_all_labels_are_every_label_once(digits: ImageSplit) -> None:
    fit = FamilyRun(digits, small("semisupervised", labels=1000))
    assert fit.feed.labelled is not None
    assert torch.equal(fit.feed.labelled.labels, digits.train.labels)
