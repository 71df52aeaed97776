"""What a fit leaves behind: progress, metrics, checkpoints, previews, weights and a page."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import FittingDivergedError, InterruptedRunError
from cryoaae.fitting.code_report import report_codes
from cryoaae.fitting.loop import run
from cryoaae.fitting.pair_feed import BLOCK_MARGIN
from cryoaae.fitting.presence import learn_presence
from cryoaae.fitting.session import Session
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.checkpoint import save_rotating
from cryoaae.matching.frozen import CODES_FILE as CODES
from cryoaae.matching.frozen import FILE as ENERGY
from cryoaae.matching.frozen import REFERENCE_FILE as REFERENCE
from cryoaae.matching.frozen import save_energy
from cryoaae.matching.reference import learn_reference
from cryoaae.matching.structure import Clouds
from cryoaae.models.restorer import Restorer
from cryoaae.models.structure_prior import StructurePrior
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import Progress
from cryoaae.runs.ranks import check_together

LOSS_SMOOTHING = 0.02


class Recorder:
    """Runs the loop and writes what it does: progress, metrics, checkpoints, previews, weights, a page."""

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        settings: FitSettings,
        progress: Progress,
        device: torch.device,
        *,
        start: str,
    ) -> None:
        self.device, self.start = device, start
        self.session, self.loop, self.folder = session, session.loop, folder
        self.settings, self.progress = settings, progress
        self.loss: float | None = None
        self.held_out: float | None = None
        self.shown = 0.0  # share of the budget that the progress bar shows
        self.last_checkpoint = self.last_preview = time.monotonic()
        self.metrics = folder.path / "metrics.csv"
        self._trim_metrics()

    def fit(self) -> None:
        """Run to the end; write the weights that did best on the held-out boxes."""
        bin_, voxel = self.session.restorer.spec.working_bin, self.session.voxel_size_angstrom
        self.progress.message(
            f"working grid: {bin_ * voxel:.1f} A voxels (binned by {bin_}), "
            f"finest detail {2 * bin_ * voxel:.0f} A; limit {self._limit()}{self._precision()}"
        )
        self.progress.start("fitting", 1.0, "fit")
        self._advance()
        try:
            reason = run(
                self.loop, on_step=self._on_step, on_evaluation=self._on_evaluation, on_time=self._on_time
            )
        except InterruptedRunError:
            self.checkpoint()
            self.progress.message(f"stopped at step {self.loop.budget.step}; go on with --resume")
            raise
        except FittingDivergedError:
            self.checkpoint()  # the loop has gone back to its last good state
            raise
        self.progress.finish()
        self.progress.message(f"stopped: {reason}, after {self.loop.budget.step} steps")
        self.checkpoint()
        self.preview()
        rows = self._rows()
        losses = self._draw_losses(rows) if self.loop.held_out else b""
        restorer = self.session.best()
        if self.settings.presence and restorer.presence is not None:
            self.progress.message("learning to tell structure from noise")
            learn_presence(restorer, self.session.feed.pool, margin=BLOCK_MARGIN, seed=self.settings.seed)
        if isinstance(self.loop.model, StructurePrior):
            self.loop.model.save_energy(self.folder.path / ENERGY)
        if restorer.code_dim:
            self._report_codes(restorer)
        if self.settings.reference_steps:
            self._learn_reference()
        restorer.save(self.folder.path / "model.safetensors")
        self._report(reason, rows, losses)

    def _report_codes(self, restorer: Restorer) -> None:
        """Say what the codes are worth, and keep how those of real patches are distributed."""
        distance, found = report_codes(restorer, self.session.feed, self.settings)
        write_text(self.folder.path / "codes.json", json.dumps(found) + "\n")
        if distance is not None:
            sizes = {"patch": self.settings.prior_patch, "block": self.settings.patch_size}
            save_energy(self.folder.path / CODES, distance, **sizes)
        words = "code unused: " if found["unused"] else ""
        self.progress.message(f"{words}the output changes by {found['use']:.1%} when patches exchange their codes")

    def _learn_reference(self) -> None:
        """Learn how real patches differ from a Gaussian of their spectrum, and keep what tells them apart."""
        settings, pool = self.settings, self.session.feed.pool
        sizes = {"patch": settings.prior_patch, "block": settings.patch_size}
        generator = torch.Generator().manual_seed(settings.seed)
        clouds = Clouds(pool.sources, **sizes, generator=generator, device=pool.device)
        power = torch.stack([spectra.signal for spectra in self.session.spectra]).mean(dim=0)
        self.progress.start("learning how real patches differ from their spectrum", 1.0, "")
        judge = learn_reference(clouds, power, steps=settings.reference_steps, advance=self._on_reference)
        self.progress.finish()
        save_energy(self.folder.path / REFERENCE, judge, **sizes)
        told = float(judge.accuracy)
        self.progress.message(f"a Gaussian of the same spectrum is told from real patches in {told:.0%} of them")

    def _on_reference(self, share: float) -> None:
        self.progress.advance(share)
        check_together(self.progress, self.device)

    def _precision(self) -> str:
        """What is to be said of the layers' precision."""
        precision = self.session.restorer.precision
        return "" if precision == torch.float32 else f"; layers in {str(precision).removeprefix('torch.')}"

    def _limit(self) -> str:
        steps, minutes = self.settings.steps, self.settings.minutes
        return f"{steps} steps" if steps is not None else f"{minutes:g} minutes"

    # -- callbacks -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        fraction = self.loop.budget.fraction
        facts: dict[str, Any] = {"step": self.loop.budget.step}
        if self.loss is not None:
            facts["loss"] = f"{self.loss:.4f}"
        if self.held_out is not None:
            facts["held_out"] = f"{self.held_out:.4f}"
        if self.loop.budget.seconds > 0:
            voxels = self.loop.budget.step * self.settings.batch_size * self.settings.patch_size**3
            facts["Mvoxels_per_s"] = f"{voxels / self.loop.budget.seconds / 1e6:.2f}"
        self.progress.advance(fraction - self.shown, **facts)
        self.shown = fraction

    def _on_step(self, record: dict[str, float]) -> None:
        if "pairs" in record:  # not a step that was skipped
            loss = record["pairs"]
            self.loss = loss if self.loss is None else self.loss + LOSS_SMOOTHING * (loss - self.loss)
        self._advance()

    def _on_evaluation(self, loss: float) -> None:
        self.held_out = loss
        new, figures = not self.metrics.exists(), self.loop.figures()
        with self.metrics.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "seconds", "loss", "held_out_loss", *figures])
            fitted = "" if self.loss is None else f"{self.loss:.6f}"
            extra = (f"{value:.4f}" for value in figures.values())
            writer.writerow([self.loop.budget.step, f"{self.loop.budget.seconds:.1f}", fitted, f"{loss:.6f}", *extra])

    def _on_time(self) -> None:
        now = time.monotonic()
        if now - self.last_preview >= self.settings.preview_every_seconds:
            self.preview()
            self.last_preview = time.monotonic()
        if now - self.last_checkpoint >= self.settings.checkpoint_every_seconds:
            self.checkpoint()
            self.last_checkpoint = time.monotonic()
        check_together(self.progress, self.device)

    # -- files ---------------------------------------------------------------------------------------

    def _trim_metrics(self) -> None:
        """Drop rows later than the step we resume from: they will be written again."""
        if not self.metrics.exists():
            return
        with self.metrics.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        kept = [r for r in rows if r and int(r[0]) < self.loop.budget.step]
        with self.metrics.open("w", newline="") as file:
            csv.writer(file).writerows([header, *kept] if header else [])

    def _draw_losses(self, rows: list[dict[str, str]]) -> bytes:
        from cryoaae.reports.progress_figures import loss_figure
        from cryoaae.reports.style import png

        steps = [float(row["step"]) for row in rows]
        curves = {
            title: [float(row[column] or "nan") for row in rows]
            for title, column in (("fitted", "loss"), ("kept out", "held_out_loss"))
        }
        drawn = png(loss_figure(steps, curves))
        write_bytes(self.folder.path / "loss.png", drawn)
        return drawn

    def _rows(self) -> list[dict[str, str]]:
        if not self.metrics.exists():
            return []
        with self.metrics.open(newline="") as file:
            return list(csv.DictReader(file))

    def _report(self, reason: str, rows: list[dict[str, str]], losses: bytes) -> None:
        from cryoaae.reports.fitting_page import fitting_report

        spec, settings = self.session.restorer.spec, asdict(self.settings)
        plain, own = asdict(FitSettings()), {"start", "minutes", "steps"}
        result = {
            "run": str(self.folder.path), "names": [fact["name"] for fact in spec.tomograms],
            "halves": len(spec.tomograms[0]["digests"]) == 2,
            "tilt_ranges_deg": [fact["tilt_range_deg"] for fact in spec.tomograms], "start": self.start,
            "steps": self.loop.budget.step, "minutes": self.loop.budget.seconds / 60, "reason": reason,
            "working_bin": spec.working_bin,
            "working_voxel_angstrom": spec.working_bin * self.session.voxel_size_angstrom,
            "held_out": [float(row["held_out_loss"]) for row in rows],
            "changed": {key: value for key, value in settings.items() if value != plain[key] and key not in own},
            "device": f"{self.device}{self._precision()}", "version": self.folder.record["versions"]["cryoaae"],
        }  # fmt: skip
        page = fitting_report(result, losses, list(self._first_and_last_preview()))
        write_text(self.folder.path / "report.html", page.render())

    def _first_and_last_preview(self) -> Iterator[tuple[str, bytes]]:
        drawn: list[Path] = sorted((self.folder.path / "previews").glob("step_*.png"))
        for path in dict.fromkeys(drawn[:1] + drawn[-1:]):
            yield f"after {int(path.stem.removeprefix('step_'))} steps", path.read_bytes()

    def checkpoint(self) -> None:
        """Write the state of the loop; the one before is kept."""
        save_rotating(self.folder.path / "checkpoints", self.loop.state())

    def preview(self) -> None:
        """Draw one held-out patch: input, estimate and what the other half measured."""
        from cryoaae.reports.figures import slices_figure
        from cryoaae.reports.style import png

        if not self.loop.held_out:
            return
        batch = self.loop.held_out[0]
        with torch.no_grad():
            estimate = self.loop.average.restorer(batch.inputs[:1])
        target = self.folder.path / "previews" / f"step_{self.loop.budget.step:06d}.png"
        panels = [("input", batch.inputs), ("restored", estimate), ("other half", batch.targets)]
        voxel = self.session.restorer.spec.working_bin * self.session.voxel_size_angstrom
        arrays = [(title, tensor[0, 0].cpu().numpy()) for title, tensor in panels]
        target.parent.mkdir(exist_ok=True)
        write_bytes(target, png(slices_figure(arrays, voxel)))
