"""The sampler of deviations: a symmetric law, of any units, that starts at the linear posterior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.io.weights import save_weights
from cryoaae.nets.deviation import (
    COLOURED,
    LEAST,
    MULTIPLE,
    WIDER,
    Deviation,
    DeviationSpec,
    Looks,
    Noise,
    Seen,
    linear_posterior,
    signal_scale,
    smooth_noise,
    unevenly,
)
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.patches.spectra import Spectra
from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge

EDGE = 16
SPEC = DeviationSpec(features=(2, 3, 4), full=4, coarse=6)


def seen(seed: int = 0, scale: float = 1.0) -> Seen:
    generator = torch.Generator().manual_seed(seed)

    def field(channels: int, factor: int = 1) -> torch.Tensor:
        return scale * torch.randn(2, channels, *(EDGE // factor,) * 3, generator=generator)

    features = [field(channels, 2**level) for level, channels in enumerate(SPEC.features)]
    condition = torch.randn(2, CONDITIONS, generator=generator)
    size = 0.3 * torch.randn(2, 1, EDGE, EDGE, EDGE, generator=generator)
    return Seen(features, field(1), field(1), condition, torch.full((2,), scale), size)


def noise(seed: int = 1) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    coarse = SPEC.coarse
    sizes = ((COLOURED, 1), (coarse, 2), (coarse, 4), (1, 1))
    return Noise(*(torch.randn(2, c, *(EDGE // n,) * 3, generator=generator) for c, n in sizes))


@pytest.fixture
def learned() -> Deviation:
    """One with weights as after training: none of them zero."""
    torch.manual_seed(3)
    made = Deviation(SPEC)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.requires_grad_(False)


def test_the_law_is_symmetric_whatever_the_weights(learned: Deviation) -> None:
    looks, drawn, scale = learned.looks(seen()), noise(), torch.ones(2)
    turned = Noise(-drawn.coloured, -drawn.half, -drawn.quarter, drawn.smooth)
    one, other = learned(looks, drawn, scale), learned(looks, turned, scale)
    assert float(one.std()) > 0.1
    torch.testing.assert_close(one, -other)


def test_units_do_not_matter(learned: Deviation) -> None:
    drawn = noise()
    loud = Noise(7.0 * drawn.coloured, drawn.half, drawn.quarter, drawn.smooth)  # the prior is in the data's units
    once = learned(learned.looks(seen()), drawn, torch.ones(2))
    again = learned(learned.looks(seen(scale=7.0)), loud, torch.full((2,), 7.0))
    torch.testing.assert_close(again, 7.0 * once, rtol=1e-3, atol=1e-3)


def test_it_starts_at_the_linear_posterior_a_little_wider() -> None:
    """Of white signal and noise of powers 4 and 1: 4/5 and a little where it was measured, 4 in the wedge."""
    shape = (24, 24, 24)
    spectra = Spectra(torch.full((8,), 4.0, dtype=torch.float64), torch.ones(8, dtype=torch.float64))
    support = MissingWedge((-60.0, 60.0)).support(shape)
    amplitude = linear_posterior(spectra, support, shape)
    inside = radius(shape) < 0.46
    power = amplitude.sum(dim=0).square()
    torch.testing.assert_close(power[inside & support], torch.full_like(power[inside & support], 0.8 + 4 * LEAST))
    torch.testing.assert_close(power[inside & ~support], torch.full_like(power[inside & ~support], 4.0))
    assert signal_scale(spectra) == pytest.approx(2.0)
    made = Deviation(SPEC).requires_grad_(False)
    given = seen()
    looks, drawn = made.looks(given._replace(size=torch.zeros_like(given.size))), noise()
    deviation = made(looks._replace(uneven=torch.zeros_like(looks.uneven)), drawn, torch.ones(2))
    torch.testing.assert_close(deviation, WIDER * drawn.coloured.sum(dim=1, keepdim=True))
    assert torch.equal(made.colour(torch.randn(2, CONDITIONS)), torch.ones(2, 2, 8))


def test_foretold_sizes_multiply_what_they_are_told_of(learned: Deviation) -> None:
    """As tiles do it, which know sizes of the whole only afterwards."""
    given = seen()
    whole = learned.looks(given)
    even, sized = learned.looks(given._replace(size=torch.zeros_like(given.size))), learned.sized(given.size)
    torch.testing.assert_close(whole.amplitude, even.amplitude * sized[:, :-1])
    torch.testing.assert_close(whole.mask, even.mask * sized[:, -1:])
    assert torch.equal(Deviation(SPEC).sized(given.size)[:, :1], (0.5 * given.size).exp())


def test_unevenness_leaves_the_mean_square_and_smooth_noise_has_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = smooth_noise((48, 48, 48), torch.randn(6, 48, 48, 48, generator=generator))
    assert float(smooth.square().mean()) == pytest.approx(1.0, abs=0.03)
    spectrum = rfft(smooth[0])
    assert float(irfft(spectrum * (radius((48, 48, 48)) > 1.5 / MULTIPLE), (48, 48, 48)).std()) < 0.02
    factor = unevenly(torch.tensor(0.5), torch.randn(1 << 20, generator=generator))
    assert float(factor.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_it_looks_no_further_than_it_says(learned: Deviation) -> None:
    """What lies further away changes nothing; what lies a little nearer does."""

    def looks(which: Seen) -> Looks:
        return learned.looks(which)

    def changed(given: Seen, at: int) -> Seen:
        restored = given.restored.clone()
        restored[..., at:] += 1.0
        features = [level.clone() for level in given.features]
        for level, volume in enumerate(features):
            volume[..., at // 2**level :] += 1.0
        return given._replace(features=features, restored=restored)

    given, at = seen(), 12
    one, other = looks(given), looks(changed(given, at))
    far = at - learned.looks_reach
    assert torch.equal(one.amplitude[..., :far], other.amplitude[..., :far])
    assert not torch.equal(one.amplitude[..., at - 1], other.amplitude[..., at - 1])
    drawn = noise()
    quarter = drawn.quarter.clone()
    quarter[..., 3:] += 1.0
    apart = learned.structured(one, drawn) - learned.structured(one, drawn._replace(quarter=quarter))
    moved = torch.nonzero(apart.abs().amax(dim=(0, 1, 2, 3)) > 1e-5).flatten()
    assert 12 - learned.draw_reach <= int(moved[0]) < 12


def test_weights_come_back_and_others_are_refused(learned: Deviation, tmp_path: Path) -> None:
    learned.save(tmp_path / "d.safetensors", {"steps": 1})
    again = Deviation.load(tmp_path / "d.safetensors")
    drawn = noise()
    with torch.no_grad():
        expected = learned(learned.looks(seen()), drawn, torch.ones(2))
        torch.testing.assert_close(again(again.looks(seen()), drawn, torch.ones(2)), expected)
    save_weights(tmp_path / "other.safetensors", {"a": torch.ones(1)}, {"format": "other"})
    with pytest.raises(InputError, match="not the weights of a sampler of deviations"):
        Deviation.load(tmp_path / "other.safetensors")


def test_the_bundled_one_knows_the_general_restorer() -> None:
    from cryoaae.models.general import GeneralRestorer

    made = Deviation.bundled()
    assert made.spec.features == GeneralRestorer.bundled().network.widths
    assert float(made.last.weight.abs().max()) > 0
