"""The command line: one module a command, one place that turns errors into a line and an exit code."""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
from pathlib import Path

BUG = 70


def main() -> None:
    """Run `cryoaae` on the arguments of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; return its exit code.

    0 good, 1 some items failed, 2 bad input or usage, 3 resources, 4 fitting diverged, 70 a bug of
    ours, 130 and 143 interrupted and resumable.
    """
    from click.exceptions import Abort, ClickException
    from typer.main import get_command

    from cryoaae.cli.app import app
    from cryoaae.errors import CryoaaeError

    debug = "--debug" in arguments
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        result = get_command(app).main(arguments, prog_name="cryoaae", standalone_mode=False)
    except ClickException as error:
        error.show()
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        return _failed("stopped", 130)
    except CryoaaeError as error:
        if debug:
            traceback.print_exc()
        return _failed(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  the last resort: a bug must not look like a user's error
        if debug:
            traceback.print_exc()
        # One line: libraries write essays into their errors, and the log has them whole.
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(f"a bug in cryoaae ({said}); details in {_log(arguments)}", BUG)
    return result if isinstance(result, int) else 0


def _failed(message: str, code: int) -> int:
    sys.stderr.write(f"cryoaae: {message}\n")
    return code


def _log(arguments: list[str]) -> Path:
    """Write the traceback where the user can find it."""
    with tempfile.NamedTemporaryFile("w", prefix="cryoaae_", suffix=".log", delete=False) as file:
        file.write(f"cryoaae {' '.join(arguments)}\n\n{traceback.format_exc()}")
    return Path(file.name)
