"""Fitting with codes: they resume with the run, follow their prior, and are refused where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae.config import load_fit_config
from cryoaae.errors import InputError
from cryoaae.fitting.code_report import report_codes
from cryoaae.fitting.session import check_start
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.models.general import GeneralRestorer
from cryoaae.models.restorer import Restorer, RestorerSpec

SIZE = 32
UNET = FitSettings.from_spectrum(
    patch_size=16, block_size=32, blocks=2, renew_every=2, batch_size=2, widths=(4, 8), working_bin=1, minutes=None,
    steps=4, warm_up_steps=2, evaluations=2, held_out_fraction=0.0, refills=0, presence=False, code_dim=4,
    latent_prior="mmd",
)  # fmt: skip
AUTOENCODER = replace(UNET, network="autoencoder", code_patch=8, latent_prior="adversarial")


@pytest.mark.parametrize(
    ("settings", "phases"),
    [
        (UNET, ["pairs"]),
        (replace(AUTOENCODER, prior="adversarial"), ["pairs", "referee", "codes"]),
        (replace(AUTOENCODER, latent_prior="kl"), ["pairs"]),
    ],
    ids=["bottleneck", "volumetric", "variational"],
)
def test_resume_is_bit_identical_with_codes_in_it(settings: FitSettings, phases, tmp_path: Path, loop, go) -> None:
    whole, broken, resumed = (loop(settings) for _ in range(3))
    assert [phase.name for phase in whole.phases] == phases
    start = {name: value.clone() for name, value in whole.model.state_dict().items()}
    go(whole)
    go(broken, until=2)
    save_rotating(tmp_path / "ckpt", broken.state())
    resumed.load_state(load_latest(tmp_path / "ckpt"))
    go(resumed)
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    moved = {name.split(".")[0] for name in one if not torch.equal(one[name], start[name])}
    assert moved == {"restorer", "latent", *({"referee"} & set(phases)), *({"start"} & {n.split(".")[0] for n in one})}


def test_codes_come_nearer_to_their_prior_in_a_small_fit(loop, go) -> None:
    settings = replace(
        AUTOENCODER, latent_prior="mmd", latent_weight=1e3, latent_share=1e3, steps=16, learning_rate=5e-3
    )
    made = loop(settings)
    made.feed.prepare(0, 0.0, None)
    _, before = report_codes(made.model.restorer, made.feed, settings)
    go(made)
    _, after = report_codes(made.model.restorer, made.feed, settings)
    assert after["mmd"] < 0.75 * before["mmd"]
    assert abs(after["mmd_floor"]) < 5 * after["mmd_floor_sd"], "two draws of the prior are equal"
    assert after["use"] > 0.1
    assert not after["unused"]


def test_without_a_latent_prior_nothing_of_it_is_made(loop) -> None:
    plain = loop(replace(UNET, latent_prior="none"))
    assert plain.model.restorer.code_dim == 0
    assert plain.figures() == {}
    assert not any(name.startswith("latent") for name in plain.model.state_dict())
    assert "code" not in plain.model.restorer.spec.network
    coded = loop(replace(AUTOENCODER, latent_prior="none"))
    assert coded.model.restorer.code_dim == AUTOENCODER.code_dim
    assert coded.figures() == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latent_prior": "vae"}, "kl is for the autoencoder"),
        ({"latent_prior": "mdm"}, "latent_prior"),
        ({"network": "autoencoder", "code_patch": 12}, "cannot be halved 3 times"),
        ({"network": "autoencoder", "code_patch": 32}, "patches of a prior: 24 voxels do not hold patches of 32"),
        ({"network": "autoencoder", "patch_size": 52}, "patch_size: 52 voxels do not hold patches of 16"),
        ({"latent_prior": "wae", "start": "general"}, "U-Net without a code"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_fit_config(overrides=[f"{key}={value}" for key, value in settings.items()])


def test_codes_have_the_names_of_the_literature() -> None:
    for name, divergence in (("aae", "adversarial"), ("wae", "mmd"), ("vae", "kl")):
        made = load_fit_config(overrides=["start=spectrum", "network=autoencoder", f"latent_prior={name}"])
        assert made.latent_prior == divergence


def test_a_model_without_codes_is_no_start_for_a_fit_with_them() -> None:
    plain = Restorer(RestorerSpec(1, 10.0, network={"widths": [4, 8]}))
    coded = Restorer(RestorerSpec(1, 10.0, network={"widths": [4, 8], "code": 4}))
    check_start(None, UNET)
    check_start(coded, UNET)
    check_start(plain, replace(UNET, latent_prior="none"))
    for start in (plain, GeneralRestorer.bundled()):
        with pytest.raises(InputError, match="no code"):
            check_start(start, UNET)
    with pytest.raises(InputError, match="no autoencoder"):
        check_start(coded, AUTOENCODER)
    variational = {"kind": "autoencoder", "patch": 8, "dim": 4, "widths": [4, 8], "variational": True}
    with pytest.raises(InputError, match="kl needs"):
        check_start(Restorer(RestorerSpec(1, 10.0, network=variational)), AUTOENCODER)
