"""The errors that users see.

MartError
├── UsageError      the call is wrong: unknown option, wrong type, bad date
├── InputError      an input file is missing or has a fault
├── StateError      the mart is missing, not ours, in use, or cannot be written
│   └── Unavailable the mart cannot be opened now; its contents may be fine
├── QueryError      an SQL statement failed
└── CheckFailed     a check failed that stops the run
"""


class MartError(Exception):
    """An error that the user can fix. Its text says what happened, where, and what to do next."""

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """Give IPython only the message, not a traceback through the helpers."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(MartError):
    """The call is wrong: an unknown name, a value of the wrong type, an end before its start."""

    exit_status = 2


class InputError(MartError):
    """An input file is missing or has a fault that must be fixed first."""


class StateError(MartError):
    """The mart is missing, is not a mart, is being built by another run, or cannot be written."""


class Unavailable(StateError):
    """The mart cannot be opened now: it is in use, or we lack permission. It may well be undamaged."""


class QueryError(MartError):
    """A statement of a `%%sql` cell failed."""


class CheckFailed(MartError):
    """Checks found bad rows, and their severity stops the run."""
