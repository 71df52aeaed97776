"""How near every sampler comes to a posterior that is known: mean and spread on the linear-Gaussian oracle.

    benchmark_oracle.py [--rows NAME ...] [--oracles NAME ...] [--again]
    benchmark_oracle.py --table

Rows are appended to docs/benchmarks/oracle.json, the table docs/benchmarks/oracle.md is made from the last row of
every name, and what is there already is not measured again unless --again is given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_rows import append, provenance, read_rows
from torch import Tensor

from cryoaae.io.atomic import write_text
from cryoaae.models.network_fitting import NetworkFit, NetworkFitting
from cryoaae.sampling.agreement import agreement
from cryoaae.sampling.basis import grid_turns
from cryoaae.sampling.bootstrap import equivariant_bootstrap
from cryoaae.sampling.importance import boltzmann_weights, resampled, squared_cost
from cryoaae.sampling.langevin import WedgePosterior, walk
from cryoaae.sampling.oracle import LinearGaussian, Oracle
from cryoaae.sampling.self_supervised import SamplerFit, SamplerFitting

ROWS = Path(__file__).parents[1] / "docs" / "benchmarks" / "oracle.json"
TABLE = ROWS.with_suffix(".md")
PLACES, DRAWS = 32, 32
CANDIDATES = 20000
BURN_IN, STEPS, WRONG_STEP = 400, 100, 0.3
EXCESS_MUST, STD_MUST, NETWORK_MUST = 0.02, 0.05, (0.05, 0.1)
ESS_MUST, KHAT_MUST = 100.0, 0.7
ORACLES: dict[str, dict[str, Any]] = {
    "8^3, white": {"shape_zyx": (8, 8, 8), "noise_rise": 1.0},
    "8^3, coloured": {"shape_zyx": (8, 8, 8), "noise_rise": 3.0},
    "16^3, white": {"shape_zyx": (16, 16, 16), "noise_rise": 1.0},
    "16^3, coloured": {"shape_zyx": (16, 16, 16), "noise_rise": 3.0},
}


@dataclass(frozen=True)
class Drawn:
    """Draws of a sampler at some places, the exact posterior there, and what else is worth keeping."""

    draws: Tensor  # (p, k, d)
    mean: Tensor  # (p, d)
    variance: Tensor  # (d,)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A sampler, or a baseline: its name, what it is, and how it draws."""

    name: str
    kind: str
    draw: Callable[[Oracle, torch.Generator], Drawn]
    edges: tuple[int, ...] = (8,)


def places(oracle: Oracle, generator: torch.Generator) -> Tensor:
    truth = oracle.model.truths(PLACES, generator=generator)
    return oracle.model.measure(truth, generator=generator)


def judged(oracle: Oracle, y: Tensor, draws: Tensor, **facts: Any) -> Drawn:
    """Draws given one observation, beside the exact posterior."""
    model = oracle.model
    return Drawn(draws, model.mean(y), model.posterior_covariance.diagonal(), facts)


def stationary(oracle: Oracle) -> LinearGaussian:
    """What the half-map spectrum alone says: the oracle without its window."""
    return LinearGaussian(torch.diag(oracle.stationary_power), oracle.model.noise_power, oracle.model.measured)


# -- baselines --------------------------------------------------------------------------------------


def exact(oracle: Oracle, generator: torch.Generator) -> Drawn:
    y = places(oracle, generator)
    return judged(oracle, y, oracle.model.draws(y, DRAWS, generator=generator))


def prior(oracle: Oracle, generator: torch.Generator) -> Drawn:
    y = places(oracle, generator)
    return judged(oracle, y, oracle.model.truths(PLACES * DRAWS, generator=generator).unflatten(0, (PLACES, DRAWS)))


def constant_std(oracle: Oracle, generator: torch.Generator) -> Drawn:
    y = places(oracle, generator)
    white = torch.randn(PLACES, DRAWS, y.shape[1], generator=generator, dtype=y.dtype)
    std = oracle.model.posterior_covariance.diagonal().mean().sqrt()
    return judged(oracle, y, oracle.model.mean(y)[:, None] + std * white)


def wiener(oracle: Oracle, generator: torch.Generator) -> Drawn:
    y = places(oracle, generator)
    return judged(oracle, y, stationary(oracle).draws(y, DRAWS, generator=generator))


def bootstrap(oracle: Oracle, generator: torch.Generator) -> Drawn:
    """The null: turned by the grid's own rotations, so that no interpolation counts; f is the exact posterior mean."""
    basis, model = oracle.basis, oracle.model
    rotations, sources = grid_turns(basis.shape)
    of_rotation = {tuple(r.flatten().tolist()): s for r, s in zip(rotations, sources, strict=True)}

    def turn(volume: Tensor, rotation: Tensor) -> Tensor:
        return volume.flatten()[of_rotation[tuple(rotation.flatten().tolist())]].reshape(volume.shape)

    def restorer(volume: Tensor) -> Tensor:
        return basis.volume(model.mean(basis.coefficients(volume)))

    y = places(oracle, generator)
    draws = []
    for data in y:
        chosen = rotations[torch.randint(len(rotations), (DRAWS,), generator=generator)]
        noise = basis.volume(model.measure(torch.zeros(DRAWS, basis.size, dtype=y.dtype), generator=generator))
        estimate = basis.volume(model.mean(data))
        turned_back = equivariant_bootstrap(
            estimate, restorer, oracle.wedge, rotations=chosen, noise=noise, turn=turn
        )
        again = torch.stack(list(turned_back))
        # Its mean is the estimate itself: deviations count with either sign.
        sign = torch.randint(2, (DRAWS, 1), generator=generator) * 2 - 1
        draws.append(model.mean(data) + sign * (basis.coefficients(again) - model.mean(data)))
    return judged(oracle, y, torch.stack(draws))


# -- samplers ---------------------------------------------------------------------------------------


def langevin(
    oracle: Oracle, generator: torch.Generator, *, corrected: bool = True, step: float | None = None, gamma: float = 1.0
) -> Drawn:
    """Reference: the stationary Gaussian; the window comes in as the further energy. Last states of many chains."""
    basis, model = oracle.basis, oracle.model
    y = places(oracle, generator)
    more = model.precision - torch.diag(1 / oracle.stationary_power)

    def further(volume: Tensor) -> Tensor:
        coefficients = basis.coefficients(volume)
        return 0.5 * ((coefficients @ more) * coefficients).sum(dim=-1)

    noise = basis.on_half_spectrum(model.noise_power)
    posterior = WedgePosterior(
        basis.volume(y.repeat_interleave(DRAWS, dim=0)), basis.on_half_spectrum(model.measured.double()) > 0,
        torch.where(noise > 0, noise, 1.0), basis.on_half_spectrum(oracle.stationary_power), further, gamma,
    )  # fmt: skip
    start = stationary(oracle)
    first = start.mean(y)[:, None] + 1.5 * (start.draws(y, DRAWS, generator=generator) - start.mean(y)[:, None])
    run = walk(
        posterior, basis.volume(first.flatten(0, 1)), burn_in=0 if step else BURN_IN,
        steps=STEPS + (BURN_IN if step else 0), generator=generator, corrected=corrected, step=step,
    )  # fmt: skip
    draws = basis.coefficients(run.last).unflatten(0, (PLACES, DRAWS))
    return judged(oracle, y, draws, step=run.step, acceptance=run.acceptance)


def importance(oracle: Oracle, generator: torch.Generator, *, size: int = 8, double_count: bool = False) -> Drawn:
    """Draws given y_even, weighted by y_odd in random blocks; judged by the posterior of those two pieces of data."""
    model = oracle.model
    even = places(oracle, generator)
    # The truth behind `even` is one of its posterior draws, so a fresh draw measured again is the other half.
    truth = model.draws(even, 1, generator=generator)[:, 0]
    odd = even if double_count else model.measure(truth, generator=generator)
    order = torch.randperm(oracle.basis.size, generator=generator)
    blocks = order[: len(order) // size * size].reshape(-1, size)
    draws, mean = model.mean(even)[:, None].repeat(1, DRAWS, 1), model.mean(even)
    variance, ess, khat = model.posterior_covariance.diagonal().clone(), [], []
    candidates = model.draws(torch.zeros_like(even[:1]), CANDIDATES, generator=generator)[0]
    for block in blocks:
        given = LinearGaussian(
            model.posterior_covariance[block][:, block], model.noise_power[block], model.measured[block]
        )
        centre = model.mean(even)[:, block]
        here = candidates[:, block] + centre[:, None]
        weights = boltzmann_weights(squared_cost(here, odd[:, block], given.noise_power, given.measured))
        draws[..., block] = resampled(here, weights.weights, DRAWS, generator=generator)
        if not double_count:
            mean[:, block] = centre + given.mean((odd[:, block] - centre) * given.measured)
            variance[block] = given.posterior_covariance.diagonal()
        ess.append(weights.ess)
        khat.append(weights.khat)
    rest = order[blocks.numel() :]
    draws[..., rest] += candidates[torch.randint(CANDIDATES, (PLACES, DRAWS), generator=generator)][..., rest]
    all_ess, all_khat = torch.cat(ess), torch.cat(khat)
    passed = (all_ess >= ESS_MUST) & (all_khat < KHAT_MUST)
    facts = {
        "least_ess": float(all_ess.min()), "median_ess": float(all_ess.median()), "largest_khat": float(all_khat.max()),
        "passed": float(passed.double().mean()), "block": size, "candidates": CANDIDATES,
    }  # fmt: skip
    return Drawn(draws, mean, variance, facts)


def learned(oracle: Oracle, generator: torch.Generator, settings: SamplerFit) -> Drawn:
    """The learned objective alone, single precision."""
    model = oracle.model
    fitting = SamplerFitting(oracle.basis, model.measured, model.halves(), settings, generator=generator)
    sampler = fitting.run()
    y = places(oracle, generator)
    with torch.no_grad():
        draws = sampler.draws(y.float(), DRAWS, generator=generator).transpose(0, 1)
    apart = sampler.gain.double() - model.gain
    excess = torch.trace(apart @ model.data_covariance @ apart.mT) / torch.trace(model.posterior_covariance)
    return judged(
        oracle, y, draws.double(), steps=settings.steps, batch=settings.batch, closed_form_excess=float(excess),
        closed_form_std=_std_by_cell(oracle, sampler.covariance.double().diagonal()),
    )  # fmt: skip


def network(oracle: Oracle, generator: torch.Generator, settings: NetworkFit) -> Drawn:
    """The same of a U-Net; judged by its draws."""
    model = oracle.model
    sampler = NetworkFitting(oracle.basis, model.measured, model.halves(), settings, generator=generator).run()
    y = places(oracle, generator)
    with torch.no_grad():
        draws = sampler.draws(y.float(), DRAWS, generator=generator).transpose(0, 1)
    return judged(oracle, y, draws.double(), steps=settings.steps, batch=settings.batch, network=True)


def _std_by_cell(oracle: Oracle, variance: Tensor) -> list[float]:
    cell, names = oracle.basis.cells()
    sums = torch.zeros(2, len(names), dtype=variance.dtype)
    sums.index_add_(1, cell, torch.stack([variance, oracle.model.posterior_covariance.diagonal()]))
    return (sums[0] / sums[1]).sqrt().tolist()


FULL = SamplerFit(steps=6000, rate=0.25, rate_steps=300.0, memory=60.0)
EITHER = (8, 16)
LIST = [
    Row("exact posterior", "floor of the comparison", exact, EITHER),
    Row("prior, data ignored", "baseline", prior, EITHER),
    Row("exact mean + constant std", "baseline", constant_std, EITHER),
    Row("Wiener sampler", "baseline: stationary prior, start of the learned ones", wiener, EITHER),
    Row("equivariant bootstrap", "null: f the exact posterior mean", bootstrap),
    Row("Langevin", "sampler, Metropolis-corrected", langevin),
    Row(
        "Langevin, uncorrected, large step", "wrong on purpose",
        lambda o, g: langevin(o, g, corrected=False, step=WRONG_STEP),
    ),
    Row("Langevin at gamma 2", "wrong on purpose", lambda o, g: langevin(o, g, gamma=2.0)),
    Row("importance, even then odd", "sampler, blocks of 8", importance),
    Row("importance, smaller blocks", "sampler, blocks of 4", lambda o, g: importance(o, g, size=4)),
    Row("importance, one half twice", "wrong on purpose", lambda o, g: importance(o, g, double_count=True)),
    Row("learned", "sampler, energy score + conditional EM", lambda o, g: learned(o, g, FULL)),
    Row(
        "learned, energy score alone", "ablation: no turns",
        lambda o, g: learned(o, g, SamplerFit(**{**vars(FULL), "em_weight": 0.0, "data_weight": 1.0, "steps": 400})),
    ),
    Row("U-Net", "sampler, energy score + conditional EM", lambda o, g: network(o, g, NetworkFit()), (16,)),
]  # fmt: skip


# -- rows and table ---------------------------------------------------------------------------------


def measure(name: str, row: Row) -> dict[str, Any]:
    oracle = Oracle.build(**ORACLES[name])
    cell, names = oracle.basis.cells()
    started, cpu = time.monotonic(), time.process_time()
    drawn = row.draw(oracle, torch.Generator().manual_seed(1))
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    found = agreement(drawn.draws, drawn.mean, drawn.variance, cell)
    regions = agreement(drawn.draws, drawn.mean, drawn.variance, (~oracle.model.measured).long())
    return {
        "oracle": name, "row": row.name, "kind": row.kind, "excess": found.excess, "excess_error": found.excess_error,
        "cells": names, "std_ratio": found.std_ratio.tolist(), "std_error": found.std_error.tolist(),
        "std_measured": float(regions.std_ratio[0]), "std_wedge": float(regions.std_ratio[1]),
        "worst_std": found.worst_std, "places": PLACES, "draws": DRAWS, **drawn.facts, "seconds": seconds,
        "cpu_seconds": cpu_seconds, "torch": torch.__version__, **provenance(),
    }  # fmt: skip


def latest(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["oracle"], row["row"]): row for row in rows}


def table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, from committed rows alone."""
    lines = [
        "# Samplers against a posterior that is known",
        "",
        "Made by `scripts/benchmark_oracle.py` from `oracle.json`; the oracle and the samplers are those of",
        "`docs/method_sampling.md`. Excess: squared error of the draws' mean beyond the posterior mean's own, over",
        "the posterior's trace. Std: of the draws over the exact one, in the measured region, in the wedge, and in the",
        "worst cell of (shell, angle); ± is the comparison's own standard error.",
    ]
    last = latest(rows)
    for name in dict.fromkeys(oracle for oracle, _ in last):
        lines += [
            "", f"## {name} noise", "",
            "| sampler | what it is | excess, % | std measured | std wedge | worst cell, % | CPU s |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        ordered = [last[name, row.name] for row in LIST if (name, row.name) in last]
        lines += [_line(row) for row in ordered]
        notes = [note for row in ordered if (note := _note(row))]
        if notes:
            lines += ["", *notes]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    worst = max(range(len(row["cells"])), key=lambda i: abs(row["std_ratio"][i] - 1))
    return (
        f"| {row['row']} | {row['kind']} | {100 * row['excess']:.1f} ± {100 * row['excess_error']:.1f} "
        f"| {row['std_measured']:.3f} | {row['std_wedge']:.3f} "
        f"| {100 * (row['std_ratio'][worst] - 1):+.1f} ± {100 * row['std_error'][worst]:.1f} ({row['cells'][worst]}) "
        f"| {row['cpu_seconds']:.0f} |"
    )


def _note(row: dict[str, Any]) -> str:
    if "closed_form_std" in row:
        worst = max(abs(ratio - 1) for ratio in row["closed_form_std"])
        good = row["closed_form_excess"] <= EXCESS_MUST and worst <= STD_MUST
        return (
            f"- {row['row']}: from its matrices, without draws, excess {100 * row['closed_form_excess']:.2f} % "
            f"(must {100 * EXCESS_MUST:g}), worst cell {100 * worst:.1f} % (must {100 * STD_MUST:g}): "
            f"{'held' if good else 'not held'}; {row['steps']} steps of {row['batch']} places."
        )
    if row.get("network"):
        excess_must, std_must = NETWORK_MUST
        good = row["excess"] <= excess_must and row["worst_std"] <= std_must
        return (
            f"- {row['row']}: by its draws, must {100 * excess_must:g} and {100 * std_must:g} %: "
            f"{'held' if good else 'not held'}; {row['steps']} steps of {row['batch']} places."
        )
    if "largest_khat" in row:
        return (
            f"- {row['row']}: of {row['candidates']} candidates, effective {row['least_ess']:.0f} at least, "
            f"{row['median_ess']:.0f} in the median; Pareto k up to {row['largest_khat']:.2f}. "
            f"{100 * row['passed']:.1f} % of blocks and places have {ESS_MUST:g} or more and k below {KHAT_MUST:g}."
        )
    if "acceptance" in row:
        return f"- {row['row']}: step {row['step']:.3f}, acceptance {row['acceptance']:.2f}."
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[row.name for row in LIST])
    parser.add_argument("--oracles", nargs="*", default=list(ORACLES))
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    wanted = [
        (name, row)
        for name in ([] if options.table else options.oracles)
        for row in LIST
        if row.name in options.rows and ORACLES[name]["shape_zyx"][0] in row.edges
    ]
    for name, row in wanted:
        if options.again or (name, row.name) not in latest(read_rows(ROWS)):
            found = measure(name, row)
            append(ROWS, found)
            print(f"{name}, {row.name}: excess {found['excess']:.4f}, worst std {found['worst_std']:.3f}", flush=True)
    write_text(TABLE, table(read_rows(ROWS)))


if __name__ == "__main__":
    main()
