"""`mart` and `python -m mart`: the command line, and what can go wrong around it in any process."""

import codecs
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

LIKENESSES = {"→": "->", "×": "x", "−": "-", "…": "...", "─": "-", "├": "|", "└": "`"}


def run(program: str = "mart") -> NoReturn:
    """Run the command that the process was started with, and end the process with its exit status."""
    interrupts = []

    def note(*_: object) -> None:
        interrupts.append(1)  # libraries make other errors of it, DuckDB a RuntimeError
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    status = 1
    try:
        _ready_streams()
        from mart_helpers.cli import main

        status = main(program=program)
    except ModuleNotFoundError as error:
        _say(
            f"{error}. This Python lacks the project's packages: run `make run` once, then "
            "`source .venv/bin/activate`."
        )
    except BaseException:
        if not interrupts:
            raise
    if interrupts:
        status = 130
        _say("interrupted.")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # all is written and closed: to take the imported modules apart would take Python half a second
    os._exit(status)


def _ready_streams() -> None:
    """Let any text be written to the standard streams, in any encoding, also where they are closed."""
    codecs.register_error("likeness", _likeness)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # else the next file to be opened would take its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        elif number:
            getattr(sys, name).reconfigure(errors="likeness")


def _likeness(error: UnicodeEncodeError) -> tuple[str, int]:
    """What stands for characters that the encoding of a stream lacks."""
    lacking = error.object[error.start : error.end]
    return "".join(LIKENESSES.get(each) or ascii(each)[1:-1] for each in lacking), error.end


def _say(message: str) -> None:
    with suppress(OSError):
        print(f"mart: {message}", file=sys.stderr)


if __name__ == "__main__":
    run("python -m mart")
