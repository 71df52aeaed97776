"""Steps of filters are orthogonal, whatever the order of memory; all else goes by Adam; going on is bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from cryoaae.fitting.optimisers import MuonForFilters, optimiser_of
from cryoaae.models.phase import Phase

RATE, BETAS = 1e-2, (0.9, 0.999)


class Layers(nn.Module):
    """Filters, a mixing of channels and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv3d(4, 12, 3, padding=1)
        self.mixing = nn.Conv3d(12, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mixing(torch.tanh(self.filters(x)))
        return out


def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


def descend(model: Layers, optimiser: MuonForFilters | torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 4, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    (model(x) - x[:, :1]).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_a_step_of_filters_is_orthogonal_and_of_adams_length(memory: torch.memory_format) -> None:
    model = layers().to(memory_format=memory)  # type: ignore[call-overload]
    before = model.filters.weight.detach().clone()
    optimiser = MuonForFilters(list(model.parameters()), RATE, BETAS)
    descend(model, optimiser, seed=1)
    step = (model.filters.weight.detach() - before).flatten(1)
    length = RATE * 0.2 * math.sqrt(max(step.shape))
    singular = torch.linalg.svdvals(step) / length
    # Newton and Schulz stop early: singular values come near one, and none is left behind.
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.5
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * RATE, rel=0.3)


def test_the_order_of_memory_is_no_matter() -> None:
    plain, last = layers(), layers().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for model in (plain, last):
        optimiser = MuonForFilters(list(model.parameters()), RATE, BETAS)
        descend(model, optimiser, seed=1)
    # bfloat16 within
    assert torch.allclose(plain.filters.weight, last.filters.weight, atol=0.05 * RATE)


def test_all_but_filters_descends_by_adam() -> None:
    ours, theirs = layers(), layers()
    descend(ours, MuonForFilters(list(ours.parameters()), RATE, BETAS), seed=1)
    descend(theirs, torch.optim.Adam(theirs.parameters(), lr=RATE, betas=BETAS), seed=1)
    assert torch.equal(ours.mixing.weight, theirs.mixing.weight)
    assert torch.equal(ours.filters.bias, theirs.filters.bias)  # type: ignore[arg-type]
    assert not torch.allclose(ours.filters.weight, theirs.filters.weight, atol=0.1 * RATE)


def test_going_on_is_bit_for_bit() -> None:
    whole = layers()
    optimiser = MuonForFilters(list(whole.parameters()), RATE, BETAS)
    for seed in range(3):
        descend(whole, optimiser, seed)
    rest, state = copy.deepcopy(whole), copy.deepcopy(optimiser.state_dict())
    for seed in (3, 4):
        descend(whole, optimiser, seed)
    again = MuonForFilters(list(rest.parameters()), RATE, BETAS)
    again.load_state_dict(state)
    for seed in (3, 4):
        descend(rest, again, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def test_the_rate_is_set_for_all() -> None:
    model = layers()
    optimiser = MuonForFilters(list(model.parameters()), RATE, BETAS)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(model)
    descend(model, optimiser, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_a_phase_says_how_it_descends() -> None:
    parameters = list(layers().parameters())

    def phase(**how: object) -> Phase:
        return Phase("some", parameters, lambda batch: {}, **how)  # type: ignore[arg-type]

    assert isinstance(optimiser_of(phase(orthogonal=True), RATE), MuonForFilters)
    assert isinstance(optimiser_of(phase(), RATE), torch.optim.Adam)
    assert isinstance(optimiser_of(phase(momentum=0.9), RATE), torch.optim.SGD)
