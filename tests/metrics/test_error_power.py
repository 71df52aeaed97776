"""The error of an estimate from two halves: the true one, however much of its own half's noise it keeps."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import t
from torch import Tensor

from cryoaae.metrics import error_power
from cryoaae.metrics.error_power import PROPERTIES, ErrorPower, HalvesInBand, SingleInBand
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft
from cryoaae.physics.wedge import MissingWedge

Pair = tuple[Tensor, Tensor]
Shape = tuple[int, int, int]
SIGMA = 0.7
SEEDS = 10
POWERS = ("signal", "common", "estimate")
VARIANCES = ("signal_variance", "common_variance", "covariance")
# Weights of an estimate on its own half, the truth and something else; the first is blind to the data.
ESTIMATES = {"blind": (0.0, 0.4, 0.6), "own half": (0.6, 0.1, 0.3), "copy": (1.0, 0.0, 0.0), "wrong": (-0.4, 0.1, 0.5)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(
    weights: tuple[float, float, float] = ESTIMATES["own half"], *, size: int = 32, seed: int = 0
) -> tuple[Tensor, Pair, Pair]:
    """A truth that neighbours share, halves of it, and what an estimator with these weights makes of each."""
    truth, n1, n2, other = torch.randn(4, size, size, size, generator=seeded(seed), dtype=torch.float64)
    truth = (truth + truth.roll(1, 0) + truth.roll(1, 1) + truth.roll(1, 2)) / 2
    halves = truth + SIGMA * n1, truth + SIGMA * n2
    own, known, else_ = weights
    first, second = (own * half + known * truth + else_ * other for half in halves)
    return truth, halves, (first, second)


def spectra(pair: Pair) -> Pair:
    return rfft(pair[0]), rfft(pair[1])


def everything(shape: Shape) -> tuple[Tensor, Tensor]:
    """All coefficients and all voxels."""
    return torch.ones_like(radius(shape), dtype=torch.bool), torch.ones(shape, dtype=torch.bool)


def compared(halves: Pair, estimates: Pair, band: Tensor | None = None, where: Tensor | None = None) -> ErrorPower:
    every = everything(tuple(halves[0].shape))
    band, where = every[0] if band is None else band, every[1] if where is None else where
    return HalvesInBand(spectra(halves), band, where).against(spectra(estimates))


def truly(truth: Tensor, estimate: Tensor, band: Tensor | None = None, where: Tensor | None = None) -> ErrorPower:
    """Powers from the truth, of a band and a region, nothing uncertain."""
    x, m = truth, estimate
    if band is not None and where is not None:
        x, m = (irfft(rfft(v) * band, v.shape) * where for v in (truth, estimate))
    return ErrorPower(*(float(v.double().sum()) for v in (x * x, x * m, m * m)))


def mean(pair: Pair) -> Tensor:
    return (pair[0] + pair[1]) / 2


def ball(shape: Shape, share: float = 0.4) -> Tensor:
    axes = [torch.arange(n) - n / 2 + 0.5 for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 < (share * min(shape)) ** 2


def corner(shape: Shape) -> Tensor:
    """A box that is not in the middle."""
    where = torch.zeros(shape, dtype=torch.bool)
    where[1 : 5 * shape[0] // 8, shape[1] // 4 : -2, shape[2] // 4 :] = True
    return where


REGIONS = {"ball": ball, "box": corner}


def bands(shape: Shape) -> dict[str, Tensor]:
    """A wide and a narrow shell, and the part of a shell that a sector of tilts measures."""
    k = radius(shape)
    sector = MissingWedge((20.0, 60.0)).depth(shape) < 0
    return {"wide": (k > 0.1) & (k < 0.35), "narrow": (k > 0.2) & (k < 0.25), "small": (k > 0.2) & (k < 0.3) & sector}


# -- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATES)
def test_scores_are_those_against_the_truth(name: str) -> None:
    differences: dict[str, list[float]] = {score: [] for score in PROPERTIES}
    for seed in range(SEEDS):
        truth, halves, estimates = drawn(ESTIMATES[name], seed=seed)
        found, true = compared(halves, estimates), truly(truth, mean(estimates))
        assert found.error == pytest.approx(true.error, rel=0.03)
        for score in PROPERTIES:
            differences[score].append(getattr(found, score) - getattr(true, score))
    for score, values in differences.items():
        spread = torch.tensor(values, dtype=torch.float64)
        assert abs(float(spread.mean())) < 3 * float(spread.std()) / math.sqrt(SEEDS), score
        if score != "error":
            assert float(spread.abs().max()) < 0.03, score


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_uncrossed_product_is_low_by_the_noise_that_the_estimate_kept(name: str) -> None:
    own = ESTIMATES[name][0]
    truth, (even, odd), estimates = drawn(ESTIMATES[name], size=48)
    m = mean(estimates)
    naive, true = float(((even - m) * (odd - m)).sum()), truly(truth, m).error
    # Each half has its own noise in m with weight own / 2, and m is subtracted from both.
    assert (naive - true) / truth.numel() == pytest.approx(-own * SIGMA**2, abs=0.01)
    if own > 0.5:
        assert naive < 0.1 * true


def test_for_an_estimate_that_saw_neither_half_the_crossed_form_is_the_plain_product() -> None:
    _, (even, odd), _ = drawn(size=9)
    m = drawn(size=9, seed=1)[0]
    assert compared((even, odd), (m, m)).error == pytest.approx(float(((even - m) * (odd - m)).sum()))


def test_a_shorter_estimate_correlates_as_well_and_the_slope_undoes_it() -> None:
    _, halves, (first, second) = drawn(size=24)
    found, loud = (compared(halves, (c * first, c * second)) for c in (1.0, 4.0))
    assert loud.correlation == pytest.approx(found.correlation)
    assert loud.slope == pytest.approx(found.slope / 4)
    # The slope is the best factor, and what is then recovered is the squared correlation.
    best = compared(halves, (found.slope * first, found.slope * second))
    assert best.recovered == pytest.approx(found.correlation**2)
    for factor in (0.9, 1.1):
        worse = compared(halves, (factor * found.slope * first, factor * found.slope * second))
        assert worse.error > best.error


def test_even_and_odd_may_change_places_together_but_estimates_not_alone() -> None:
    _, halves, estimates = drawn(size=24)
    found, other = compared(halves, estimates), compared(halves[::-1], estimates[::-1])
    for name in (*POWERS, *VARIANCES):
        assert getattr(other, name) == pytest.approx(getattr(found, name))
    # Against its own half an estimate looks better than it is.
    assert compared(halves, estimates[::-1]).correlation > found.correlation + 0.05


# -- bands and regions ----------------------------------------------------------------------------


def full_spectrum(band: Tensor, shape: Shape) -> Tensor:
    """A band of the half spectrum on the full one."""
    full = torch.zeros(shape, dtype=torch.bool)
    for z, y, x in torch.nonzero(band).tolist():
        full[z, y, x] = full[-z, -y, -x] = True
    return full


@pytest.mark.parametrize("shape", [(9, 10, 11), (12, 8, 10)])
@pytest.mark.parametrize("region", ["everything", *REGIONS])
def test_powers_are_those_of_the_filtered_voxels_that_count(shape: Shape, region: str) -> None:
    volumes = torch.randn(4, *shape, generator=seeded(3), dtype=torch.float64)
    where = everything(shape)[1] if region == "everything" else REGIONS[region](shape)
    for band in (everything(shape)[0], *bands(shape).values()):
        full = full_spectrum(band, shape)
        even, odd, first, second = (torch.fft.ifftn(torch.fft.fftn(v) * full).real[where] for v in volumes)
        expected = (even @ odd, (even @ second + odd @ first) / 2, ((first + second) / 2).square().sum())
        found = compared((volumes[0], volumes[1]), (volumes[2], volumes[3]), band, where)
        for name, value in zip(POWERS, expected, strict=True):
            assert getattr(found, name) == pytest.approx(float(value), rel=1e-9, abs=1e-9)
        if region == "everything":  # then sums over coefficients say the same
            weight = multiplicity(shape) * band
            even_k, odd_k, first_k, second_k = (rfft(v) for v in volumes)
            common = (even_k * second_k.conj() + odd_k * first_k.conj()).real / 2
            assert found.signal == pytest.approx(float(((even_k * odd_k.conj()).real * weight).sum()))
            assert found.common == pytest.approx(float((common * weight).sum()))


@pytest.mark.parametrize("region", ["everything", *REGIONS])
@pytest.mark.parametrize("band", ["everything", "wide", "narrow", "small"])
def test_freedom_is_the_trace_of_a_dense_matrix(band: str, region: str) -> None:
    shape = (6, 5, 8)
    mask = {"everything": everything(shape)[0], **bands(shape)}[band]
    where = everything(shape)[1] if region == "everything" else REGIONS[region](shape)
    unit = torch.eye(where.numel(), dtype=torch.float64).reshape(-1, *shape)
    project = irfft(rfft(unit) * mask, shape).reshape(where.numel(), -1)
    matrix = project @ torch.diag(where.flatten().double()) @ project
    zero = torch.zeros(shape, dtype=torch.float64)
    freedom = HalvesInBand(spectra((zero, zero)), mask, where).freedom
    assert freedom == pytest.approx(float(torch.trace(matrix @ matrix)), rel=1e-4, abs=1e-5)
    if region == "everything":
        count = float((multiplicity(shape) * mask).sum())
        assert freedom == pytest.approx(count, rel=1e-4) == int(full_spectrum(mask, shape).sum())
    if band == "everything":
        assert freedom == pytest.approx(int(where.sum()), rel=1e-4)


@pytest.mark.parametrize("region", REGIONS)
def test_the_noise_power_is_that_of_a_half_in_the_band(region: str) -> None:
    shape = (20, 20, 20)
    colour = 0.5 + 3 * radius(shape)
    n1, n2, structure = torch.randn(3, *shape, generator=seeded(1), dtype=torch.float64)
    for band in bands(shape).values():
        weight = band * multiplicity(shape)
        power = SIGMA**2 * float((colour**2 * weight).sum() / weight.sum())
        halves = tuple(10 * rfft(structure) + SIGMA * colour * rfft(n) for n in (n1, n2))
        found = HalvesInBand((halves[0], halves[1]), band, REGIONS[region](shape))
        assert found.noise == pytest.approx(power, rel=5 * math.sqrt(2 / found.freedom))


def test_single_precision_is_summed_in_double() -> None:
    _, halves, estimates = drawn(size=16)
    (even, odd), (first, second) = ((a.float() + 1e3, b.float() + 1e3) for a, b in (halves, estimates))
    found = compared((even, odd), (first, second))
    # The fields are single precision, after an FFT there and back; their products' sum is not.
    assert found.signal == pytest.approx(float((even.double() * odd.double()).sum()), rel=1e-6)


def test_voxels_and_coefficients_that_are_left_out_do_not_matter() -> None:
    shape = (12, 12, 12)
    _, halves, estimates = drawn(size=12)
    band, where = bands(shape)["wide"], ball(shape)
    found = compared(halves, estimates, band, where)
    beyond = irfft(rfft(torch.randn(shape, generator=seeded(4), dtype=torch.float64)) * ~band, shape)
    other = compared((halves[0] + 50 * beyond, halves[1]), (estimates[0], estimates[1] + 50 * beyond), band, where)
    for name in (*POWERS, *VARIANCES):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-9)
    # All coefficients: then voxels are apart.
    every, _ = everything(shape)
    spoilt = [tuple(torch.where(where, t, 1e3) for t in pair) for pair in (halves, estimates)]
    assert compared(*spoilt, every, where).error == pytest.approx(compared(halves, estimates, every, where).error)


def test_an_empty_band_or_region_says_nothing() -> None:
    _, halves, estimates = drawn(size=8)
    band, where = everything((8, 8, 8))
    for found in (compared(halves, estimates, ~band), compared(halves, estimates, None, ~where)):
        assert found == ErrorPower(0.0, 0.0, 0.0, freedom=0.0)
        assert math.isnan(found.correlation) and found.error == 0


# -- what the noise makes uncertain ---------------------------------------------------------------

SMALL = (16, 16, 16)
DRAWN = 80
LOUD = 3.0  # so that no structure is seen in a small band
LEVELS = (0.6, 1.2)  # noise, about as strong as the structure in the middle of the band
GAINS: dict[str, float | None] = {"blind": None, "nothing": 0.0, "half": 0.5, "copy": 1.0}
COLOURS = {"white": 0.0, "coloured": 4.0}


@functools.cache
def structure() -> Pair:
    """A fixed truth, and something that a blind estimate has invented; red, as structures are."""
    white = torch.randn(2, *SMALL, generator=seeded(11), dtype=torch.float64)
    truth, other = irfft(rfft(white) * torch.exp(1.5 - 6 * radius(SMALL).double()), SMALL)
    return truth, other


@functools.cache
def draws(band: str, region: str, colour: str, level: float) -> dict[str, list[tuple[ErrorPower, ErrorPower]]]:
    """What was found and what was true of one place, by estimator, for many noises of the halves."""
    truth, other = structure()
    mask, where = bands(SMALL)[band], REGIONS[region](SMALL)
    amplitude = level * (1 + COLOURS[colour] * (radius(SMALL).double() - 0.22))
    found: dict[str, list[tuple[ErrorPower, ErrorPower]]] = {name: [] for name in GAINS}
    for seed in range(DRAWN):
        white = torch.randn(2, *SMALL, generator=seeded(1000 + seed), dtype=torch.float64)
        even, odd = truth + irfft(rfft(white) * amplitude, SMALL)
        halves = HalvesInBand(spectra((even, odd)), mask, where)
        for name, gain in GAINS.items():
            blind = 0.5 * truth + 0.4 * other
            made = (blind, blind) if gain is None else (gain * even, gain * odd)
            found[name].append((halves.against(spectra(made)), truly(truth, mean(made), mask, where)))
    return found


def stated(pairs: list[tuple[ErrorPower, ErrorPower]], score: str) -> list[tuple[float, float, float, float]]:
    """Interval, estimate and truth of the draws in which something is stated: nearly all."""
    bounds = [found.interval(score, generator=seeded(i)) for i, (found, _) in enumerate(pairs)]
    rows = [
        (*ends, getattr(found, score), getattr(true, score))
        for ends, (found, true) in zip(bounds, pairs, strict=True)
        if not math.isnan(ends[0])
    ]
    assert len(rows) >= 0.85 * len(pairs)
    return rows


def covered(pairs: list[tuple[ErrorPower, ErrorPower]], score: str) -> float:
    """Share of the draws in which the interval holds the truth."""
    rows = stated(pairs, score)
    return sum(low - 1e-9 <= true <= high + 1e-9 for low, high, _, true in rows) / len(rows)


PLACES = [
    ("wide", "ball", "white"), ("wide", "box", "coloured"), ("narrow", "ball", "coloured"), ("narrow", "box", "white"),
    ("small", "ball", "white"), ("small", "box", "coloured"),
]  # fmt: skip


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_power, "DRAWS", 500)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("band", "region", "colour"), PLACES)
def test_the_truth_of_this_place_lies_in_the_interval_as_often_as_it_says(
    band: str, region: str, colour: str, level: float
) -> None:
    for name, pairs in draws(band, region, colour, level).items():
        for score in PROPERTIES:
            if name == "nothing" and score in ("correlation", "slope"):
                assert all(math.isnan(getattr(found, score)) for found, _ in pairs)
                continue
            assert covered(pairs, score) >= 0.88, (name, score)
            if name == "nothing" and score == "recovered":
                assert all(found.recovered == true.recovered == 0 or not found.signal > 0 for found, true in pairs)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize(("band", "region", "colour"), [PLACES[0], PLACES[-1]])
def test_error_and_slope_are_covered_where_no_structure_is_seen(band: str, region: str, colour: str) -> None:
    for name, pairs in draws(band, region, colour, LOUD).items():
        for score in ("error",) if name == "nothing" else ("error", "slope"):
            assert covered(pairs, score) >= 0.88, (name, score)
    # There nothing is said, now and then, of shares of the structure.
    said = [found.interval("correlation", generator=seeded(0)) for found, _ in pairs]
    assert any(math.isnan(low) for low, _ in said)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("band", "region", "colour"), PLACES)
def test_intervals_are_not_much_wider_than_the_spread(band: str, region: str, colour: str, level: float) -> None:
    for name in ("blind", "half", "copy"):
        pairs = draws(band, region, colour, level)[name]
        for score in ("error", "correlation", "slope"):
            low, high, found, true = torch.tensor(stated(pairs, score)).T
            width = float((high - low).mean() / (2 * 1.96 * (found - true).std()))
            assert width > 0.75, (name, score)
            if name == "blind":
                assert width < 1.6, score


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize("score", ["error", "correlation", "slope"])
@pytest.mark.parametrize(("share", "most"), [(0.0, 0.05), (0.5, 0.8)])
def test_with_less_noise_than_there_is_intervals_would_miss_the_truth(score: str, share: float, most: float) -> None:
    for name in ("blind", "copy"):
        pairs = draws("wide", "ball", "white", LEVELS[0])[name]
        weaker = [
            (replace(found, **{v: share**2 * getattr(found, v) for v in VARIANCES}), true) for found, true in pairs
        ]
        assert covered(weaker, score) < most < covered(pairs, score)


@pytest.mark.parametrize("name", ["blind", "half", "copy"])
def test_stated_variances_are_the_closed_form_of_a_linear_filter(name: str) -> None:
    """White noise, all voxels, a gain g: <n_even, n_odd> stands in both halves of the crossed product."""
    truth, other = structure()
    mask, where = bands(SMALL)["wide"], everything(SMALL)[1]
    s2, gain = 4.0, GAINS[name]
    blind = 0.5 * truth + 0.4 * other
    stated, missed = [], []
    for seed in range(200):
        noise = torch.randn(2, *SMALL, generator=seeded(1000 + seed), dtype=torch.float64)
        even, odd = truth + math.sqrt(s2) * noise
        made = (blind, blind) if gain is None else (gain * even, gain * odd)
        found, true = compared((even, odd), made, mask, where), truly(truth, mean(made), mask, where)
        stated.append([getattr(found, v) for v in VARIANCES])
        missed.append([found.signal - true.signal, found.common - true.common])
    x, count = truly(truth, blind, mask, where), float((multiplicity(SMALL) * mask).sum())
    if gain is None:
        common, both = s2 * x.estimate / 2, s2 * x.common
    else:
        common, both = gain**2 * s2 * (x.signal / 2 + s2 * count), gain * s2 * (x.signal + s2 * count)
    expected = (s2 * (2 * x.signal + s2 * count), common, both)
    average = torch.tensor(stated).mean(dim=0)
    torch.testing.assert_close(average, torch.tensor(expected), rtol=0.05, atol=0)
    # And they are those of what is missed.
    spread = torch.tensor(missed).T.cov()
    for value, wanted in zip((spread[0, 0], spread[1, 1], spread[0, 1]), expected, strict=True):
        assert float(value) == pytest.approx(wanted, rel=0.4)


def test_an_estimate_that_differs_between_the_halves_is_never_taken_for_more_certain() -> None:
    # What differs may be the response to a half's noise: the variance is that of the worst case.
    _, halves, (first, second) = drawn(size=16)
    alike = compared(halves, ((first + second) / 2,) * 2)
    apart = compared(halves, (first, second))
    assert apart.estimate == pytest.approx(alike.estimate)
    assert apart.common_variance > alike.common_variance
    for found in (alike, apart):
        assert found.covariance**2 <= 1.02 * found.signal_variance * found.common_variance


# -- sums -----------------------------------------------------------------------------------------


def test_a_sum_over_disjoint_bands_is_their_union() -> None:
    _, halves, estimates = drawn(size=20)
    k = radius((20, 20, 20))
    one, two = (k > 0.1) & (k < 0.2), (k >= 0.2) & (k < 0.3)
    total = compared(halves, estimates, one) + compared(halves, estimates, two)
    union = compared(halves, estimates, one | two)
    for name in (*POWERS, "correlation"):
        assert getattr(total, name) == pytest.approx(getattr(union, name))
    for name in VARIANCES:  # each band has its own measurement of the noise
        assert getattr(total, name) == pytest.approx(getattr(union, name), rel=0.1)
    assert 0.5 * union.freedom < total.freedom <= 1.01 * union.freedom
    # Not the mean of the parts: powers are added, not ratios.
    loud = compared(halves, (-9 * estimates[0], -9 * estimates[1]), two)
    assert (compared(halves, estimates, one) + loud).slope < 0


@pytest.mark.usefixtures("fewer_draws")
def test_the_truth_lies_in_the_interval_of_a_sum_over_bands_of_a_region() -> None:
    truth, other = structure()
    where, k = ball(SMALL), radius(SMALL)
    parts = [(k > low) & (k <= low + 0.06) for low in (0.1, 0.16, 0.22, 0.28)]
    blind = 0.5 * truth + 0.4 * other
    pairs = []
    for seed in range(DRAWN):
        even, odd = truth + 1.5 * torch.randn(2, *SMALL, generator=seeded(1000 + seed), dtype=torch.float64)
        found = [compared((even, odd), (blind, blind), part, where) for part in parts]
        true = [truly(truth, blind, part, where) for part in parts]
        pairs.append((sum_of(found), sum_of(true)))
    for score in PROPERTIES:
        assert covered(pairs, score) >= 0.88, score


def sum_of(parts: list[ErrorPower]) -> ErrorPower:
    return functools.reduce(ErrorPower.__add__, parts)


def test_freedom_of_a_sum_is_that_of_welch_and_satterthwaite() -> None:
    one, two = (ErrorPower(1.0, 1.0, 1.0, 0.6, 0.4, 0.1, freedom) for freedom in (10.0, 30.0))
    assert (one + one).freedom == pytest.approx(20)
    assert (one + two).freedom == pytest.approx(4 / (1 / 10 + 1 / 30))
    certain = ErrorPower(1.0, 1.0, 1.0)
    assert (one + certain).freedom == pytest.approx(10)
    assert math.isinf((certain + certain).freedom)


def matrix(powers: ErrorPower) -> Tensor:
    signal, common, both = (getattr(powers, name) for name in VARIANCES)
    return torch.tensor([[signal, both], [both, common]], dtype=torch.float64)


def powers_of(covariance: Tensor, values: tuple[float, float, float] = (5.0, 2.0, 3.0)) -> ErrorPower:
    return ErrorPower(*values, float(covariance[0, 0]), float(covariance[1, 1]), float(covariance[0, 1]), 50.0)


def test_shared_noise_never_makes_a_sum_more_certain_than_it_is() -> None:
    for seed in range(200):
        # Both parts are any linear maps of the same four noises, or each of noises of its own.
        one, two = torch.randn(2, 2, 4, generator=seeded(seed), dtype=torch.float64)
        two = two * 10.0 ** (seed % 5 - 2)
        a, b = powers_of(one @ one.T), powers_of(two @ two.T, (1.0, 4.0, 2.0))
        stated = a.with_shared_noise(b)
        for truth in ((one + two) @ (one + two).T, (one - two) @ (one - two).T, one @ one.T + two @ two.T):
            assert float(torch.linalg.eigvalsh(matrix(stated) - truth).min()) > -1e-9 * float(torch.trace(truth))
        apart = a + b
        for name in POWERS:
            assert getattr(stated, name) == getattr(apart, name)
        for name, value in vars(stated).items():
            assert value == pytest.approx(getattr(b.with_shared_noise(a), name))


def test_shared_noise_adds_standard_deviations_and_no_more() -> None:
    covariance = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    one, two = powers_of(covariance), powers_of(9 * covariance)
    shared = one.with_shared_noise(two)
    torch.testing.assert_close(matrix(shared), (1 + 3) ** 2 * covariance)  # the very same noise, three times as loud
    assert float(torch.trace(matrix(one + two))) == pytest.approx(10 * 3)
    certain = ErrorPower(1.0, 1.0, 1.0)
    assert one.with_shared_noise(certain) == one + certain
    assert certain.with_shared_noise(one) == certain + one


def test_the_same_data_twice_are_no_more_certain_than_once() -> None:
    found = draws("wide", "ball", "white", LEVELS[0])["half"][0][0]
    again = found.with_shared_noise(found), found + found
    once, twice, wrong = (p.interval("slope", generator=seeded(0)) for p in (found, *again))
    assert twice == pytest.approx(once, rel=0.02)
    assert wrong[1] - wrong[0] < 0.8 * (once[1] - once[0])


# -- nothing to be said ---------------------------------------------------------------------------


def test_where_halves_have_nothing_in_common_no_share_of_it_is_stated() -> None:
    _, (even, _), estimates = drawn(size=8)
    found = compared((even, -even), estimates)
    assert math.isnan(found.correlation) and math.isnan(found.recovered)
    assert math.isfinite(found.error) and math.isfinite(found.slope)
    assert all(math.isnan(v) for v in found.interval("correlation", generator=seeded(0)))
    assert all(math.isfinite(v) for v in found.interval("error", generator=seeded(0)))


def test_an_empty_estimate_recovers_nothing_and_correlates_with_nothing() -> None:
    _, halves, (first, _) = drawn(size=8)
    found = compared(halves, (torch.zeros_like(first), torch.zeros_like(first)))
    assert math.isnan(found.correlation) and math.isnan(found.slope)
    assert found.recovered == 0
    assert found.error == pytest.approx(float((halves[0] * halves[1]).sum()))


def test_a_correlation_is_one_at_most_though_noise_may_say_more() -> None:
    loud = ErrorPower(1.0, 1.3, 1.0, 0.01, 0.01, 0.0)
    assert loud.correlation == 1
    assert loud.interval("correlation", generator=seeded(0))[1] == 1
    assert ErrorPower(1.0, -1.3, 1.0).correlation == -1


# -- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", PROPERTIES)
def test_an_interval_is_its_generator_s_and_a_point_where_nothing_is_uncertain(score: str) -> None:
    _, halves, estimates = drawn(size=12)
    found, state = compared(halves, estimates), torch.get_rng_state()
    first, again, other = (found.interval(score, generator=seeded(seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert first[0] < getattr(found, score) < first[1]
    assert torch.equal(torch.get_rng_state(), state)
    certain = replace(found, signal_variance=0.0, common_variance=0.0, covariance=0.0)
    assert certain.interval(score, generator=seeded(0)) == pytest.approx((getattr(found, score),) * 2)


def test_an_interval_is_that_of_a_gaussian_where_its_score_is_linear() -> None:
    found = ErrorPower(3.0, 1.0, 2.0, 0.5, 0.2, 0.1)
    low, high = found.interval("error", generator=seeded(0))
    sd = math.sqrt(0.5 + 4 * 0.2 - 4 * 0.1)
    assert (low, high) == pytest.approx((3 - 1.96 * sd, 3 + 1.96 * sd), abs=0.15)


def test_noise_read_from_few_coefficients_widens_an_interval_as_student_s_law_does() -> None:
    def half_width(freedom: float) -> float:
        low, high = ErrorPower(3.0, 1.0, 2.0, 1.0, freedom=freedom).interval("error", generator=seeded(0))
        return (high - low) / 2

    for freedom in (3.0, 6.0, 20.0):
        assert half_width(freedom) == pytest.approx(float(t.ppf(0.975, freedom)), rel=0.12)
    assert half_width(math.inf) == pytest.approx(1.96, rel=0.05)


def test_draws_without_structure_leave_shares_of_it_open() -> None:
    # Where the halves have nothing in common there is no correlation: a sixth of the draws, then most of them.
    few, most = (ErrorPower(signal, 0.5, 1.0, 1.0) for signal in (1.0, -1.0))
    low, high = few.interval("correlation", generator=seeded(0))
    assert 0.2 < low < 0.5 and high == 1
    low, high = replace(few, common=-0.5).interval("correlation", generator=seeded(0))
    assert low == -1 and -0.5 < high < -0.2
    assert replace(few, common=0.1).interval("recovered", generator=seeded(0))[0] < -1e300
    assert all(math.isnan(v) for v in most.interval("correlation", generator=seeded(0)))
    assert most.interval("error", generator=seeded(0))[0] < most.error


# -- a single volume ------------------------------------------------------------------------------


def test_of_a_single_volume_bounds_are_bounds_and_the_slope_is_found() -> None:
    truth, other = structure()
    mask, where = bands(SMALL)["wide"], ball(SMALL)
    blind = 0.5 * truth + 0.4 * other
    true, pairs = truly(truth, blind, mask, where), []
    for seed in range(DRAWN):
        noisy = truth + 1.5 * torch.randn(SMALL, generator=seeded(1000 + seed), dtype=torch.float64)
        found = SingleInBand(rfft(noisy), mask, where).against(rfft(blind))
        assert 0 < found.correlation < true.correlation
        assert found.recovered < true.recovered and found.error > true.error
        assert found.estimate == pytest.approx(true.estimate)
        pairs.append((found, true))
    assert covered(pairs, "slope") >= 0.95
    misses = torch.tensor([found.common - true.common for found, _ in pairs])
    assert abs(float(misses.mean())) < 3 * float(misses.std()) / math.sqrt(DRAWN)
