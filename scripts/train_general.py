"""Train the general restorer that comes with cryoaae, on simulations alone.

    train_general.py scenes [--first 0] [--count 96] [--maps GLOB]
    train_general.py fit [--config configs/general/cpu.yaml] [--start WEIGHTS] [--device auto] [--threads N]
    train_general.py weights [--to cryoaae/weights/general.safetensors]
    train_general.py errors [--to cryoaae/weights/error_size.safetensors]
    train_general.py sampler [--config configs/general/sampler.yaml] [--start WEIGHTS]
        [--to cryoaae/weights/deviation.safetensors]

`scenes` simulates tomograms (some 15 s each on one core) of the odd lines of the maps, sorted by name, of changed
copies of them, and of procedural assemblies; the even lines are for reporting. `fit` trains for the minutes of its
configuration and goes on where it was stopped; scenes made in the meantime are taken up then. --start trains given
weights further, in a wider network if the configuration says so. `weights` takes the averaged weights of the last
checkpoint, whether or not training has ended, learns to tell structure from noise by them (some minutes), and writes
them with a record of how they came about. `errors` learns where the restorations of the weights that come along err
(a quarter of an hour of one core). `sampler` trains the sampler of deviations on them, goes on where it was stopped,
and writes its weights in the end (train_sampler.py). Everything but the weights lies in benchmark_runs/general. Maps:
--maps, else "$CRYOAAE_DATA/maps_10A/*.gz".
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path

import numpy as np
import torch
import yaml
from train_sampler import SamplerSettings, held_out_scores, sampler_to_fit, write_sampler

from cryoaae import __version__
from cryoaae.errors import InterruptedRunError
from cryoaae.fitting.error_size import examples, learn_error_size, scores
from cryoaae.fitting.general_presence import learn_general_presence, told_apart
from cryoaae.fitting.loop import Loop, run
from cryoaae.fitting.scene_feed import SceneFeed
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.weights import digest, load_weights
from cryoaae.models.general import BUNDLED, GeneralRestorer, GeneralSpec
from cryoaae.models.general_fitting import GeneralFitting
from cryoaae.nets.deviation import BUNDLED as DEVIATION
from cryoaae.nets.error_size import BUNDLED as ERROR_SIZE
from cryoaae.nets.presence import FEATURELESS, NOTHING, STRUCTURE
from cryoaae.nets.unet import UNet
from cryoaae.nets.widening import widened
from cryoaae.patches.imaging import CONDITIONS
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.resources import choose_device, choose_precision, keep_freed_memory, set_threads
from cryoaae.runs.signals import stop_on_signals
from cryoaae.simulation.scenes import TILT_END_DEG, VOXEL_ANGSTROM, draw_scene

FOLDER = Path("benchmark_runs") / "general"
ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "general" / "cpu.yaml"
SAMPLER_CONFIG, SAMPLER = CONFIG.with_name("sampler.yaml"), FOLDER / "sampler"
SEED = 2026
CHECKPOINT_SECONDS = 120.0
CASES = {NOTHING: "noise", FEATURELESS: "random phases", STRUCTURE: "structure"}


@dataclass(frozen=True)
class TrainSettings:
    """How the general restorer is trained; see `FitSettings` for those of the same names."""

    widths: tuple[int, ...]
    patch_size: int
    blocks: int
    renew_every: int
    batch_size: int
    hidden_weight: float
    learning_rate: float
    warm_up_steps: int
    ema_decay: float
    minutes: float
    held_out_scenes: int
    presence_tomograms: int
    error_tomograms: int
    seed: int
    evaluations: int = 20
    patience: int = 1000
    steps: int | None = None
    precision: str = "float32"

    @classmethod
    def read(cls, path: Path) -> TrainSettings:
        values = yaml.safe_load(path.read_text())
        return cls(**{**values, "widths": tuple(values["widths"])})


def make_scenes(maps: list[Path], first: int, count: int, edge: int) -> None:
    """Simulate scenes `first` to `first + count`; those that exist are kept."""
    folder = FOLDER / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        path = folder / f"{index:04d}.npz"
        if not path.exists():
            started = time.monotonic()
            draw_scene(np.random.default_rng([SEED, index]), maps, edge).save(path)
            print(f"{path}: {time.monotonic() - started:.1f} s", flush=True)


def fit(settings: TrainSettings, start: Path | None, device: torch.device) -> None:
    """Train, or go on training, with checkpoints."""
    torch.manual_seed(settings.seed)
    network = network_of(settings)
    if start is not None:
        given = GeneralRestorer.load(start)
        network = widened(given.network, settings.widths)
        write_text(FOLDER / "before.json", json.dumps(given.spec.training))
    model = GeneralFitting(network, settings.hidden_weight, precision=choose_precision(settings.precision)).to(device)
    feed = SceneFeed(
        all_scenes(), held_out=settings.held_out_scenes, patch=settings.patch_size,
        blocks=settings.blocks, renew_every=settings.renew_every, batch_size=settings.batch_size,
        hidden_weight=settings.hidden_weight, seed=settings.seed, device=device,
    )  # fmt: skip
    descend(Loop(model, feed, settings), FOLDER)


def descend(loop: Loop, folder: Path) -> bool:
    """Train, or go on training, with checkpoints in a folder; return whether it ended."""
    if (folder / "checkpoints").exists():
        loop.load_state(load_latest(folder / "checkpoints"))
    progress = ConsoleProgress()
    recorder = Recorder(loop, progress, folder)
    progress.start("training", 1.0, "training")
    recorder.shown = loop.budget.fraction
    progress.advance(recorder.shown)
    ended = True
    try:
        with stop_on_signals(progress.cancel):
            run(loop, on_step=recorder.on_step, on_evaluation=recorder.on_evaluation, on_time=recorder.on_time)
    except InterruptedRunError:
        ended = False
        progress.message(f"stopped at step {loop.budget.step}; start again to go on")
    save_rotating(folder / "checkpoints", loop.state())
    progress.finish()
    return ended


def fit_sampler(settings: SamplerSettings, start: Path | None, target: Path) -> None:
    """Train the sampler, or go on training, and write it when it is done."""
    model, feed = sampler_to_fit(settings, all_scenes(), start)
    print(f"scores on scenes kept out, at the start: {held_out_scores(model, feed)}", flush=True)
    SAMPLER.mkdir(parents=True, exist_ok=True)
    if start is not None:
        write_text(SAMPLER / "before.json", json.dumps(load_weights(start)[1]["training"]))
    if descend(Loop(model, feed, settings), SAMPLER):
        write_sampler(settings, all_scenes(), SAMPLER / "checkpoints", target)


def all_scenes() -> list[Path]:
    return sorted((FOLDER / "scenes").glob("*.npz"))


def write_weights(settings: TrainSettings, target: Path) -> None:
    """Write the averaged weights of the last checkpoint, with presence learned by them."""
    state = load_latest(FOLDER / "checkpoints")
    training = {
        "steps": int(state["step"]), "minutes": round(float(state["seconds"]) / 60, 1),
        "machine": f"{platform.machine()} CPU" if not torch.cuda.is_available() else torch.cuda.get_device_name(),
        "scenes": state["feed"]["files"], "settings": {**asdict(settings), "widths": list(settings.widths)},
        "cryoaae": __version__,
    }  # fmt: skip
    before = FOLDER / "before.json"
    if before.exists():
        training["before"] = json.loads(before.read_text())
    spec = GeneralSpec(
        network={"widths": list(settings.widths), "conditions": CONDITIONS},
        voxel_size_angstrom=VOXEL_ANGSTROM, tilt_end_deg=TILT_END_DEG, training=training,
    )  # fmt: skip
    made = GeneralRestorer(spec)
    # The network is all that a `GeneralFitting` holds.
    made.network.load_state_dict({name.removeprefix("network."): value for name, value in state["average"].items()})
    teach_presence(made, settings)
    target.parent.mkdir(exist_ok=True)
    made.save(target)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {json.dumps(training)}")


def teach_presence(general: GeneralRestorer, settings: TrainSettings) -> None:
    """Learn presence on the scenes that training saw; print how it does on those that it did not."""
    kept_out, scenes = all_scenes()[: settings.held_out_scenes], all_scenes()[settings.held_out_scenes :]
    keywords = {"tomograms": settings.presence_tomograms, "seed": settings.seed}
    loss = learn_general_presence(general, scenes, **keywords)
    print(f"presence: cross-entropy {loss:.3f}; mean probabilities on scenes kept out:")
    for case, shares in told_apart(general, kept_out, tomograms=4 * len(kept_out), seed=settings.seed).items():
        print(f"  {CASES[case]}: " + ", ".join(f"{CASES[i]} {share:.3f}" for i, share in enumerate(shares)))


def write_error_size(settings: TrainSettings, target: Path) -> None:
    """Learn where restorations err on the scenes that training saw; print how that does on those that it did not."""
    general = GeneralRestorer.bundled()
    kept_out, scenes = all_scenes()[: settings.held_out_scenes], all_scenes()[settings.held_out_scenes :]
    made = learn_error_size(
        list(examples(general, scenes, tomograms=settings.error_tomograms, seed=settings.seed)), seed=settings.seed
    )
    found = [scores(made, one) for one in examples(general, kept_out, tomograms=len(kept_out), seed=settings.seed)]
    means = {
        score: {name: round(statistics.fmean(row[score][name] for row in found), 4) for name in found[0][score]}
        for score in found[0]
    }
    training = {
        "tomograms": settings.error_tomograms, "scenes": len(scenes), "seed": settings.seed,
        "general": digest(dict(general.state_dict()))[:16], "kept_out": means, "cryoaae": __version__,
    }  # fmt: skip
    made.save(target, training)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB; {len(found)} tomograms of scenes kept out: {means}")


def network_of(settings: TrainSettings) -> UNet:
    """The network that is trained."""
    return UNet(in_channels=2, widths=settings.widths, conditions=CONDITIONS)


class Recorder:
    """Shows progress, writes metrics.csv and checkpoints."""

    def __init__(self, loop: Loop, progress: ConsoleProgress, folder: Path) -> None:
        self.loop, self.progress, self.folder = loop, progress, folder
        self.loss = float("nan")
        self.shown = 0.0
        self.saved = time.monotonic()

    def on_step(self, record: dict[str, float]) -> None:
        loss = record.get(self.loop.phases[0].name, self.loss)
        self.loss = loss if self.loss != self.loss else self.loss + 0.01 * (loss - self.loss)
        fraction = self.loop.budget.fraction
        self.progress.advance(fraction - self.shown, step=self.loop.budget.step, loss=f"{self.loss:.4f}")
        self.shown = fraction

    def on_evaluation(self, loss: float) -> None:
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "seconds", "loss", "held_out_loss"])
            budget = self.loop.budget
            writer.writerow([budget.step, f"{budget.seconds:.0f}", f"{self.loss:.5f}", f"{loss:.5f}"])

    def on_time(self) -> None:
        if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            save_rotating(self.folder / "checkpoints", self.loop.state())
            self.saved = time.monotonic()
        self.progress.check()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    scenes = actions.add_parser("scenes")
    scenes.add_argument("--first", type=int, default=0)
    scenes.add_argument("--count", type=int, default=96)
    scenes.add_argument("--edge", type=int, default=96)
    scenes.add_argument("--maps", default=f"{os.environ.get('CRYOAAE_DATA', '')}/maps_10A/*.gz")
    fitting = actions.add_parser("fit")
    fitting.add_argument("--config", type=Path, default=CONFIG)
    fitting.add_argument("--start", type=Path, help="weights to train further")
    fitting.add_argument("--device", default="auto")
    fitting.add_argument("--threads", type=int)
    weights = actions.add_parser("weights")
    weights.add_argument("--to", type=Path, default=ROOT / "cryoaae" / "weights" / BUNDLED)
    weights.add_argument("--config", type=Path, default=CONFIG)
    errors = actions.add_parser("errors")
    errors.add_argument("--to", type=Path, default=ROOT / "cryoaae" / "weights" / ERROR_SIZE)
    errors.add_argument("--config", type=Path, default=CONFIG)
    errors.add_argument("--threads", type=int)
    sampler = actions.add_parser("sampler")
    sampler.add_argument("--to", type=Path, default=ROOT / "cryoaae" / "weights" / DEVIATION)
    sampler.add_argument("--config", type=Path, default=SAMPLER_CONFIG)
    sampler.add_argument("--start", type=Path, help="weights to train further")
    sampler.add_argument("--threads", type=int)
    options = parser.parse_args()
    logging.getLogger("cryoaae").setLevel(logging.ERROR)
    if options.action == "scenes":
        maps = sorted(glob(options.maps))  # noqa: PTH207  patterns may be absolute
        make_scenes([Path(p) for p in maps[::2]], options.first, options.count, options.edge)
    elif options.action == "fit":
        set_threads(options.threads)
        keep_freed_memory()
        fit(TrainSettings.read(options.config), options.start, choose_device(options.device))
    elif options.action == "errors":
        set_threads(options.threads)
        write_error_size(TrainSettings.read(options.config), options.to)
    elif options.action == "sampler":
        set_threads(options.threads)
        keep_freed_memory()
        fit_sampler(SamplerSettings.read(options.config), options.start, options.to)
    else:
        write_weights(TrainSettings.read(options.config), options.to)


if __name__ == "__main__":
    main()
