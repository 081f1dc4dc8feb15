"""The parameters of a notebook, read from its cell, and what is wrong with a value of one.

A parameters cell holds lines `name: type = literal  # help`, as `papermill --help-notebook` reads
them. Only the standard library is used, so that `mart --help` answers at once.
"""

import ast
import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date
from functools import cache
from itertools import chain
from math import inf, isfinite
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

# A line of the cell, and what its comment may say of the values.
_LINE = re.compile(r"(\w+): (str|int|float|bool) = (.+?)(?:  # *(.*))?")
_ONE_OF = re.compile(r"\bone of ([^:]+)")
_CHOICE = {str: r"[\w.+-]+", int: r"[0-9]+"}
_OR_MORE = re.compile(r"\b([0-9]+) or more\b")

# A limit of memory: of each unit the least and the most. To read a large CSV file alone takes 32 MB.
_LIMIT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(MB|GB|TB|%)", re.IGNORECASE)
_LIMITS = {"MB": (50, inf), "GB": (0.05, inf), "TB": (0.00005, inf), "%": (1, 100)}

_INJECTED = "# Parameters\n"  # so begins the cell that papermill adds

CHECKOUT = Path(__file__).resolve().parents[1]

PATHS = ("_dir", "database", "lake")  # a parameter of such a name is a path

USUAL_MART, FIRST_MART = "data/mini_data_mart.duckdb", "data/stage_1.duckdb"


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
    lines = enumerate(map(str.rstrip, source.splitlines()), start=1)
    return [_parameter(line, number) for number, line in lines if line and line[0] != "#"]


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


def fault(parameter: Parameter, value: object) -> str:
    """What is wrong with the value, such as `found 4, expected one of 1, 2, 3`; empty if nothing is.

    It may be of another type, outside the choices, or below the minimum. A `…_date` is empty or ISO 8601
    `yyyy-mm-dd`, a `…_limit` like `4GB` or `70%`; `…_dir` and `database` are paths that can be.
    """
    name, kind, expected = parameter.name, parameter.type, ""
    if not _is_of(value, kind):
        expected = _EXPECTED[kind]
    elif parameter.choices and value not in parameter.choices:
        expected = f"one of {', '.join(map(str, parameter.choices))}"
    elif parameter.minimum is not None and value < parameter.minimum:
        expected = f"{parameter.minimum} or more"
    elif name.endswith("_date") and value and not _is_date(value):
        expected = 'a date as yyyy-mm-dd, or "" for an open end'
    elif name.endswith("_limit") and not _is_limit(value):
        expected = "a size from 50MB on, such as 4GB, or a share, such as 70%"
    elif name.endswith(PATHS) and value != parameter.default:
        expected = _expected_path(value)
    if not expected:
        return ""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = text.encode(errors="backslashreplace").decode()  # no kernel sends half a character
    text = text if len(text) <= 60 else f"{text[:56]} …"
    given = "" if _is_of(value, kind) else f" ({type(value).__name__})"
    return f"found {text}{given}, expected {expected}"


def refuse_backwards(values: Mapping[str, object]) -> None:
    """Raise UsageError if `start_date` is after `end_date`; either may be missing or empty."""
    start, end = values.get("start_date"), values.get("end_date")
    if start and end and start > end:
        raise UsageError(
            f"The start date {start} is after the end date {end}. Swap them, or leave one out."
        )


def check_cell(cell_sources: list[str], namespace: Mapping[str, object]) -> None:
    """Refuse wrong parameters inside a running notebook; without a parameters cell, do nothing.

    `cell_sources` are the cells executed so far (IPython's `In`), `namespace` is where they ran.
    Raises UsageError for a value with a `fault`, a start after its end, and for names that papermill
    injected and no one declared.
    """
    parameters: list[Parameter] = []
    for source in cell_sources:
        with suppress(UsageError):
            # the last counts: a kernel may have run another notebook before
            parameters = read_parameters(source) or parameters
    if not parameters:
        return
    known = [each.name for each in parameters]
    for name in chain(*map(_injected, cell_sources)):
        if name not in known:
            raise UsageError(
                f"unknown parameter {name}.{did_you_mean(name, known)} "
                f"Expected one of {', '.join(known)}."
            )
    for each in parameters:
        if each.name in namespace and (found := fault(each, namespace[each.name])):
            raise UsageError(f"{each.name}: {found}.")
    refuse_backwards({name: namespace[name] for name in known if name in namespace})


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


def mart_of(stage: int | None, database: str) -> str:
    """The mart that a build writes: stage 1, which is to learn on, has its own unless one is named."""
    return FIRST_MART if (stage, database) == (1, USUAL_MART) else database


def home() -> Path:
    """Folder that relative paths start from, and whose notebooks run.

    It is `MART_HOME` if that is set, else the current folder or the nearest above it that has the
    notebooks, else the checkout.
    """
    if named := os.environ.get("MART_HOME"):
        return Path(named)
    return place_of(os.getcwd()) or CHECKOUT


@cache
def place_of(folder: str) -> Path | None:
    """The folder or the nearest above it that has the notebooks of a mart; None if none has."""
    path = Path(folder)
    return next((each for each in (path, *path.parents) if is_place(each)), None)


def is_place(folder: Path) -> bool:
    """Whether the folder has the notebooks of a mart."""
    return (folder / "notebooks" / "01_build.ipynb").is_file()


def resolve(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at `home()`, never at the caller's folder."""
    return home() / Path(path).expanduser()


def shown(path: str | Path) -> str:
    """`path` as people are shown it: relative to `home()` where it lies below, else as it is."""
    path = resolve(path)
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)


def _parameter(line: str, number: int) -> Parameter:
    try:
        name, word, value, comment = _LINE.fullmatch(line).groups(default="")
        default = ast.literal_eval(value)
    except (AttributeError, ValueError, SyntaxError) as error:
        raise UsageError(
            f"parameters cell, line {number}: found `{line}`, "
            "expected `name: type = literal  # help` with type str, int, float or bool."
        ) from error
    kind = _TYPES[word]
    found = _OR_MORE.search(comment) if kind in (int, float) else None
    return Parameter(
        name, kind, default, comment, _choices(comment, kind), int(found[1]) if found else None
    )


def _choices(comment: str, kind: type) -> tuple[object, ...]:
    """The values of a `one of a, b, c: …` in `comment`; none where it is just prose."""
    found = _ONE_OF.search(comment)
    words = [word.strip(" .") for word in found[1].split(",")] if found and kind in _CHOICE else []
    are_words = all(re.fullmatch(_CHOICE[kind], word) for word in words)
    return tuple(map(kind, words)) if are_words else ()


def _injected(source: str) -> list[str]:
    """The names that a cell of papermill's gives values to; none where somebody else wrote it."""
    if source.startswith(_INJECTED):
        with suppress(SyntaxError):
            targets = [
                each.targets[0] for each in ast.parse(source).body if isinstance(each, ast.Assign)
            ]
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _is_of(value: object, kind: type) -> bool:
    """Whether `value` can stand for a `kind`: int for float too, but never bool for a number."""
    if kind is float:
        return type(value) is int or (type(value) is float and isfinite(value))
    return type(value) is kind


def _is_date(text: str) -> bool:
    with suppress(ValueError):  # a week, or a date without its hyphens, is none
        return date.fromisoformat(text).isoformat() == text
    return False


def _is_limit(text: str) -> bool:
    """Whether `text` says how much memory: a size, or a percentage of what the machine has."""
    found = _LIMIT.fullmatch(text)
    least, most = _LIMITS[found[2].upper()] if found else (inf, 0)
    return bool(found) and least <= float(found[1]) <= most


def _expected_path(text: str) -> str:
    """What is expected in place of a path that cannot be; empty for one that can, be it there or not."""
    try:
        text.encode()
        os.lstat(resolve(text))
    except UnicodeEncodeError:
        return "a path in UTF-8; rename the file or folder"
    except (ValueError, RuntimeError):  # a NUL, an unknown ~user
        return "a path"
    except OSError as error:
        return "a shorter path" if error.errno == errno.ENAMETOOLONG else ""
    return "" if text else "a path"
