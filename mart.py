"""`mart` and `python -m mart`: the command line, and what can go wrong before it is imported."""

import os
import sys
from contextlib import suppress
from typing import NoReturn


def run(program: str = "mart") -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit status."""
    try:
        from mart_helpers.cli import main

        status = main(program=program)
    except ModuleNotFoundError as error:
        status = _stopped(
            f"{error}. This Python lacks the project's packages: run `make run` once, then "
            "`source .venv/bin/activate`.",
            1,
        )
    except KeyboardInterrupt:
        status = _stopped("interrupted.", 130)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, or closed by who reads or starts us
            stream.flush()
    # all is written and closed: to take the imported modules apart would take Python half a second
    os._exit(status)


def _stopped(message: str, status: int) -> int:
    with suppress(OSError):
        print(f"mart: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    run("python -m mart")
