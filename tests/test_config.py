"""Settings of a user: what cannot be is refused in words, whatever the YAML parser makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoaae.config import load_fit_config, presets
from cryoaae.errors import InputError
from cryoaae.fitting.settings import FitSettings

BAD_FILES = {
    "tag that runs code": ("!!python/object/apply:os.system ['true']\n", "YAML"),
    "tab": ("seed:\n\t- 1\n", "YAML"),
    "key twice": ("seed: 1\nseed: 2\n", "twice"),
    "key twice, deeper": ("widths: {a: 1, a: 2}\n", "twice"),
    "key that is a list": ("{[1]: 2}\n", "YAML"),
    "brackets without end": ("widths: " + "[" * 5000, "YAML"),
    "itself": ("widths: &a [*a]\n", "YAML"),
    "month 99": ("seed: 2026-99-99\n", "YAML"),
    "5000 digits": ("seed: " + "1" * 5000, "YAML"),
    "null byte": ("seed: 1\0", "YAML"),
    "empty": ("", "no settings"),
    "list": ("- 1\n- 2\n", "no settings"),
    "anchors bomb": ("a: &a [1]\nb: &b [*a, *a]\nwidths: [*b, *b]\n", "unknown setting 'a'"),
    "too large": ("# " + "x" * 200_000, "large"),
    "unknown": ("patch_sise: 32\n", "did you mean 'patch_size'"),
    "unknown, far off": ("volume: 11\n", "unknown setting 'volume'"),
    "a number as a key": ("3: 4\n", "unknown setting '3'"),
    "word for a number": ("patch_size: large\n", "patch_size"),
    "negative": ("patch_size: -48\n", "patch_size"),
    "batch 0": ("batch_size: 0\n", "batch_size"),
    "no widths": ("widths: []\n", "widths"),
    "block of a patch": ("patch_size: 48\nblock_size: 48\n", "block_size 48"),
    "patch that does not halve": ("patch_size: 18\n", "multiple of 4"),
    "forever": ("minutes: .inf\n", "minutes"),
    "not a number": ("learning_rate: .nan\n", "learning_rate"),
    "no end": ("minutes: null\n", "neither minutes nor steps"),
    "a seed torch cannot take": ("seed: 9223372036854775808\n", "seed"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_rows_50_to_52_a_bad_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, word = BAD_FILES[case]
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_fit_config(file=file)
    assert word in str(error.value)
    assert str(file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x80\x81")
    for file in (tmp_path / "none.yaml", tmp_path, binary):
        with pytest.raises(InputError, match=file.name):
            load_fit_config(file=file)


@pytest.mark.parametrize("override", ["seed", "widths=[4,", "seed=2026-99-99", "minutes=.inf", "patch_sise=32", "=3"])
def test_a_bad_override_is_refused(override: str) -> None:
    with pytest.raises(InputError) as error:
        load_fit_config(overrides=[override])
    assert len(str(error.value).splitlines()) == 1


def test_later_wins_file_then_override_then_option(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("start: spectrum\nseed: 1\nblocks: 5\nwidths: [4, 8]\n")
    settings = load_fit_config(file=file, overrides=["seed=2", "blocks=6"], seed=3, steps=None)
    assert (settings.seed, settings.blocks, settings.widths, settings.steps) == (3, 6, (4, 8), None)
    with pytest.raises(InputError, match="--preset"):
        load_fit_config(file=file, preset="full")


def test_presets_differ_and_the_default_is_fast() -> None:
    assert list(presets()) == ["cryogen1", "cryogen2", "fast", "filament", "full", "volumetric"]
    assert load_fit_config() == load_fit_config(preset="fast") == FitSettings()
    assert load_fit_config(preset="full").minutes == 60
    assert load_fit_config(preset="filament").axis_share > 0
    assert [load_fit_config(preset=name).prior for name in ("cryogen1", "cryogen2")] == ["adversarial", "transport"]
    assert load_fit_config(preset="volumetric").network == "autoencoder"


def test_a_start_from_the_spectrum_brings_its_own_rate_but_for_what_is_given() -> None:
    plain = load_fit_config(overrides=["start=spectrum"])
    assert plain == FitSettings.from_spectrum() and plain.learning_rate > FitSettings.learning_rate
    chosen = load_fit_config(overrides=["start=spectrum", "learning_rate=0.001", "widths=[4,8]"])
    assert chosen == FitSettings.from_spectrum(learning_rate=0.001, widths=(4, 8))
    assert load_fit_config(preset="volumetric").learning_rate == plain.learning_rate


@pytest.mark.parametrize("override", ["widths=[4,8]", "latent_prior=mmd", "network=autoencoder"])
def test_what_the_general_restorer_is_not_asks_for_another_start(override: str) -> None:
    with pytest.raises(InputError, match="start=spectrum"):
        load_fit_config(overrides=[override])
