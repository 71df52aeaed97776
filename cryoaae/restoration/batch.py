"""Many tomograms one after the other: one that fails is set aside, and named at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cryoaae.errors import CryoaaeError, InterruptedRunError, ItemsFailedError
from cryoaae.runs.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def each_tomogram(
    work: Sequence[Item], do: Callable[[Item], Result], name: Callable[[Item], str], told: Progress
) -> list[Result]:
    """Do the work on every tomogram; return the results in order.

    Raises
    ------
    ItemsFailedError
        When some of several failed; the others are done.
    CryoaaeError, OSError
        When the only one failed, or the work was interrupted.
    """
    results, failures = [], []
    for item in work:
        try:
            results.append(do(item))
        except (CryoaaeError, OSError) as error:
            if len(work) == 1 or isinstance(error, InterruptedRunError):
                raise
            failures.append(f"{name(item)}: {error}")
            told.message(f"failed: {failures[-1]}")
    if failures:
        raise ItemsFailedError(f"{len(failures)} of {len(work)} tomograms failed:\n" + "\n".join(failures))
    return results
