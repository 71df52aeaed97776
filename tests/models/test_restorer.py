"""The restorer: its linear part, its file, and the loss it is fitted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.models.pair_fitting import PairFitting, whitening
from cryoaae.models.restorer import Restorer, RestorerSpec, convolve
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE
from cryoaae.patches.pairs import PairBatch
from cryoaae.patches.spectra import Spectra, radial_kernel
from cryoaae.physics.fourier import irfft, radius, rfft, taper
from cryoaae.physics.wedge import MissingWedge

SPEC = RestorerSpec(working_bin=2, voxel_size_angstrom=10.0, network={"widths": [4, 8]})


def spectra() -> Spectra:
    k = (torch.arange(32, dtype=torch.float64) + 0.5) / 64
    return Spectra(torch.exp(-((k / 0.12) ** 2)) * 4, 0.5 + k)


def test_convolve_is_a_direct_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 9, 12, 11, generator=generator)
    kernel = torch.randn(5, 5, 5, generator=generator)
    direct = torch.nn.functional.conv3d(x, kernel.flip(0, 1, 2)[None, None], padding=2)
    assert torch.allclose(convolve(x, kernel), direct, atol=1e-4)


def test_starts_as_the_wiener_estimate() -> None:
    """W = S / (S + N) for a half, S / (S + N / 2) for the mean of two, shell by shell."""
    model, given = Restorer(SPEC, spectra()), spectra()
    y = torch.randn(1, 1, 48, 48, 48, generator=torch.Generator().manual_seed(0))
    k = radius((48, 48, 48))
    for estimate, noise in ((model.forward, given.noise), (model.restore, given.noise / 2)):
        with torch.no_grad():
            out = estimate(y)[0, 0, 8:-8, 8:-8, 8:-8]
        inner = y[0, 0, 8:-8, 8:-8, 8:-8]
        window = taper(inner.shape)
        ratio = rfft(out * window).abs() ** 2
        power = rfft(inner * window).abs() ** 2
        k = radius(inner.shape)
        for shell in (3, 6, 9, 14):
            here = (k * 64 >= shell) & (k * 64 < shell + 1)
            gain = float((ratio[here].sum() / power[here].sum()).sqrt())
            wanted = float((given.signal / (given.signal + noise))[shell])
            assert gain == pytest.approx(wanted, abs=0.05)


def test_single_volume_keeps_its_wiener_filter() -> None:
    model = Restorer(SPEC, spectra(), halves=1)
    assert torch.equal(model.wiener, model.wiener_mean)


def test_radial_kernel_is_compact_and_symmetric() -> None:
    kernel = radial_kernel(spectra().fsc, reach=6)
    assert kernel.shape == (13, 13, 13)
    assert torch.allclose(kernel, kernel.flip(0, 1, 2), atol=1e-7)
    assert torch.allclose(kernel, kernel.permute(2, 1, 0), atol=1e-7)
    assert float(kernel[0].abs().max()) < 1e-3 * float(kernel.abs().max())


def test_file_round_trip_and_refusals(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Restorer(SPEC, spectra())
    torch.nn.init.normal_(model.network.last.weight)
    model.save(tmp_path / "model.safetensors")
    again = Restorer.load(tmp_path)
    assert again.spec == model.spec
    y = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.restore(y), model.eval().restore(y))
    file = tmp_path / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InputError, match="model.safetensors"):
        Restorer.load(tmp_path)
    with pytest.raises(InputError):
        Restorer.load(tmp_path / "absent")


def batch_of(targets: torch.Tensor, wedge: MissingWedge, rotation: torch.Tensor) -> PairBatch:
    box = targets.shape[-3:]
    ones = torch.ones_like(targets)
    seen = wedge.rotated(rotation).support(box)[None, None]
    count = len(targets)
    return PairBatch(
        targets, targets, ones, 0 * ones, seen, wedge.support(box)[None, None],
        torch.ones(count),
    )  # fmt: skip


def test_loss_sees_only_what_the_rotated_tomogram_measured() -> None:
    quarter = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # z to x: the wedge lies on its side
    wedge = MissingWedge((-45.0, 45.0))
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(1, 1, 24, 24, 24, generator=generator)
    batch = batch_of(targets, wedge, quarter)
    fitting = PairFitting(Restorer(SPEC, spectra()), whitening(spectra()), hidden_weight=2.0)
    spectrum = rfft(torch.randn(1, 1, 24, 24, 24, generator=generator))
    window = taper((24, 24, 24))

    def loss_of_error(mask: torch.Tensor) -> float:
        # The error is put under the taper so that exactly these coefficients are wrong.
        error = irfft(spectrum * mask, (24, 24, 24)) / window
        return float(fitting.distance(targets + error, batch, batch.weight))

    unseen = loss_of_error(~batch.seen)
    hidden = loss_of_error(batch.seen & ~batch.kept)
    kept = loss_of_error(batch.seen & batch.kept)
    assert unseen < 1e-6 * hidden
    assert hidden > 0
    once = PairFitting(fitting.restorer, fitting.shell_weight, hidden_weight=1.0)
    fitting, twice = once, hidden
    assert twice == pytest.approx(2 * loss_of_error(batch.seen & ~batch.kept), rel=1e-4)
    assert kept == pytest.approx(loss_of_error(batch.seen & batch.kept), rel=1e-4)


def test_what_a_single_volume_cannot_teach_is_held_where_it_began() -> None:
    wedge, box = MissingWedge((-45.0, 45.0)), (24, 24, 24)
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(torch.randn(2, 1, *box, generator=generator), wedge, torch.eye(3))
    moved, window = torch.randn(2, 1, *box, generator=generator), taper(box)
    moved = irfft(rfft(moved * window) * batch.kept, box) / window  # under the taper: what is in the input too
    restorer = Restorer(SPEC, spectra()).requires_grad_(False)
    fitting = PairFitting(restorer, whitening(spectra()), anchor=lambda y: restorer(y) + moved)
    for share in (0.0, 1.0):  # weight of the first patch's on what is in the input too; the second's counts in full
        losses = fitting._losses(replace(batch, kept_weight=torch.tensor([share, 1.0])))
        assert (float(losses["anchor"]) > 0) == (share == 0)
    single = replace(batch, kept_weight=torch.zeros(2))
    assert float(PairFitting(restorer, whitening(spectra()), anchor=restorer)._losses(single)["anchor"]) == 0
    moved_target = replace(single, targets=single.targets + moved)
    distances = [float(fitting.distance(moved, each, batch.weight)) for each in (single, moved_target)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-4)


@pytest.mark.parametrize("measured_weight", [0.0, 0.3, 1.0])
def test_what_halves_tell_and_what_holds_to_the_start_share_one_weight(measured_weight: float) -> None:
    wedge, box = MissingWedge((-45.0, 45.0)), (24, 24, 24)
    generator = torch.Generator().manual_seed(1)
    batch = batch_of(torch.randn(2, 1, *box, generator=generator), wedge, torch.eye(3))
    target = batch.targets
    restorer = Restorer(SPEC, spectra()).requires_grad_(False)

    def losses(weight: float, start: torch.Tensor) -> dict[str, float]:
        fitting = PairFitting(restorer, whitening(spectra()), anchor=lambda _: start, measured_weight=weight)
        return {name: float(value) for name, value in fitting._losses(batch).items()}

    alone, found = losses(1.0, target), losses(measured_weight, target)
    assert alone["pairs"] > 0
    assert alone["anchor"] == 0
    # Held to the other half itself, it is the same loss, however it is shared out: every coefficient here is in both.
    assert found["pairs"] == pytest.approx(measured_weight * alone["pairs"], rel=1e-5)
    assert found["pairs"] + found["anchor"] == pytest.approx(alone["pairs"], rel=1e-5)


def test_whitening_makes_noise_of_every_shell_count_alike() -> None:
    weight = whitening(spectra())
    product = weight.double() * spectra().noise
    assert float(product.std() / product.mean()) < 1e-5


@pytest.mark.parametrize("case", [NOTHING, FEATURELESS, STRUCTURE])
def test_estimate_is_the_mean_over_what_may_be_there(case: int) -> None:
    """Certain of one case: silence, the Wiener filter, the network."""
    torch.manual_seed(0)
    model = Restorer(SPEC, spectra()).eval()
    torch.nn.init.normal_(model.network.last.weight)
    y = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wiener, full = convolve(y, model.wiener), model(y)
        expected = {NOTHING: 0 * y, FEATURELESS: wiener, STRUCTURE: full}[case]
        torch.nn.init.zeros_(model.presence.second.weight)
        model.presence.second.bias.copy_(30.0 * torch.nn.functional.one_hot(torch.tensor(case), 3))
        assert torch.equal(model(y), full)  # not asked yet
        model.know_presence()
        assert torch.allclose(model(y), expected, atol=1e-5)
        assert not torch.allclose(full, wiener, atol=1e-2)


def test_nothing_further_than_the_halo_is_seen() -> None:
    torch.manual_seed(0)
    model = Restorer(SPEC, spectra()).eval()
    torch.nn.init.normal_(model.network.last.weight)
    model.know_presence()
    at = -(-(model.halo + 4) // model.multiple) * model.multiple
    box = slice(at, at + model.multiple)
    x = torch.randn(1, 1, 2 * at + model.multiple, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)[0, 0, box]
        far, near = x.clone(), x.clone()
        far[:, :, : at - model.halo] += 3
        far[:, :, box.stop + model.halo :] -= 3
        near[:, :, at] += 3
        assert torch.allclose(model(far)[0, 0, box], before, atol=1e-4)
        assert not torch.allclose(model(near)[0, 0, box], before, atol=1e-2)
