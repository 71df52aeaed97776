"""The command line: one module a command, one place that turns errors into a line and an exit code."""

from __future__ import annotations

import errno
import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

RESOURCES = 3
BUG = 70


def main() -> None:
    """Run `cryoaae` on the arguments of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; return its exit code.

    0 good, 1 some items failed, 2 bad input or usage, 3 resources, 4 fitting diverged, 70 a bug of
    ours, 130 and 143 interrupted and resumable.
    """
    from typer import Abort, BadParameter
    from typer.main import get_command

    from cryoaae.cli.app import app
    from cryoaae.errors import CryoaaeError

    # Some versions of typer carry a click of their own, others need the public one: ask it for the class.
    kinds = [kind for kind in BadParameter.__mro__ if issubclass(kind, Exception)]
    usage_error = next(kind for kind in kinds if kind.__name__ == "ClickException")
    debug = "--debug" in arguments
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        result = get_command(app).main(arguments, prog_name="cryoaae", standalone_mode=False)
    except usage_error as error:
        return _misused(error)
    except (Abort, KeyboardInterrupt):
        return _failed("stopped", 130)
    except CryoaaeError as error:
        if debug:
            traceback.print_exc()
        return _failed(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  the last resort: a bug must not look like a user's error
        if debug:
            traceback.print_exc()
        if (lacking := _lacking(error)) is not None:
            return _failed(lacking, RESOURCES)
        # One line: libraries write essays into their errors, and the log has them whole.
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(f"a bug in cryoaae ({said}); details in {_log(arguments)}", BUG)
    return result if isinstance(result, int) else 0


def _misused(error: Any) -> int:
    """Say in one line what is wrong with a command line, or help where nothing was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cryoaae"
    said = " ".join(error.format_message().split()).rstrip(".")
    return _failed(f"{said}; see {command} --help", 2)


def _lacking(error: Exception) -> str | None:
    """What there was too little of, when that is what ended the work (torch's class is known by name)."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}the disk is full; free some space and run again (fit: with --resume)"
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use smaller patches, blocks or tiles"
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory; use --device cpu, or a smaller batch_size or patch_size"
    return None


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"cryoaae: {message}\n")
    return code


def _log(arguments: list[str]) -> Path:
    """Write the traceback where the user can find it."""
    with tempfile.NamedTemporaryFile("w", prefix="cryoaae_", suffix=".log", delete=False) as file:
        file.write(f"cryoaae {' '.join(arguments)}\n\n{traceback.format_exc()}")
    return Path(file.name)
