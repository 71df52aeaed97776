"""Laws of the volumetric autoencoder's loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.draws import Draws
from cryoaae.models.autoencoder import CLASS
from cryoaae.models.volumetric import VolumeBatch, disagreement, measured_error
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.model_files import build_model
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Standard, band
from cryoaae.subtomograms.watch import Watch

BOX, PAIRS = 8, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard() -> Standard:
    shells = torch.arange(BOX // 2, dtype=torch.float64)
    return Standard(BOX, BOX, 10.0, Spectra(4.0 / (1 + shells), torch.ones(BOX // 2, dtype=torch.float64)))


def model(**keywords):
    settings = ClusterSettings(working_box=BOX, widths=(4, 8), units=16, classes=3, style_dim=2, **keywords)
    return build_model(settings, standard(), Draws.seeded(0))


def batch(of) -> VolumeBatch:
    support = MissingWedge((-50.0, 50.0)).support((BOX,) * 3)
    spectra = rfft(torch.randn(2 * PAIRS, BOX, BOX, BOX, generator=generator())) * support
    return VolumeBatch(
        pixels=of.inputs(spectra), draws=Draws.seeded(1), target=spectra, seen=support.expand(2 * PAIRS, -1, -1, -1)
    )


def losses(of, step: VolumeBatch) -> dict[str, float]:
    step.draws = Draws.seeded(1)
    return {name: float(v.detach()) for phase in of.phases() for name, v in phase.losses(step).items()}


def test_what_the_wedge_hides_changes_no_term_of_the_loss():
    of = model()
    step = batch(of)
    before = losses(of, step)
    hidden = ~step.seen
    assert 0.2 < hidden.float().mean() < 0.6
    step.target = step.target + 100 * torch.randn(step.target.shape, generator=generator(3)) * hidden
    of.proportions.fill_(1 / 3)
    assert losses(of, step) == before
    step.target = step.target + step.seen
    assert losses(of, step)["reconstruction"] != before["reconstruction"]


def test_measured_error_is_half_the_mean_square_where_all_is_measured():
    x, y = torch.randn(2, 3, BOX, BOX, BOX, generator=generator(), dtype=torch.float64)
    everything = torch.ones(3, BOX, BOX, BOX // 2 + 1, dtype=torch.bool)
    wanted = 0.5 * (x - y).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(measured_error(x, rfft(y), everything, torch.ones(1)), wanted)


def test_measured_error_of_noise_is_one_half_whatever_the_wedge_and_the_band():
    wedge = MissingWedge((-45.0, 60.0))
    seen = wedge.support((16,) * 3)
    noise = torch.randn(200, 16, 16, 16, generator=generator())
    for window in (torch.ones(1), band(16)):
        target = rfft(noise) * seen * window
        error = measured_error(torch.zeros_like(noise), target, seen.expand(200, -1, -1, -1), window.square())
        assert float(error.mean()) == pytest.approx(0.5, rel=0.01)


def test_reconstruction_pulls_on_measured_coefficients_alone():
    seen = MissingWedge((-50.0, 50.0)).support((BOX,) * 3)[None]
    volumes = torch.randn(1, BOX, BOX, BOX, generator=generator(), dtype=torch.float64).requires_grad_()
    target = rfft(torch.randn(1, BOX, BOX, BOX, generator=generator(1), dtype=torch.float64))
    (slope,) = torch.autograd.grad(measured_error(volumes, target, seen, torch.ones(1)).sum(), volumes)
    power = rfft(slope).abs() ** 2
    assert float((power * ~seen).sum()) < 1e-20 * float(power.sum())
    # Down the slope lies the target, as far as it was measured.
    direction = irfft((rfft(volumes.detach()) - target) * seen, (BOX,) * 3)
    cosine = nn.functional.cosine_similarity(slope.flatten(), direction.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-9)


def test_disagreement_is_zero_for_equal_classes_only_and_its_slope_brings_copies_together():
    one_hot = torch.eye(4)
    assert float(disagreement(one_hot, one_hot)) == 0
    assert float(disagreement(one_hot, one_hot.roll(1, 0))) > 10
    logits = torch.randn(6, 4, generator=generator()).requires_grad_()
    others = torch.softmax(torch.randn(6, 4, generator=generator(1)), dim=-1)
    value = disagreement(torch.softmax(logits, dim=-1), others)
    torch.testing.assert_close(value, disagreement(others, torch.softmax(logits, dim=-1)))
    (slope,) = torch.autograd.grad(value, logits)
    # The class that the copy favours most gains in every pair, and the one it favours least loses.
    assert (slope.gather(1, others.argmax(dim=1, keepdim=True)) < 0).all()
    assert (slope.gather(1, others.argmin(dim=1, keepdim=True)) > 0).all()


def test_proportions_follow_the_classes_and_leave_none_without_a_share():
    of = model(learned_share=0.5)
    y = torch.tensor([[0.9, 0.1, 0.0]]).expand(8, -1)
    for _ in range(400):
        of._learn_proportions(y)
    shares = of.expected_proportions()
    wanted = torch.tensor([0.5 * 0.9 + 1 / 6, 0.5 * 0.1 + 1 / 6, 1 / 6], dtype=torch.float64)
    torch.testing.assert_close(shares, wanted, atol=1e-3, rtol=0)
    of.follow_proportions()
    drawn = of.latent_matches()[CLASS].prior.sample(20000, generator=generator()).mean(dim=0)
    torch.testing.assert_close(drawn.double(), wanted, atol=0.015, rtol=0)


def test_uniform_proportions_stay_uniform_when_nothing_is_learned():
    of = model(learned_share=0.0)
    of._learn_proportions(torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(of.expected_proportions(), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_guard_is_zero_at_the_proportions_and_its_slope_revives_a_dead_class():
    of = model(learned_share=0.0)
    assert float(of._lopsidedness(torch.full((5, 3), 1 / 3))) == pytest.approx(0.0, abs=1e-6)
    logits = torch.tensor([[4.0, 4.0, -4.0]]).expand(5, -1).clone().requires_grad_()
    value = of._lopsidedness(torch.softmax(logits, dim=-1))
    assert float(value.detach()) > 0.3
    (slope,) = torch.autograd.grad(value, logits)
    assert (slope[:, 2] < 0).all()
    assert (slope[:, :2] > 0).all()


def test_the_critic_leaves_the_encoder_alone_and_the_encoder_the_critic():
    of = model()
    step = batch(of)
    autoencoder, critic = of.phases()
    assert {id(p) for p in autoencoder.parameters}.isdisjoint({id(p) for p in critic.parameters})
    sum(v.sum() for v in autoencoder.losses(step).values()).backward()
    assert all(p.grad is None for p in critic.parameters)
    assert all(p.grad is not None for p in autoencoder.parameters)
    of.zero_grad()
    sum(v.sum() for v in critic.losses(step).values()).backward()
    assert all(p.grad is None for p in autoencoder.parameters)


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES.names()) - {"kl"}))
def test_every_divergence_that_needs_no_law_of_codes_reaches_the_encoder_through_both_codes(name):
    of = model(divergence={"name": name}, class_divergence={"name": name})
    terms = of.phases()[0].losses(batch(of))
    for code in ("style", "class"):
        (slope,) = torch.autograd.grad(terms[f"match_{code}"], of.encoder.trunk.linear.weight, retain_graph=True)
        assert torch.isfinite(slope).all()
        assert float(slope.abs().max()) > 0


def test_a_reading_holds_class_codes_against_the_proportions_that_were_learned():
    of = model(learned_share=1.0)
    of.proportions.copy_(torch.tensor([0.7, 0.2, 0.1]))
    Watch(batch(of), seed=0).read(of, 0, 0.0)
    assert of.latent_matches()[CLASS].prior.probabilities == pytest.approx((0.7, 0.2, 0.1), abs=1e-6)


def test_decoded_volumes_hold_next_to_nothing_of_the_chequerboard_of_transposed_convolutions():
    of = model()
    code = torch.randn(6, 5, generator=generator())
    with torch.no_grad():
        raw, decoded = of.decoder(code)[:, 0] * of.inside, of.decode(code)
    shares = []
    for volumes in (raw, decoded):
        power = rfft(volumes).abs() ** 2
        shares.append(float(power[:, BOX // 2].sum() / power.sum()))  # Nyquist along z
    assert shares[1] < 0.2 * shares[0]


def test_a_decoder_with_averages_adds_to_that_of_the_class_it_is_asked_for():
    settings = ClusterSettings(working_box=BOX, widths=(4, 8), units=16, classes=3, style_dim=2)
    averages = torch.randn(3, BOX, BOX, BOX, generator=generator())
    alone, beside = (build_model(settings, standard(), Draws.seeded(0), given) for given in (None, averages))
    y = torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3)])
    style = torch.randn(4, 2, generator=generator(1))
    with torch.no_grad():
        added = beside.decode(beside.from_class(y, style)) - alone.decode(alone.from_class(y, style))
    wanted = torch.cat([averages, averages.mean(dim=0, keepdim=True)]) * beside.inside
    torch.testing.assert_close(added, wanted, atol=1e-5, rtol=0)
    # They stay as they are: no optimiser holds them.
    assert all(p.shape != averages.shape for p in beside.autoencoder_parameters())


def test_the_decoder_is_told_a_class_that_is_known_and_guesses_no_other():
    of = model()
    step = batch(of)
    code = of.encoder(step.pixels)
    labels = torch.tensor([2, -1, 0, -1] * 2)
    seen = of.decoder_input(code, labels)[:, -3:]
    torch.testing.assert_close(seen[labels == 2], torch.tensor([[0.0, 0.0, 1.0]] * 2))
    torch.testing.assert_close(seen[labels < 0], of.decoder_input(code, None)[:, -3:][labels < 0])
    step.labels = labels
    (slope,) = torch.autograd.grad(of.phases()[0].losses(step)["reconstruction"], of.decoder.hidden.weight)
    assert float(slope[:, -1].abs().max()) > 0


def test_known_classes_of_the_batch_and_beside_it_count_alike_and_none_known_costs_nothing():
    of = model(supervised_weight=2.0)
    step = batch(of)
    assert "supervised" not in of.phases()[0].losses(step)
    step.labels = torch.tensor([2, -1, 0, -1] * 2)
    step.labelled_pixels, step.labelled_labels = step.pixels[:3].flip(-1), torch.tensor([1, 1, 0])
    logits = torch.cat([of.encoder(step.pixels).logits[step.labels >= 0], of.encoder(step.labelled_pixels).logits])
    wanted = 2 * nn.functional.cross_entropy(logits, torch.tensor([2, 0, 2, 0, 1, 1, 0]))
    torch.testing.assert_close(of.phases()[0].losses(step)["supervised"], wanted)
    step.labels, step.labelled_pixels = torch.full((8,), -1), None
    assert float(of.phases()[0].losses(step)["supervised"].detach()) == 0
