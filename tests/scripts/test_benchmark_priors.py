"""The benchmark of priors: its page follows from its rows, and the rows to beat are what they are called."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoaae.config import load_fit_config
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.mrc import write_volume
from cryoaae.metrics.fsc import correlation
from cryoaae.physics.fourier import irfft, multiplicity, rfft, shell_index, shell_sum
from cryoaae.physics.wedge import MissingWedge

conditions = import_module("restoration_conditions")
page = import_module("priors_table")
proxy = import_module("priors_proxy")
benchmark = import_module("benchmark_priors")
judging = import_module("priors_judge")
WEDGE = MissingWedge((-60.0, 60.0))


def row(variant: str, auc: float, *, seed: int = 700, use: float | None = None, **changed: Any) -> dict[str, Any]:
    curve = [1.0, 0.8, 0.6, 0.1, 0.0, 0.0, 0.0, 0.0]
    scores = dict.fromkeys(("cc", "seen", "low", "mid"), 0.7) | {"lost": 2, "invented": 4} | changed
    scores |= {"power_seen": curve, "power_wedge": [value / 2 for value in curve]}
    made = {
        "condition": "small", "variant": variant, "seed": seed, "auc": auc, "scores": scores, "steps": 300,
        "nothing": {"noise_wedge": 0.01, "noise_seen": 0.02, "phases_wedge": 0.03}, "cpu_seconds": 470,
        "memory_mib": 900, "codes": None if use is None else {"use": use},
    }  # fmt: skip
    if variant == page.PLAIN:
        beside = {page.AMPLITUDE: 0.7, page.NOISE: 0.66}
        made["beside"] = {name: {"scores": scores, "auc": value} for name, value in beside.items()}
        made["beside"] |= {page.TRUTH: {"auc": 0.55}, page.SMEARED: {"auc": 0.8}}
    return made


def test_the_committed_page_is_that_of_the_committed_rows() -> None:
    assert page.ROWS.with_suffix(".md").read_text() == page.table(benchmark.read_rows(page.ROWS))


def test_a_prior_counts_as_realism_only_below_both_changed_defaults() -> None:
    rows = [row("none", 0.8), row("cryogen1", 0.65, low=0.75), row("cryogen2", 0.68, cc=0.5)]
    text = page.table(rows)
    assert "- CryoGEN-I: nearer to structure than both changed defaults; lo +0.050, cc within 0.01 (1 paired)." in text
    assert "- CryoGEN-II, Sinkhorn: no realism beyond the rows to beat; lo +0.000, cc falls by 0.200" in text
    assert "| None + matched noise | 1 | 0.700 |" in text
    assert "| Truth | 1 | – | – | – | – | – | – | 0.550 | – | – |" in text
    # Of eight shells the middles of three lie in the bands.
    assert "| None | 1 | 0.700 | 0.700 | 0.700 | 0.700 | 0.800 | 0.400 | 0.800 | 2.0 | 4.0 |" in text


def test_what_looks_truer_than_the_truth_is_as_far_from_it() -> None:
    assert "- CryoGEN-I: no realism" in page.table([row("none", 0.8), row("cryogen1", 0.3)])
    assert "- CryoGEN-I: nearer" in page.table([row("none", 0.8), row("cryogen1", 0.4)])


def test_one_seed_that_fails_is_enough_and_only_pairs_count() -> None:
    rows = [row("none", 0.8), row("none", 0.8, seed=701), row("cryogen1", 0.6), row("cryogen1", 0.7, seed=701)]
    assert "- CryoGEN-I: no realism" in page.table(rows)
    assert "- CryoGEN-I" not in page.table([row("none", 0.8), row("cryogen1", 0.6, seed=701)])


def test_what_comes_from_nothing_is_not_claimed_of_a_mode() -> None:
    text = page.table([row("none", 0.8), row("descent", 0.6) | {"nothing": None}])
    assert "| CryoGEN-I, mode by descent | – | – | no code | 300 | 470 | 900 |" in text
    assert "| None | 0.0100 (0.0200) | 0.0300 | no code | 300 | 470 | 900 |" in text


def test_codes_that_change_nothing_are_called_unused_and_the_last_row_of_a_run_counts() -> None:
    text = page.table([row("bottleneck-aae", 0.8, use=0.2), row("bottleneck-aae", 0.8, use=0.004)])
    assert "| 0.4%, code unused | 300 |" in text
    assert "| no code |" in page.table([row("none", 0.8)])
    assert page.done([row("none", 0.8)]) == {"small/none/700"}


def test_the_plan_is_the_screen_and_confirms_on_other_seeds() -> None:
    screen = benchmark.plan()
    assert len(screen) == len({run.name for run in screen}) == 2 * len(page.VARIANTS)
    confirm = benchmark.plan(["cryogen1"])[len(screen) :]
    assert {run.variant for run in confirm} == {"none", "cryogen1"}
    assert len(confirm) == 2 * 3 * 3
    assert not {run.seed for run in confirm} & {run.seed for run in screen}


def test_variants_are_what_the_presets_fit() -> None:
    for name in ("cryogen1", "cryogen2", "volumetric"):
        assert FitSettings(**page.VARIANTS[name].settings) == load_fit_config(preset=name)
    for run in benchmark.plan():
        assert benchmark.settings_of(run).seed == run.seed


# -- rows to beat, and the smaller proxy ----------------------------------------------------------------


def powers(volume: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    index = shell_index(volume.shape, proxy.SHELLS)
    weight = region * multiplicity(volume.shape)
    return shell_sum(rfft(volume - volume.mean()).abs() ** 2 * weight, index, proxy.SHELLS) / shell_sum(
        weight, index, proxy.SHELLS
    ).clamp(min=1)


def halves(size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(size, size, size, generator=generator)
    even, odd = (WEDGE.measured(truth + 0.5 * torch.randn(truth.shape, generator=generator)) for _ in range(2))
    return truth, even, odd


def test_the_signals_power_is_read_from_halves_and_amplitudes_are_brought_to_it() -> None:
    truth, even, odd = halves()
    signal = proxy.signal_power(even, odd, WEDGE)
    assert torch.allclose(signal[4:], torch.ones(28, dtype=signal.dtype), atol=0.15), "white, of variance 1"
    made = proxy.amplitude_matched(0.3 * truth, signal)
    assert torch.allclose(powers(made, torch.ones_like(rfft(made).real))[4:], signal[4:], rtol=0.05)
    inside = shell_index(truth.shape, proxy.SHELLS) < proxy.SHELLS
    assert correlation(made, irfft(rfft(truth) * inside, truth.shape)) > 0.95


def test_matched_noise_fills_what_is_lacking_where_it_is_lacking() -> None:
    truth, even, odd = halves()
    signal = proxy.signal_power(even, odd, WEDGE)
    restored = WEDGE.measured(truth)
    made = proxy.with_matched_noise(restored, signal, WEDGE, torch.Generator().manual_seed(1))
    measured = WEDGE.support(truth.shape).to(torch.float32)
    assert torch.allclose(powers(made, 1 - measured)[6:], signal[6:], rtol=0.3)
    assert float(powers(made - restored, measured)[6:].max()) < 0.3 * float(signal[6:].mean())


def phantom(folder: Path, halves_: tuple[torch.Tensor, ...]) -> Any:
    """A tomogram's files as the benchmark has them."""
    files = {}
    for name, volume in zip(("even", "odd"), halves_, strict=True):
        files[name] = folder / f"{name}.mrc"
        write_volume(files[name], volume.numpy(), voxel_size_angstrom=10.0)
    (folder / "tilts.tlt").write_text("".join(f"{tilt}\n" for tilt in range(-60, 61, 3)))
    return conditions.Data(files, folder, folder / "tilts.tlt", folder, {})


def test_a_judge_is_kept_and_gives_the_same_areas_to_all_rows_of_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, *both = halves(80)
    tomogram = proxy.opened(phantom(tmp_path, tuple(both)))
    torch.manual_seed(0)
    network = judging.PatchDiscriminator()
    monkeypatch.setattr(judging, "_learned", lambda *_: judging.Judge(network, {"condition": "small", "check": []}))
    made = judging.judge_of("small", tmp_path)
    assert made.facts["check"] == []
    monkeypatch.delattr(judging, "_learned")
    kept = judging.judge_of("small", tmp_path)
    monkeypatch.setattr(judging, "OWN_BLOCKS", 12)
    volumes = {"one": truth, "other": truth, "empty": 0 * truth}
    found = kept.areas(tomogram, truth, volumes, seed=3)
    assert found["one"] == found["other"] == made.areas(tomogram, truth, {"one": truth}, seed=3)["one"]
    assert found["empty"] != found["one"]


def test_the_judge_learns_on_seeds_that_no_row_is_scored_on() -> None:
    learned = range(judging.FIRST_SEED, judging.FIRST_SEED + judging.LEARNED_ON + judging.CHECKED_ON)
    scored = {run.seed for run in benchmark.plan(["cryogen1"])}
    assert not scored & set(learned)
    assert page.SMEARED in judging.LEARNED_FROM
    assert not {page.AMPLITUDE, page.NOISE} & set(judging.LEARNED_FROM), "what a prior must beat it has not met"


def test_the_plan_says_what_is_left_and_nulls_of_a_tomogram_are_taken_from_the_defaults_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.json"
    wanted = benchmark.plan()[:3]
    *lines, last = benchmark.shown(wanted, rows)
    assert [line.split()[0] for line in lines] == [run.name for run in wanted]
    assert all("CPU-minutes" in line for line in lines)
    benchmark.append(rows, row("none", 0.8) | {name: {"of": name} for name in benchmark.BESIDE})
    assert " done " in next(benchmark.shown(wanted, rows))
    assert int(list(benchmark.shown(wanted, rows))[-1].split()[1]) < int(last.split()[1])
    asked = []

    def evaluated(_data: Any, _output: Path, *, baselines: bool) -> dict[str, Any]:
        asked.append(baselines)
        return {"rows": ["scores"]}

    monkeypatch.setattr(benchmark, "evaluated", evaluated)
    run = conditions.Run("small", "cryogen1", 700)
    assert benchmark.scored_beside(run, None, tmp_path, rows) == (
        "scores", {name: {"of": name} for name in benchmark.BESIDE}
    )  # fmt: skip
    assert asked == [False]


def test_a_prior_from_the_spectrum_is_held_against_the_fit_from_the_spectrum() -> None:
    rows = [row("none", 0.8), row("scratch", 0.8, low=0.5), row("volumetric", 0.5, low=0.55)]
    assert "- Volumetric, code by MMD: nearer to structure than both changed defaults; lo +0.050" in page.table(rows)
    assert "- Volumetric" not in page.table([row("none", 0.8), row("volumetric", 0.5)])


def test_without_a_judge_nothing_is_called_realism() -> None:
    rows = [row("none", 0.8) | {"auc": None}, row("cryogen1", 0.6) | {"auc": None}]
    assert "- CryoGEN-I: not judged" in page.table(rows)
