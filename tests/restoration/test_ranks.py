"""A fit of two processes is the fit of one; what they cannot share they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cryoaae.errors import InputError
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.weights import load_weights
from cryoaae.models.pair_fitting import PairFitting
from cryoaae.models.restorer import Restorer, RestorerSpec
from cryoaae.patches.pairs import PairBatch
from cryoaae.restoration.fit import _check_shares
from cryoaae.runs.ranks import average_gradients, joined, mean_over_ranks, of_the_first, ranks

# Asks to stop after so many steps, as a signal would.
DRIVER = """
import os, sys
import cryoaae
from cryoaae.config import load_fit_config
from cryoaae.errors import InterruptedRunError
from cryoaae.runs.progress import NullProgress

class StopAfter(NullProgress):
    def advance(self, amount=1.0, **facts):
        if int(facts.get("step", 0)) >= int(stop):
            self.cancel()

data, run, stop, resume, *overrides = sys.argv[1:]
try:
    cryoaae.fit(
        [], run, even=f"{data}/t_EVN.mrc", odd=f"{data}/t_ODD.mrc", tilts=f"{data}/t.tlt", resume=resume == "resume",
        settings=load_fit_config(overrides=overrides), progress=StopAfter(), device="cpu", threads=1,
    )
except InterruptedRunError:
    print("stopped", os.environ.get("RANK"))
"""


def fit(processes: int, data: Path, run: Path, settings: list[str], *, stop: int = 99, resume: bool = False) -> None:
    driver = run.parent / "driver.py"
    driver.write_text(DRIVER)
    words = [str(driver), str(data), str(run), str(stop), "resume" if resume else "new", *settings[1::2]]
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run([sys.executable, *several, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_weights(run / "model.safetensors")[0]


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of weights over the largest weight, over all tensors."""
    assert a.keys() == b.keys()
    return max(float((a[k].float() - b[k].float()).abs().max() / a[k].float().abs().max().clamp(min=1e-6)) for k in a)


@pytest.mark.slow
def test_two_processes_fit_as_one_does_with_their_batches_together_and_go_on_as_one(
    tiny: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("lightning_fabric")
    settings = [
        *tiny_settings, "--set", "batch_size=2", "--set", "steps=6", "--set", "presence=false", "--set", "refills=1",
    ]  # fmt: skip
    fit(1, tiny, tmp_path / "one", settings)
    fit(2, tiny, tmp_path / "two", settings)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert furthest(one, two) < 1e-5  # gradients are sums of float32 in another order; measured: 2e-7
    kept = {path.name for path in (tmp_path / "two").iterdir()}
    assert kept == {path.name for path in (tmp_path / "one").iterdir()}
    lines = (tmp_path / "two" / "metrics.csv").read_text().splitlines()
    assert len(lines) == len((tmp_path / "one" / "metrics.csv").read_text().splitlines())  # one process writes

    fit(2, tiny, tmp_path / "stopped", settings, stop=3)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    fit(1, tiny, tmp_path / "stopped", settings, resume=True)
    assert furthest(one, weights(tmp_path / "stopped")) < 1e-5

    # It has teeth: the fit of half the batch is another.
    half = [word.replace("batch_size=2", "batch_size=1") for word in settings]
    fit(1, tiny, tmp_path / "half", half)
    assert furthest(one, weights(tmp_path / "half")) > 1e-2


def patches(count: int) -> PairBatch:
    generator, n = torch.Generator().manual_seed(0), 8
    inputs, targets = torch.randn(2, count, 1, n, n, n, generator=generator)
    weight = (torch.rand(count, 1, n, n, n, generator=generator) > 0.5).float()
    seen = torch.rand(2, count, 1, n, n, n // 2 + 1, generator=generator) > 0.4
    return PairBatch(inputs, targets, weight, weight, seen[0], seen[1], torch.ones(count))


def test_losses_of_shares_average_to_that_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of unlike size and with unlike amounts inside the tomogram, as `distance` sees them under torchrun."""
    torch.manual_seed(0)
    model = PairFitting(Restorer(RestorerSpec(1, 10.0, {"widths": [2]})), torch.ones(8))
    whole = patches(5)
    shares = [PairBatch(*(getattr(whole, name)[k::2] for name in whole.__dataclass_fields__)) for k in range(2)]
    energies = [share.weight.square().sum() for share in shares]
    together = model.distance(whole.inputs, whole, whole.weight)
    monkeypatch.setattr("cryoaae.models.pair_fitting.mean_over_ranks", lambda _: sum(energies) / 2)
    monkeypatch.setattr("cryoaae.models.pair_fitting.ranks", lambda: (0, 2))
    apart = [model.distance(share.inputs, share, share.weight) for share in shares]
    assert float(sum(apart) / 2) == pytest.approx(float(together), rel=1e-5)


def test_alone_nothing_is_shared() -> None:
    x = torch.ones(3, requires_grad=True)
    x.square().sum().backward()
    average_gradients([x])
    assert ranks() == (0, 1)
    assert mean_over_ranks(x) is x
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 2]
    assert of_the_first(1.5, x.device) == 1.5
    with joined(torch.device("cpu")) as device:
        assert device.type == "cpu"


def test_several_processes_without_fabric_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(InputError, match="distributed"), joined(torch.device("cpu")):
        pass


@pytest.mark.parametrize(("settings", "count", "words"), [
    (FitSettings(batch_size=2), 3, "batch_size=3"), (FitSettings(prior="adversarial"), 2, "one process"),
])  # fmt: skip
def test_what_cannot_be_shared_out_is_refused(settings: FitSettings, count: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        _check_shares(settings, count)
