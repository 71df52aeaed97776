"""The structure discriminator sees what wedges hide, leans on the decoder, and leaves the rest of the model alone."""

from __future__ import annotations

import pytest
import torch

from cryoaae.draws import Draws
from cryoaae.models.refereed_volumes import MeasuredAgain, RefereedBatch, RefereedVolumes
from cryoaae.models.volumetric import VolumetricAutoencoder
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import rfft
from cryoaae.physics.rotation import quarter_turned, quarter_turns, random_rotations
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.model_files import build_model
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Standard

BOX, COUNT = 16, 4
SUPPORT = MissingWedge((-50.0, 50.0)).support((BOX,) * 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(weight: float = 1.0, share: float = 0.1) -> VolumetricAutoencoder:
    shells = torch.arange(BOX // 2, dtype=torch.float64)
    spectra = Spectra(4.0 / (1 + shells), torch.ones(BOX // 2, dtype=torch.float64))
    settings = ClusterSettings(
        working_box=BOX, widths=(4, 8), units=16, classes=3, style_dim=2, structure_weight=weight,
        structure_share=share,
    )  # fmt: skip
    return build_model(settings, Standard(BOX, BOX, 10.0, spectra), Draws.seeded(0))


def batch(of: RefereedVolumes) -> RefereedBatch:
    spectra = rfft(torch.randn(2 * COUNT, BOX, BOX, BOX, generator=generator())) * SUPPORT
    pixels = of.inputs(spectra)
    again = MeasuredAgain(
        random_rotations(COUNT, generator=generator(1)), SUPPORT.expand(COUNT, -1, -1, -1),
        torch.randn(COUNT, BOX, BOX, BOX, generator=generator(2)), pixels[:COUNT],
    )  # fmt: skip
    return RefereedBatch(
        pixels=pixels, draws=Draws.seeded(1), target=spectra, seen=SUPPORT.expand(2 * COUNT, -1, -1, -1), again=again
    )


def refereed(**keywords: float) -> RefereedVolumes:
    of = model(**keywords)
    assert isinstance(of, RefereedVolumes)
    return of


def test_without_a_weight_there_is_no_referee():
    assert not isinstance(model(weight=0.0), RefereedVolumes)


def test_what_the_wedge_hides_pulls_on_the_decoder_through_the_referee_alone():
    of = refereed()
    step = batch(of)
    volumes = torch.randn(COUNT, BOX, BOX, BOX, generator=generator(5)).requires_grad_()
    pulls = {
        "reconstruction": of.error(volumes, step.target[:COUNT], step.seen[:COUNT]).sum(),
        "structure": of.referee.energy(of.measured_again(volumes, step.again)),
    }
    hidden = {name: rfft(torch.autograd.grad(pull, volumes)[0])[:, ~SUPPORT].norm() for name, pull in pulls.items()}
    assert float(hidden["reconstruction"]) < 1e-6 < 1e-3 * float(hidden["structure"]) + 1e-5
    assert float(hidden["structure"]) > 1e-6


def test_volumes_are_measured_again_as_the_encoder_sees_particles():
    """A quarter turn of a volume without noise is that volume turned, through the wedge, filtered and windowed."""
    of, quarter = refereed(), quarter_turns()[7]
    z, y, x = torch.meshgrid(3 * [torch.arange(BOX) - BOX // 2.0], indexing="ij")
    volume = torch.exp(-((z - 2) ** 2 + (y + 1) ** 2 / 2 + x**2) / 4)[None]
    nothing = torch.zeros(1, BOX, BOX, BOX)
    draw = MeasuredAgain(quarter[None], SUPPORT[None], nothing, nothing[None])
    wanted = of.inputs(rfft(quarter_turned(volume, quarter)) * SUPPORT)
    found = of.measured_again(volume, draw)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_the_energy_leans_on_the_decoder_by_no_more_than_its_share(share: float):
    of = refereed(weight=1e6, share=share)
    step = batch(of)
    terms = of.phases()[0].losses(step)
    head = of.decoder.last.weight
    own, its = (
        torch.autograd.grad(terms[name], head, retain_graph=True)[0].norm() for name in ("reconstruction", "structure")
    )
    assert float(its / own) == pytest.approx(share, rel=1e-3)


def test_the_referee_and_the_autoencoder_leave_each_other_alone():
    of = refereed()
    step = batch(of)
    phases = {phase.name: phase for phase in of.phases()}
    referee = {id(p) for p in of.referee.parameters()}
    assert {id(p) for p in phases["referee"].parameters} == referee
    assert not referee & {id(p) for p in phases["autoencoder"].parameters}
    torch.stack([term.sum() for term in phases["autoencoder"].losses(step).values()]).sum().backward()
    assert all(p.grad is None for p in of.referee.parameters())
    own = [p.grad.clone() for p in of.decoder.parameters() if p.grad is not None]
    phases["referee"].losses(step)["referee"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in of.referee.parameters())
    assert all(torch.equal(a, p.grad) for a, p in zip(own, of.decoder.parameters(), strict=True))
