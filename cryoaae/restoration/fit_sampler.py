"""Fit the learned sampler further on a user's own halves: no truth, a few minutes, weights beside the restorer's.

It starts from the weights that come along, which were learned on simulations, and descends the noise-matched energy
score (`models.half_deviations`) on turned halves (`restoration.turned_halves`). Boxes of each tomogram are kept out of
fitting; the weights that did best there are kept, those of the start among them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.fitting.loop import Loop, run
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.project import Tomogram
from cryoaae.io.weights import digest
from cryoaae.models.half_deviations import HalfDeviations
from cryoaae.nets.deviation import Deviation
from cryoaae.restoration.engine import RestoreOptions
from cryoaae.restoration.general import settled
from cryoaae.restoration.sampler_weights import FILE
from cryoaae.restoration.turned_feed import TurnedFeed
from cryoaae.restoration.turned_halves import TurnedHalves
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.runs.progress import Progress

# Where the state of an unfinished fit lies, within a run folder.
CHECKPOINTS = "sampler_checkpoints"
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class SamplerSettings:
    """How a sampler is fitted on halves; see `FitSettings` for those of the same names.

    Parameters
    ----------
    box_size : int
        Edge of the boxes that are turned, in working voxels.
    boxes, renew_every : int
        Turned boxes of halves held ready; steps, of one box each, after which one is replaced.
    redrawn_boxes : int
        The same of draws that were measured again; every other step is of these. 0: no conditional EM.
    draws : int
        Of a box in a step.
    """

    box_size: int = 48
    boxes: int = 6
    redrawn_boxes: int = 4
    renew_every: int = 12
    draws: int = 2
    learning_rate: float = 1e-2
    warm_up_steps: int = 10
    ema_decay: float = 0.9
    held_out_fraction: float = 0.08
    minutes: float | None = 5.0
    steps: int | None = None
    patience: int = 1000
    evaluations: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise InputError("draws", f"{self.draws}: with one a score rewards no spread at all", "give 2 or more")
        if self.boxes < 1:
            raise InputError("boxes", f"{self.boxes}: draws alone tell nothing of this tomogram", "give 1 or more")


def require_pairs(tomograms: Sequence[Tomogram]) -> None:
    """Refuse single volumes: one half is scored by the other.

    Raises
    ------
    InputError
    """
    for tomogram in tomograms:
        if tomogram.single is not None:
            raise InputError(
                tomogram.name, "a single volume; a sampler is fitted on two halves",
                "give --even and --odd, or leave --posterior out",
            )  # fmt: skip


class SamplerFit:
    """Fits a sampler and writes its weights into a run folder.

    Parameters
    ----------
    tomograms : sequence of Tomogram
        With two halves each.
    model : Restorer or GeneralRestorer
        Whose errors the sampler is to draw.
    folder : Path
    settings : SamplerSettings
    device : torch.device
        Of the restorer; the sampler itself is fitted on the CPU.
    progress : Progress

    Raises
    ------
    InputError
        For single volumes.
    """

    def __init__(
        self,
        tomograms: Sequence[Tomogram],
        model: Any,
        folder: Path,
        settings: SamplerSettings,
        *,
        device: torch.device,
        progress: Progress,
    ) -> None:
        require_pairs(tomograms)
        self.folder, self.settings, self.progress, self.model = folder, settings, progress, model
        self.names = [tomogram.name for tomogram in tomograms]
        options = RestoreOptions(symmetries=False, device=str(device), allow_scale=True)
        progress.start("preparing the sampler's halves", None, "")
        sources = []
        for tomogram in tomograms:
            restorer = settled(model, tomogram.volumes, tomogram.wedge, of_mean=False)
            working = WorkingTomogram.of(
                tomogram.volumes, tomogram.wedge, restorer, options=options, advance=lambda _: progress.check()
            )
            sources.append(TurnedHalves(
                working, edge=settings.box_size, held_out_fraction=settings.held_out_fraction, seed=settings.seed,
            ))  # fmt: skip
        fitting = HalfDeviations(Deviation.bundled().train())  # frozen
        for parameter in fitting.fitted():
            parameter.requires_grad_()
        feed = TurnedFeed(
            sources, boxes=settings.boxes, redrawn_boxes=settings.redrawn_boxes, renew_every=settings.renew_every,
            draws=settings.draws, held_out=settings.held_out_fraction > 0, seed=settings.seed,
        )  # fmt: skip
        self.loop = Loop(fitting, feed, settings)
        self.scores: list[float] = []
        self.shown, self.last = 0.0, time.monotonic()

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Fit to the end, or go on with a fit that was stopped; write the weights and return what is kept with them.

        Raises
        ------
        InterruptedRunError
            The state is kept.
        """
        if resume and any(self.checkpoints.glob("*.ckpt")):
            state = load_latest(self.checkpoints)
            self.loop.load_state(state)
            self.scores = [float(score) for score in state["scores"]]
        self.progress.start("fitting the sampler of draws", 1.0, "fit")
        try:
            reason = run(
                self.loop, on_step=lambda _: self._advance(), on_evaluation=self.scores.append, on_time=self._on_time
            )
        except InterruptedRunError:
            self._keep()
            self.progress.message(f"stopped at step {self.loop.budget.step} of the sampler; go on with --resume")
            raise
        self.progress.finish()
        return self._write(reason)

    def _write(self, reason: str) -> dict[str, Any]:
        if self.loop.held_out:
            self.loop.average.load_state_dict(self.loop.best)
        sampler: Deviation = self.loop.average.sampler
        facts = {
            "fitted_on": self.names, "restorer": digest(dict(self.model.state_dict())),
            "start": digest(dict(Deviation.bundled().state_dict())), "settings": asdict(self.settings),
            "steps": self.loop.budget.step, "minutes": round(self.loop.budget.seconds / 60, 2), "reason": reason,
            "scores_kept_out": [round(score, 5) for score in self.scores],
        }  # fmt: skip
        sampler.save(self.folder / FILE, facts)
        for file in self.checkpoints.glob("*"):
            file.unlink()
        if self.checkpoints.exists():
            self.checkpoints.rmdir()
        self.progress.message(self._said(reason))
        return facts

    def _said(self, reason: str) -> str:
        words = f"sampler of draws fitted on the halves: {self.loop.budget.step} steps ({reason})"
        if not self.scores:
            return words
        first, best = self.scores[0], min(self.scores)
        if best >= first:
            return f"{words}; on places kept out nothing did better than the sampler that comes along: its weights stay"
        return f"{words}; score on places kept out {first:.4f} before, {best:.4f} after (less is better)"

    def _advance(self) -> None:
        fraction = self.loop.budget.fraction
        self.progress.advance(max(0.0, fraction - self.shown))
        self.shown = max(self.shown, fraction)

    def _on_time(self) -> None:
        if time.monotonic() - self.last >= CHECKPOINT_SECONDS:
            self._keep()
            self.last = time.monotonic()
        self.progress.check()

    def _keep(self) -> None:
        save_rotating(self.checkpoints, {**self.loop.state(), "scores": self.scores})
