"""Errors a user can cause or must hear about, each with the exit code it ends a command with."""

from __future__ import annotations

from pathlib import Path


class CryoaaeError(Exception):
    """Base of every error raised on purpose; anything else is a bug of ours (exit code 70)."""

    exit_code = 70


class InputError(CryoaaeError):
    """Bad input or usage.

    Parameters
    ----------
    source : path or str
        The file, option or argument that is wrong.
    problem : str
        What is wrong with it.
    remedy : str, optional
        What the user can do about it.
    """

    exit_code = 2

    def __init__(self, source: Path | str, problem: str, remedy: str = "") -> None:
        self.source, self.problem, self.remedy = str(source), problem, remedy
        super().__init__(f"{source}: {problem}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.source, self.problem, self.remedy)


class ResourceError(CryoaaeError):
    """Too little memory, disk or device for the work; the message names how much is needed."""

    exit_code = 3


class FittingDivergedError(CryoaaeError):
    """Fitting produced non-finite numbers again and again; the last good checkpoint stays."""

    exit_code = 4


class ItemsFailedError(CryoaaeError):
    """Some items of a batch failed, the others are done."""

    exit_code = 1


class InterruptedRunError(CryoaaeError):
    """The user or the scheduler stopped the work; it can be resumed."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
