"""Several processes of one fit, as torchrun starts them: who is first, what they share, when they stop.

Every process draws the same batches and takes its share of their patches. Gradients are averaged, so that all make
the same step, and the result is that of one process but for the order of sums. Alone, nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.runs.progress import Progress


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; gives this process's device.

    Raises
    ------
    InputError
        When there are several, and lightning-fabric is not installed.
    """
    several = int(os.environ.get("WORLD_SIZE", "1"))
    if several == 1:
        yield device
        return
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        words = "several processes need lightning-fabric"
        raise InputError("torchrun", words, "pip install 'cryoaae[distributed]', or start one process") from error
    here = int(os.environ.get("LOCAL_WORLD_SIZE", several))
    fabric = Fabric(accelerator=device.type, devices=here, num_nodes=several // here, strategy="ddp")
    fabric.launch()
    try:
        yield fabric.device
    finally:
        distributed.destroy_process_group()


def ranks() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes, the same bits in all; no gradient goes through it."""
    count = ranks()[1]
    if count == 1:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value / count


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over the processes, in one message; all must have the same ones."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if ranks()[1] == 1 or not gradients:
        return
    mean = mean_over_ranks(torch.cat([g.flatten() for g in gradients]))
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def of_the_first(value: float, device: torch.device) -> float:
    """A number as the first process has it: clocks differ, and all must stop at one step."""
    if ranks()[1] == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return float(shared)


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if ranks()[1] > 1:
        distributed.barrier()


def check_together(progress: Progress, device: torch.device) -> None:
    """Stop if any process is asked to, all at the same step.

    Raises
    ------
    InterruptedRunError
    """
    if ranks()[1] > 1:
        asked = torch.tensor(float(progress.cancelled()), device=device)
        distributed.all_reduce(asked)
        if not float(asked):
            return  # asked since, this process stops with the others at the next step
        if not progress.cancelled():
            raise InterruptedRunError("another process of the fit was stopped")
    progress.check()
