"""The errors that users see.

MartError
├── UsageError      the call is wrong: unknown option, wrong type, bad date
├── InputError      an input file cannot be taken as it is
├── StateError      the mart is missing, foreign, busy or cannot be written
│   └── Unavailable it cannot be opened now, which says nothing of what is in it
├── QueryError      an SQL statement failed
└── CheckFailed     the checks say no
"""


class MartError(Exception):
    """Something a user can mend; its text says what happened, where, and what to do next."""

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """Give IPython the message alone, in place of a stack of helper code."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(MartError):
    """The call itself is wrong: an unknown name, a value of the wrong type, a range turned around."""

    exit_status = 2


class InputError(MartError):
    """An input file is missing, or cannot be taken as it is."""


class StateError(MartError):
    """The mart is not there, is no mart, is being built by someone else, or cannot be written."""


class Unavailable(StateError):
    """The mart cannot be opened now: it is in use, or closed to us. That does not make it damaged."""


class QueryError(MartError):
    """A statement of a `%%sql` cell failed."""


class CheckFailed(MartError):
    """Checks found bad rows of a severity that stops the work."""
