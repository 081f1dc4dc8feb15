"""The parameters of a notebook: read from its cell, and values checked against them.

A parameters cell holds lines `name: type = literal  # help`, as `papermill --help-notebook` reads
them. Only the standard library is used, so that `mart --help` answers at once.
"""

import ast
import errno
import json
import math
import os
import re
import tokenize
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from mart_helpers.errors import StateError, UsageError
from mart_helpers.texts import did_you_mean

_TYPES = {"str": str, "int": int, "float": float, "bool": bool}

_EXPECTED = {
    str: "text (str)",
    int: "a whole number (int)",
    float: "a finite number (float)",
    bool: "true or false (bool)",
}

# How text says a value, on a command line and in a list of choices.
_SPELLED = {
    str: re.compile(r"[\w.+-]+"),
    int: re.compile(r"[+-]?[0-9]+"),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
    bool: re.compile(r"true|false", re.IGNORECASE),
}

_ONE_OF = re.compile(r"\bone of ([^:]+)")

_OR_MORE = re.compile(r"\b([0-9]+) or more\b")

_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_LIMIT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(MB|GB|TB|%)", re.IGNORECASE)

_MEGABYTES = {"MB": 1, "GB": 1_000, "TB": 1_000_000}

_LEAST_MEGABYTES = 50  # the reader of a large CSV file takes 32 of them

_INJECTED = "# Parameters"  # so begins the cell that papermill adds

PATHS = ("_dir", "database")  # a parameter of such a name is a path


class Parameter(NamedTuple):
    """One line of a parameters cell.

    `choices` is empty where any value of the type will do, from `minimum` on where there is one;
    `default` is None where there is none.
    """

    name: str
    type: type
    default: object
    help: str = ""
    choices: tuple[object, ...] = ()
    minimum: int | None = None


def read_parameters(source: str) -> list[Parameter]:
    """Parameters that the source of one cell declares, in its order.

    Raises UsageError for a line that is no `name: type = literal`.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise UsageError(f"parameters cell, line {error.lineno}: {error.msg}.") from error
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    return [_parameter(source, each, comments.get(each.end_lineno, "")) for each in statements]


def notebook_parameters(path: Path) -> list[Parameter]:
    """Parameters of the notebook at `path`: those of its cell tagged `parameters`, if it has one.

    Raises StateError where there is no notebook, UsageError where its cell cannot be read.
    """
    cell = next((cell for cell in notebook_cells(path) if "parameters" in tags(cell)), None)
    try:
        return read_parameters("".join(cell["source"])) if cell else []
    except UsageError as error:
        raise UsageError(f"{shown(path)}, {error}") from error


def notebook_path(name: str) -> Path:
    """Where the notebook `name` of the project is."""
    return home() / "notebooks" / f"{name}.ipynb"


def notebook_cells(path: Path) -> list[dict]:
    """Cells of the notebook at `path`, as its JSON has them. Raises StateError without them."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except OSError as error:
        reason = error.strerror
    except (ValueError, LookupError, TypeError):
        reason = "not a Jupyter notebook"
    raise StateError(f"{shown(path)}: {reason}. Restore it, e.g. `git checkout {shown(path)}`.")


def tags(cell: dict) -> list[str]:
    """The tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def is_run(cell: dict) -> bool:
    """Whether Jupyter's tools execute the cell: there is code in it, and no tag says to skip it."""
    is_code = cell["cell_type"] == "code" and bool("".join(cell["source"]).strip())
    return is_code and "skip-execution" not in tags(cell)


def checked(
    parameters: list[Parameter],
    values: dict[str, object],
    spell: Callable[[str], str] = str,
) -> dict[str, object]:
    """`values` in the types of `parameters`; text, as a command line has it, is parsed.

    `spell` turns a name into the user's word for it. Raises UsageError for an unknown name, a value
    of another type, outside the choices or below the minimum, a `…_date` that is neither empty nor
    ISO 8601 `yyyy-mm-dd`, a `…_limit` that is neither `4GB` nor `70%`, and a start after its end.
    """
    _refuse_unknown(parameters, values, spell)
    known = {each.name: each for each in parameters}
    typed = {name: _parsed(known[name], value) for name, value in values.items()}
    defaults = {each.name: each.default for each in parameters if each.default is not None}
    _refuse_wrong(parameters, defaults | typed, spell)
    return typed


def check_cell(cell_sources: list[str], namespace: dict[str, object]) -> None:
    """Refuse wrong parameters inside a running notebook; without a parameters cell, do nothing.

    `cell_sources` are the cells executed so far (IPython's `In`), `namespace` is where they ran.
    Raises UsageError as `checked` does, also for names that papermill injected and no one declared.
    """
    parameters: list[Parameter] = []
    for source in cell_sources:
        with suppress(UsageError):
            # the last counts: a kernel may have run another notebook before
            parameters = read_parameters(source) or parameters
    for source in cell_sources if parameters else []:
        if source.splitlines()[:1] == [_INJECTED]:
            _refuse_unknown(parameters, _assigned(source))
    _refuse_wrong(parameters, namespace)


def listed(parameter: str, text: str, known: Iterable[str]) -> list[str]:
    """Those of the `known` words that `text` lists, separated by commas, each once.

    Blanks around them and capitals do not matter. Raises UsageError for a word that is not known.
    """
    spelt = {word.lower(): word for word in known}
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word.lower() not in spelt:
            raise UsageError(
                f'{parameter}: found "{word}", expected some of {", ".join(spelt.values())}, '
                f"separated by commas.{did_you_mean(word, spelt.values())}"
            )
    return list(dict.fromkeys(spelt[word.lower()] for word in words))


def home() -> Path:
    """Folder that relative paths start from: `MART_HOME` where it is set, else the checkout."""
    return Path(os.environ.get("MART_HOME") or Path(__file__).resolve().parents[1])


def resolve(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at `home()`, never at the caller's folder."""
    return home() / Path(path).expanduser()


def shown(path: str | Path) -> str:
    """`path` as people are shown it: relative to `home()` where it lies below, else as it is."""
    path = resolve(path)
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)


def _parameter(source: str, statement: ast.stmt, comment: str) -> Parameter:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id=word), value=value):
            operand = value.operand if isinstance(value, ast.UnaryOp) else value
            if word in _TYPES and isinstance(operand, ast.Constant):
                kind, default = _TYPES[word], ast.literal_eval(value)
                found = _OR_MORE.search(comment) if kind in (int, float) else None
                minimum = int(found[1]) if found else None
                return Parameter(name, kind, default, comment, _choices(comment, kind), minimum)
    line = source.splitlines()[statement.lineno - 1].strip()
    raise UsageError(
        f"parameters cell, line {statement.lineno}: found `{line}`, "
        "expected `name: type = literal  # help` with type str, int, float or bool."
    )


def _choices(comment: str, kind: type) -> tuple[object, ...]:
    """The values of a `one of a, b, c: …` in `comment`; none where it is just prose."""
    found = _ONE_OF.search(comment)
    words = [word.strip(" .") for word in found[1].split(",")] if found else []
    return tuple(map(kind, words)) if all(map(_SPELLED[kind].fullmatch, words)) else ()


def _assigned(source: str) -> list[str]:
    """The names that a cell of papermill's gives values to; none where somebody else wrote it."""
    with suppress(SyntaxError):
        targets = [each.targets[0] for each in ast.parse(source).body if isinstance(each, ast.Assign)]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _parsed(parameter: Parameter, value: object) -> object:
    """The value that a text says; the text itself where it says none of the type."""
    kind = parameter.type
    if kind is str or not isinstance(value, str) or not _SPELLED[kind].fullmatch(value):
        return value
    with suppress(ValueError):  # a number of thousands of digits
        return value.lower() == "true" if kind is bool else kind(value)
    return value


def _refuse_unknown(
    parameters: list[Parameter], names: Iterable[str], spell: Callable[[str], str] = str
) -> None:
    known = [each.name for each in parameters]
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown parameter {spell(name)}.{did_you_mean(name, known, spell)} "
                f"Expected one of {', '.join(map(spell, known))}."
            )


def _refuse_wrong(
    parameters: list[Parameter], values: dict[str, object], spell: Callable[[str], str] = str
) -> None:
    given = {each.name: values[each.name] for each in parameters if each.name in values}
    for each in parameters:
        if each.name in given and (expected := _expected(each, given[each.name])):
            found = _found(given[each.name], each.type)
            raise UsageError(f"{spell(each.name)}: found {found}, expected {expected}.")
    start, end = given.get("start_date"), given.get("end_date")
    if start and end and start > end:
        raise UsageError(
            f"{spell('start_date')} {start} is after {spell('end_date')} {end}. "
            "Swap them, or leave one out."
        )


def _expected(parameter: Parameter, value: object) -> str | None:
    """What the parameter expects where the value is something else."""
    name, kind = parameter.name, parameter.type
    if not _is_of(value, kind):
        return _EXPECTED[kind]
    if parameter.choices and value not in parameter.choices:
        return f"one of {', '.join(map(str, parameter.choices))}"
    if parameter.minimum is not None and value < parameter.minimum:
        return f"{parameter.minimum} or more"
    if name.endswith("_date") and value and not _is_date(value):
        return 'a date as yyyy-mm-dd, or "" for an open end'
    if name.endswith("_limit") and not _is_limit(value):
        return f"a size from {_LEAST_MEGABYTES}MB on, such as 4GB, or a share, such as 70%"
    return _expected_path(value) if name.endswith(PATHS) else None


def _is_of(value: object, kind: type) -> bool:
    """Whether `value` can stand for a `kind`: int for float too, but never bool for a number."""
    if kind is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is kind


def _is_date(text: str) -> bool:
    with suppress(ValueError):
        return bool(_ISO_DATE.fullmatch(text) and date.fromisoformat(text))
    return False


def _is_limit(text: str) -> bool:
    """Whether `text` says how much memory: a size, or a percentage of what the machine has."""
    found = _LIMIT.fullmatch(text)
    if not found:
        return False
    number, unit = float(found[1]), found[2].upper()
    return 1 <= number <= 100 if unit == "%" else number * _MEGABYTES[unit] >= _LEAST_MEGABYTES


def _expected_path(text: str) -> str | None:
    """What is expected in place of a path that cannot be; None for one that can, be it there or not."""
    try:
        text.encode()
        os.lstat(resolve(text))
    except UnicodeEncodeError:
        return "a path in UTF-8; rename the file or folder"
    except (ValueError, RuntimeError):  # a NUL, an unknown ~user
        return "a path"
    except OSError as error:
        return "a shorter path" if error.errno == errno.ENAMETOOLONG else None
    return None if text else "a path"


def _found(value: object, kind: type) -> str:
    """The value as a message quotes it; with its type, where that is what is wrong with it."""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = text.encode(errors="backslashreplace").decode()  # no kernel sends half a character
    text = text if len(text) <= 60 else f"{text[:56]} …"
    is_spelled = not isinstance(value, str) or _SPELLED[kind].fullmatch(value)
    return f"{text} ({type(value).__name__})" if is_spelled and not _is_of(value, kind) else text
