"""The error of an estimate from two halves: it is the true one, however much of its own half's noise it keeps."""

from __future__ import annotations

import bisect
import math

import pytest
import torch
from torch import Tensor

from cryoaae.metrics import error_power
from cryoaae.metrics.error_power import ErrorPower, block_cuts, block_sums

Pair = tuple[Tensor, Tensor]
SIGMA = 0.7
SEEDS = 12
# Weights of an estimate on its own half, the truth and something else; the first is blind to the data.
ESTIMATES = {"blind": (0.0, 0.4, 0.6), "own half": (0.6, 0.1, 0.3), "copy": (1.0, 0.0, 0.0), "wrong": (-0.4, 0.1, 0.5)}
SCORES = ("error", "correlation", "slope", "recovered")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(
    weights: tuple[float, float, float] = ESTIMATES["own half"], *, size: int = 48, seed: int = 0
) -> tuple[Tensor, Pair, Pair]:
    """A truth that neighbours share, halves of it, and what an estimator with these weights makes of each."""
    g = seeded(seed)
    truth, n1, n2, other = torch.randn(4, size, size, size, generator=g, dtype=torch.float64)
    truth = (truth + truth.roll(1, 0) + truth.roll(1, 1) + truth.roll(1, 2)) / 2
    halves = truth + SIGMA * n1, truth + SIGMA * n2
    own, known, else_ = weights
    first, second = (own * half + known * truth + else_ * other for half in halves)
    return truth, halves, (first, second)


def truly(truth: Tensor, estimates: Pair) -> dict[str, float]:
    """The four scores from the truth."""
    m = (estimates[0] + estimates[1]) / 2
    error, structure, made, both = (float(v.sum()) for v in ((truth - m) ** 2, truth**2, m**2, truth * m))
    return {
        "error": error,
        "correlation": both / math.sqrt(structure * made),
        "slope": both / made,
        "recovered": 1 - error / structure,
    }


# -- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATES)
def test_scores_are_those_against_the_truth(name: str) -> None:
    differences: dict[str, list[float]] = {score: [] for score in SCORES}
    for seed in range(SEEDS):
        truth, halves, estimates = drawn(ESTIMATES[name], seed=seed)
        found, true = ErrorPower.of(halves, estimates), truly(truth, estimates)
        assert found.error == pytest.approx(true["error"], rel=0.02)
        for score in SCORES:
            differences[score].append(getattr(found, score) - true[score])
    for score, values in differences.items():
        spread = torch.tensor(values, dtype=torch.float64)
        assert abs(float(spread.mean())) < 3 * float(spread.std()) / math.sqrt(SEEDS), score
        if score != "error":
            assert float(spread.abs().max()) < 0.02, score


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_uncrossed_product_is_low_by_the_noise_that_the_estimate_kept(name: str) -> None:
    own = ESTIMATES[name][0]
    truth, (even, odd), estimates = drawn(ESTIMATES[name])
    m = (estimates[0] + estimates[1]) / 2
    naive, true = float(((even - m) * (odd - m)).sum()), truly(truth, estimates)["error"]
    # Each half has its own noise in m with weight own / 2, and m is subtracted from both.
    assert (naive - true) / truth.numel() == pytest.approx(-own * SIGMA**2, abs=0.01)
    if own > 0.5:
        assert naive < 0.1 * true


def test_for_an_estimate_that_saw_neither_half_the_crossed_form_is_the_plain_product() -> None:
    _, (even, odd), _ = drawn(size=9)
    m = drawn(size=9, seed=1)[0]
    assert ErrorPower.of((even, odd), (m, m)).error == pytest.approx(float(((even - m) * (odd - m)).sum()))


def test_a_shorter_estimate_correlates_as_well_and_the_slope_undoes_it() -> None:
    _, halves, (first, second) = drawn(size=24)
    found, loud = (ErrorPower.of(halves, (c * first, c * second)) for c in (1.0, 4.0))
    assert loud.correlation == pytest.approx(found.correlation)
    assert loud.slope == pytest.approx(found.slope / 4)
    # The slope is the best factor, and what is then recovered is the squared correlation.
    best = ErrorPower.of(halves, (found.slope * first, found.slope * second))
    assert best.recovered == pytest.approx(found.correlation**2)
    for factor in (0.9, 1.1):
        worse = ErrorPower.of(halves, (factor * found.slope * first, factor * found.slope * second))
        assert worse.error > best.error


def test_even_and_odd_may_change_places_together_but_estimates_not_alone() -> None:
    _, halves, estimates = drawn(size=24)
    found = ErrorPower.of(halves, estimates)
    assert ErrorPower.of(halves[::-1], estimates[::-1]).error == pytest.approx(found.error)
    # Against its own half an estimate looks better than it is.
    assert ErrorPower.of(halves, estimates[::-1]).correlation > found.correlation + 0.05


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "blocks"), [((7, 10, 5), 4), ((13, 4, 9), 3), ((3, 11, 2), 4), ((5, 6, 7), 1)])
def test_block_sums_are_those_of_a_loop(shape: tuple[int, int, int], blocks: int) -> None:
    values = torch.randn(shape, generator=seeded(0), dtype=torch.float64)
    cuts = block_cuts(shape, blocks)
    expected = torch.zeros(blocks**3, dtype=torch.float64)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        z, y, x = (bisect.bisect_right(cut, i) for cut, i in zip(cuts, index, strict=True))
        expected[(z * blocks + y) * blocks + x] += values[tuple(index)]
    torch.testing.assert_close(block_sums(values, blocks), expected)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_blocks_differ_by_at_most_a_voxel_and_cover_an_axis(blocks: int) -> None:
    for n in range(1, 40):
        (cuts,) = block_cuts([n], blocks)
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
        assert len(sizes) == blocks and sum(sizes) == n
        assert max(sizes) - min(sizes) <= 1


def test_powers_of_blocks_add_up_to_those_of_the_whole() -> None:
    _, halves, estimates = drawn(size=13)
    whole, parts = (ErrorPower.of(halves, estimates, blocks=n) for n in (1, 4))
    assert len(whole.signal) == 1 and len(parts.signal) == 64
    (even, odd), (first, second) = halves, estimates
    fields = even * odd, (even * second + odd * first) / 2, (first + second) ** 2 / 4
    for name, field in zip(("signal", "common", "estimate"), fields, strict=True):
        assert float(getattr(whole, name)) == pytest.approx(float(field.sum()))
        assert float(getattr(parts, name).sum()) == pytest.approx(float(field.sum()))
    for score in SCORES:
        assert getattr(parts, score) == pytest.approx(getattr(whole, score))


def test_single_precision_is_summed_in_double() -> None:
    _, halves, estimates = drawn(size=16)
    shift = 1e3
    (even, odd), (first, second) = ((a.float() + shift, b.float() + shift) for a, b in (halves, estimates))
    exact = (even.double() * odd.double()).sum()
    found = ErrorPower.of((even, odd), (first, second))
    assert found.signal.dtype == torch.float64
    assert float(found.signal.sum()) == pytest.approx(float(exact), rel=1e-12)


def test_voxels_left_out_do_not_matter_and_the_others_all_do() -> None:
    _, halves, estimates = drawn(size=12)
    where = torch.rand(12, 12, 12, generator=seeded(5)) < 0.6
    spoilt = [tuple(torch.where(where, t, 1e6) for t in pair) for pair in (halves, estimates)]
    found, other = ErrorPower.of(halves, estimates, where=where), ErrorPower.of(*spoilt, where=where)
    for name in ("signal", "common", "estimate"):
        assert torch.equal(getattr(found, name), getattr(other, name))
    assert float(found.signal.sum()) == pytest.approx(float((halves[0] * halves[1])[where].sum()))
    everywhere = ErrorPower.of(halves, estimates, where=torch.ones_like(where))
    assert everywhere.error == pytest.approx(ErrorPower.of(halves, estimates).error)


def test_a_sum_has_the_powers_of_the_union() -> None:
    _, halves, estimates = drawn(size=14)
    label = torch.randint(3, (14, 14, 14), generator=seeded(2))
    one, two, union = (ErrorPower.of(halves, estimates, where=w) for w in (label == 0, label == 1, label < 2))
    for name in ("signal", "common", "estimate"):
        torch.testing.assert_close(getattr(one + two, name), getattr(union, name))
    assert (one + two).correlation == pytest.approx(union.correlation)
    # Not the mean of the parts: powers are added, not ratios.
    loud = ErrorPower.of(halves, tuple(-9 * e for e in estimates), where=label == 1)
    assert (one + loud).slope < 0 < one.slope


# -- nothing to be said ---------------------------------------------------------------------------


def test_where_halves_have_nothing_in_common_no_share_of_it_is_stated() -> None:
    _, (even, _), estimates = drawn(size=8)
    for odd in (-even, torch.zeros_like(even)):
        found = ErrorPower.of((even, odd), estimates)
        assert math.isnan(found.correlation) and math.isnan(found.recovered)
        assert math.isfinite(found.error) and math.isfinite(found.slope)
        assert all(math.isnan(v) for v in found.interval("correlation", generator=seeded(0)))
        assert all(math.isfinite(v) for v in found.interval("error", generator=seeded(0)))


def test_an_empty_estimate_recovers_nothing_and_correlates_with_nothing() -> None:
    _, halves, (first, _) = drawn(size=8)
    found = ErrorPower.of(halves, (torch.zeros_like(first), torch.zeros_like(first)))
    assert math.isnan(found.correlation) and math.isnan(found.slope)
    assert found.recovered == 0
    assert found.error == pytest.approx(float((halves[0] * halves[1]).sum()))


def test_an_interval_leaves_out_what_cannot_be_said() -> None:
    # Of two blocks one has no signal: a quarter of the draws has no correlation, the others all have one.
    found = ErrorPower(*torch.tensor([[1.0, 0.0], [0.5, 0.0], [1.0, 0.0]], dtype=torch.float64))
    assert found.interval("correlation", generator=seeded(0)) == pytest.approx((0.5, 0.5))


# -- intervals ------------------------------------------------------------------------------------


def test_intervals_cover_the_law_as_often_as_they_say_and_are_no_wider_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(error_power, "RESAMPLES", 300)
    own, known, other = weights = (0.5, 0.1, 0.9)
    # Of the law: x has power 1, m is (own + known) x + own (n1 + n2) / 2 + other o.
    power = (own + known) ** 2 + own**2 * SIGMA**2 / 2 + other**2
    expected = (own + known) / math.sqrt(power)
    values, widths, covered = [], [], 0
    for seed in range(60):
        _, halves, estimates = drawn(weights, size=16, seed=100 + seed)
        found = ErrorPower.of(halves, estimates)
        low, high = found.interval("correlation", generator=seeded(seed))
        assert low <= found.correlation <= high
        covered += low <= expected <= high
        values.append(found.correlation)
        widths.append(high - low)
    assert covered >= 0.85 * 60
    ideal = 2 * 1.96 * float(torch.tensor(values).std())
    assert sum(widths) / 60 == pytest.approx(ideal, rel=0.3)


@pytest.mark.parametrize("score", SCORES)
def test_an_interval_is_its_generator_s_and_that_of_equal_blocks_is_a_point(score: str) -> None:
    _, halves, estimates = drawn(size=12)
    found, state = ErrorPower.of(halves, estimates), torch.get_rng_state()
    first, again, other = (found.interval(score, generator=seeded(seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)
    equal = ErrorPower(*(getattr(found, n)[:1].abs().repeat(8) for n in ("signal", "common", "estimate")))
    assert equal.interval(score, generator=seeded(0)) == pytest.approx((getattr(equal, score),) * 2)
