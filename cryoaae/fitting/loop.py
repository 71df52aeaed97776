"""The loop: draw a batch, run the model's phases, keep an average, guard, record, checkpoint.

It knows phases and a feed, and nothing else of model and data. Everything it needs to go on bit for
bit is in `state`; only the clock is not, so runs limited by steps are reproducible and runs limited
by minutes stop where the time is up.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cryoaae.errors import FittingDivergedError
from cryoaae.fitting.budget import Budget, Plateau
from cryoaae.fitting.optimisers import optimiser_of
from cryoaae.models.phase import Phase, Watch
from cryoaae.runs.ranks import average_gradients, mean_over_ranks, of_the_first

BAD_STEPS_ALLOWED = 3
ROLLBACKS_ALLOWED = 1
# A falling learning rate brings gains late: a pause before this share of the budget is no plateau.
PLATEAU_AFTER = 0.5


class Feed(Protocol):
    """Where batches come from."""

    def prepare(self, step: int, fraction: float, average: Any) -> bool:
        """Get ready for a step, given the share of the budget used and the averaged model.

        Returns whether the batches kept out of fitting have changed.
        """
        ...

    def batch(self) -> Any:
        """Draw what a step descends on."""
        ...

    def held_out(self) -> list[Any]:
        """Return fixed batches of what is kept out of fitting; may be empty."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on, as tensors and plain data."""
        ...

    def load_state(self, state: dict[str, Any], average: Any) -> None:
        """Go on from `state`; `average` is the averaged model of that state."""
        ...


class Schedule(Protocol):
    """What the loop reads of the settings of a fit."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def warm_up_steps(self) -> int: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def patience(self) -> int: ...
    @property
    def evaluations(self) -> int: ...


class Loop:
    """Fit a model on batches from a feed.

    Parameters
    ----------
    model : nn.Module with `phases` and `held_out_loss`
    feed : Feed
    settings : Schedule
    """

    def __init__(self, model: Any, feed: Feed, settings: Schedule) -> None:
        self.model, self.feed, self.settings = model, feed, settings
        self.held_out = feed.held_out()
        self.average = copy.deepcopy(model)
        for p in self.average.parameters():
            p.requires_grad_(False)
        self.phases: list[Phase] = model.phases()
        self.optimisers = [optimiser_of(p, settings.learning_rate) for p in self.phases]
        self.budget = Budget(settings.steps, settings.minutes)
        self.plateau = Plateau(settings.patience)
        self.rate = settings.learning_rate
        self.next_evaluation = 0.0
        self.best: dict[str, Tensor] = self._weights(self.average)
        self.good = self._snapshot()
        self.bad_steps = self.rollbacks = 0

    # -- one step --------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Run every phase once on a fresh batch; return the terms of the loss."""
        started = time.perf_counter()
        if self.feed.prepare(self.budget.step, self.budget.fraction, self.average):
            self._start_losses_afresh()
        batch = self.feed.batch()
        record: dict[str, float] = {}
        rate = self.rate * self.budget.rate_factor(self.settings.warm_up_steps)
        for phase, optimiser in zip(self.phases, self.optimisers, strict=True):
            optimiser.zero_grad(set_to_none=True)
            terms = phase.losses(batch)
            if not terms:
                continue
            loss = torch.stack([term.sum() for term in terms.values()]).sum()
            loss.backward()
            average_gradients(phase.parameters)
            finite = torch.isfinite(mean_over_ranks(loss))
            if phase.clip is not None:
                finite = finite & torch.isfinite(nn.utils.clip_grad_norm_(phase.parameters, phase.clip))
            if not finite:
                self._bad_step(phase.name)
                break
            for group in optimiser.param_groups:
                group["lr"] = rate * phase.rate
            optimiser.step()
            record |= {name: float(mean_over_ranks(value.detach().mean())) for name, value in terms.items()}
        else:
            self.bad_steps = 0
            self._update_average()
            self._look_after()
        self.budget.step += 1
        self._count_seconds(time.perf_counter() - started)
        return record

    def _count_seconds(self, seconds: float) -> None:
        """Add to the time used, by the clock of the first process."""
        self.budget.seconds = of_the_first(self.budget.seconds + seconds, self.phases[0].parameters[0].device)

    def _update_average(self) -> None:
        step = self.budget.step
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            for mean, value in zip(self.average.buffers(), self.model.buffers(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)

    def _start_losses_afresh(self) -> None:
        """What is kept out has changed, so its losses before and after cannot be compared."""
        self.held_out = self.feed.held_out()
        self.plateau = Plateau(self.settings.patience)
        self.next_evaluation = self.budget.fraction

    def _bad_step(self, phase: str) -> None:
        """Skip a non-finite step; after a few go back to the last good state at half the rate."""
        self.bad_steps += 1
        if self.bad_steps > BAD_STEPS_ALLOWED:
            self._go_back(phase, "the loss is not finite; lower learning_rate")

    def _look_after(self) -> None:
        """Go back if a phase has been in trouble for too long."""
        for phase in self.phases:
            problem = None if phase.watch is None else phase.watch.trouble()
            if problem is not None:
                self._go_back(phase.name, problem)

    def _go_back(self, phase: str, problem: str) -> None:
        """Return to the last good state, once at half the rate; the second time fitting has diverged."""
        self._restore_snapshot(self.good)
        self.bad_steps = 0
        if self.rollbacks >= ROLLBACKS_ALLOWED:
            raise FittingDivergedError(
                f"fitting diverged at step {self.budget.step} in phase '{phase}', last good at step "
                f"{self.good['step']}: {problem}"
            )
        self.rollbacks += 1
        self.rate /= 2

    # -- held-out loss -----------------------------------------------------------------------------

    def evaluation_due(self) -> bool:
        return bool(self.held_out) and self.budget.fraction >= self.next_evaluation

    def evaluate(self) -> float:
        """Held-out loss of the averaged weights; remember the best."""
        started = time.perf_counter()
        with torch.no_grad():
            losses = [float(self.average.held_out_loss(batch)) for batch in self.held_out]
        loss = sum(losses) / len(losses)
        while self.next_evaluation <= self.budget.fraction:
            self.next_evaluation += 1.0 / self.settings.evaluations
        if self.plateau.update(loss):
            self.best = self._weights(self.average)
        self.keep_good()
        self._count_seconds(time.perf_counter() - started)
        return loss

    def keep_good(self) -> None:
        """Remember the present state as the one to go back to when steps turn bad, unless a phase doubts it."""
        if not any(watch.doubtful() for watch in self.watches):
            self.good = self._snapshot()

    @property
    def watches(self) -> list[Watch]:
        return [phase.watch for phase in self.phases if phase.watch is not None]

    def figures(self) -> dict[str, float]:
        """What the phases' watches have to record."""
        return {name: value for watch in self.watches for name, value in watch.figures().items()}

    def finished(self) -> str | None:
        """Why to stop, or None."""
        if self.budget.fraction >= 1.0:
            return "steps" if self.budget.steps is not None else "minutes"
        flat = self.plateau.flat and self.budget.fraction >= PLATEAU_AFTER
        return "held-out loss is flat" if flat else None

    # -- state -------------------------------------------------------------------------------------

    @staticmethod
    def _weights(module: nn.Module) -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}

    def _snapshot(self) -> dict[str, Any]:
        return {
            "step": self.budget.step,
            "model": self._weights(self.model),
            "average": self._weights(self.average),
            "optimisers": [copy.deepcopy(o.state_dict()) for o in self.optimisers],
        }

    def _restore_snapshot(self, snapshot: dict[str, Any]) -> None:
        self.model.load_state_dict(snapshot["model"])
        self.average.load_state_dict(snapshot["average"])
        for optimiser, state in zip(self.optimisers, snapshot["optimisers"], strict=True):
            optimiser.load_state_dict(copy.deepcopy(state))

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain data."""
        return {
            **self._snapshot(),
            "seconds": self.budget.seconds,
            "rate": self.rate,
            "next_evaluation": self.next_evaluation,
            "plateau": [self.plateau.best, self.plateau.waited],
            "best": self.best,
            "good": self.good,
            "bad": [self.bad_steps, self.rollbacks],
            "feed": self.feed.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._restore_snapshot(state)
        self.budget.step, self.budget.seconds = int(state["step"]), float(state["seconds"])
        self.rate, self.next_evaluation = float(state["rate"]), float(state["next_evaluation"])
        self.plateau.best, self.plateau.waited = float(state["plateau"][0]), int(state["plateau"][1])
        self.best = state["best"]
        self.feed.load_state(state["feed"], self.average)
        self.held_out = self.feed.held_out()
        self.good = state["good"]
        self.bad_steps, self.rollbacks = (int(n) for n in state["bad"])


def run(
    loop: Loop,
    *,
    on_step: Callable[[dict[str, float]], None],
    on_evaluation: Callable[[float], None],
    on_time: Callable[[], None],
) -> str:
    """Run until the budget is used up or the held-out loss is flat; return why it stopped.

    `on_time` is called after every step, for checkpoints, previews and interruptions.
    """
    while (reason := loop.finished()) is None:
        if loop.evaluation_due():
            on_evaluation(loop.evaluate())
        on_step(loop.step())
        on_time()
    if loop.held_out:
        on_evaluation(loop.evaluate())
    return reason
