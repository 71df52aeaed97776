"""The loop: draw a batch, run the model's phases, keep an average, guard, record, checkpoint.

It knows phases and nothing else of the model. Everything it needs to go on bit for bit is in
`state`; only the clock is not, so runs limited by steps are reproducible and runs limited by
minutes stop where the time is up.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cryoaae.errors import FittingDivergedError
from cryoaae.fitting.budget import Budget, Plateau
from cryoaae.fitting.settings import FitSettings
from cryoaae.patches.pairs import BlockPool, PairBatch

GRADIENT_CLIP = 1.0
BAD_STEPS_ALLOWED = 3
ROLLBACKS_ALLOWED = 1
# A falling learning rate brings gains late: a pause before this share of the budget is no plateau.
PLATEAU_AFTER = 0.5


class Loop:
    """Fit a model on batches from a pool.

    Parameters
    ----------
    model : nn.Module with `phases` and `held_out_loss`
    pool : BlockPool
    make_held_out : callable
        Makes the fixed batches on the part kept out of fitting, from the pool as it is; may be none.
    settings : FitSettings
    """

    def __init__(
        self,
        model: Any,
        pool: BlockPool,
        make_held_out: Callable[[], list[PairBatch]],
        settings: FitSettings,
        *,
        margin: int,
    ) -> None:
        self.model, self.pool, self.settings = model, pool, settings
        self.make_held_out, self.held_out = make_held_out, make_held_out()
        self.margin = margin
        self.average = copy.deepcopy(model)
        for p in self.average.parameters():
            p.requires_grad_(False)
        self.phases = model.phases()
        self.optimisers = [torch.optim.Adam(p.parameters, lr=settings.learning_rate) for p in self.phases]
        self.budget = Budget(settings.steps, settings.minutes)
        self.plateau = Plateau(settings.patience)
        self.rate = settings.learning_rate
        self.next_evaluation = 0.0
        self.fillers: list[dict[str, Tensor]] = []
        self.best: dict[str, Tensor] = self._weights(self.average)
        self.good = self._snapshot()
        self.bad_steps = self.rollbacks = 0

    # -- one step --------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Run every phase once on a fresh batch; return the terms of the loss."""
        started = time.perf_counter()
        self.pool.ready()
        if self._refill_due():
            self._refill()
        if self.budget.step % self.settings.renew_every == 0:
            self.pool.renew()
        batch = self.pool.batch(self.settings.batch_size, margin=self.margin)
        record: dict[str, float] = {}
        rate = self.rate * self.budget.rate_factor(self.settings.warm_up_steps)
        for phase, optimiser in zip(self.phases, self.optimisers, strict=True):
            optimiser.zero_grad(set_to_none=True)
            terms = phase.losses(batch)
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(phase.parameters, GRADIENT_CLIP)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                self._bad_step(phase.name)
                break
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            record |= {name: float(value.detach()) for name, value in terms.items()}
        else:
            self.bad_steps = 0
            self._update_average()
        self.budget.step += 1
        self.budget.seconds += time.perf_counter() - started
        return record

    def _update_average(self) -> None:
        step = self.budget.step
        decay = min(self.settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def _bad_step(self, phase: str) -> None:
        """Skip a non-finite step; after a few go back to the last good state at half the rate."""
        self.bad_steps += 1
        if self.bad_steps <= BAD_STEPS_ALLOWED:
            return
        if self.rollbacks >= ROLLBACKS_ALLOWED:
            raise FittingDivergedError(
                f"fitting diverged at step {self.budget.step} in phase '{phase}': the loss is not finite; "
                f"the last good checkpoint is step {self.good['step']}; lower learning_rate"
            )
        self.rollbacks += 1
        self.rate /= 2
        self.bad_steps = 0
        self._restore_snapshot(self.good)

    # -- refilling -----------------------------------------------------------------------------------

    def _refill_due(self) -> bool:
        done, wanted = len(self.fillers), self.settings.refills
        return done < wanted and self.budget.fraction >= (done + 1) / (wanted + 1)

    def _refill(self) -> None:
        """Fill the sources' own wedges with the averaged weights' estimate; losses start afresh."""
        self.fillers.append(self._weights(self.average))
        self._fill_with(self.fillers[-1])
        self.held_out = self.make_held_out()
        self.plateau = Plateau(self.settings.patience)
        self.next_evaluation = self.budget.fraction

    def _fill_with(self, weights: dict[str, Tensor]) -> None:
        model = copy.deepcopy(self.average)
        model.load_state_dict(weights)
        self.pool.refill(model.estimate, multiple=model.multiple, seed=self.settings.seed)

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
        self.good = self._snapshot()
        self.budget.seconds += time.perf_counter() - started
        return loss

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
            "fillers": self.fillers,
            "generator": self.pool.generator.get_state(),
            "pool": self.pool.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._restore_snapshot(state)
        self.budget.step, self.budget.seconds = int(state["step"]), float(state["seconds"])
        self.rate, self.next_evaluation = float(state["rate"]), float(state["next_evaluation"])
        self.plateau.best, self.plateau.waited = float(state["plateau"][0]), int(state["plateau"][1])
        self.best = state["best"]
        self.fillers = state["fillers"]
        self.pool.load_state(state["pool"], [functools.partial(self._fill_with, w) for w in self.fillers])
        if self.fillers:
            self.held_out = self.make_held_out()
        self.pool.generator.set_state(state["generator"])
        self.good = self._snapshot()


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
