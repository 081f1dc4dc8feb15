"""The parameters of a notebook: read from its parameters cell, checked, and offered as options.

A parameters cell holds lines `name: type = literal  # help`, which `papermill --help-notebook` reads,
too. This module imports little, so that `mart --help` answers at once.
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

import click
from click.core import ParameterSource, augment_usage_errors

from mart_helpers.errors import StateError, UsageError
from mart_helpers.texts import did_you_mean

_TYPES = {"str": str, "int": int, "float": float, "bool": bool}

_EXPECTED = {
    str: "text (str)",
    int: "a whole number (int)",
    float: "a finite number (float)",
    bool: "true or false (bool)",
}

# A line of the cell, and how its comment may limit the values.
_LINE = re.compile(r"(\w+): (str|int|float|bool) = (.+?)(?:  # *(.*))?")
_ONE_OF = re.compile(r"\bone of ([^:]+)")
_CHOICE = {str: r"[\w.+-]+", int: r"[0-9]+"}
_OR_MORE = re.compile(r"\b([0-9]+) or more\b")

# A memory limit: the least and the most of each unit. Just reading a large CSV file takes 32 MB.
_LIMIT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(MB|GB|TB|%)", re.IGNORECASE)
_LIMITS = {"MB": (50, inf), "GB": (0.05, inf), "TB": (0.00005, inf), "%": (1, 100)}

_ADDRESS = re.compile(r"sc://[^/\s:]+(:[0-9]{1,5})?(/.*)?")

_INJECTED = "# Parameters\n"  # how the cell that papermill adds begins
_ASSIGNED = re.compile(r"^(\w+) = ", re.MULTILINE)

CHECKOUT = Path(__file__).resolve().parents[1]

PATHS = ("_dir", "database", "lake")  # a parameter of such a name is a path
PLACES = (*PATHS, "cluster")  # where something is, not what is asked

USUAL_MART, FIRST_MART = "data/mini_data_mart.duckdb", "data/stage_1.duckdb"


class Parameter(NamedTuple):
    """One line of a parameters cell.

    `choices` is empty if any value of the type is allowed, or any from `minimum` on; `default` is None
    if there is none.
    """

    name: str
    type: type
    default: object
    help: str = ""
    choices: tuple[object, ...] = ()
    minimum: int | None = None


_COMMON = (
    Parameter("database", str, USUAL_MART, "the mart, one DuckDB file"),
    Parameter("data_dir", str, "data", "folder of exports, reports and executed notebooks"),
)


def read_parameters(source: str) -> list[Parameter]:
    """The parameters that the source of a cell declares, in its order.

    Raises UsageError for a line that is not `name: type = literal`.
    """
    lines = enumerate(map(str.rstrip, source.splitlines()), start=1)
    return [_parameter(line, number) for number, line in lines if line and line[0] != "#"]


def notebook_parameters(path: Path) -> list[Parameter]:
    """The parameters of the notebook at `path`, from its cell tagged `parameters`, if it has one.

    Raises StateError if there is no notebook, UsageError if its cell cannot be read.
    """
    cell = next((cell for cell in notebook_cells(path) if "parameters" in tags(cell)), None)
    try:
        return read_parameters("".join(cell["source"])) if cell else []
    except UsageError as error:
        raise UsageError(f"{shown(path)}, {error}") from error


def notebook_path(name: str) -> Path:
    """The path of the project's notebook `name`."""
    return home() / "notebooks" / f"{name}.ipynb"


def notebook_cells(path: Path) -> list[dict]:
    """The cells of the notebook at `path`, as in its JSON. Raises StateError if it has none."""
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
    """Whether Jupyter's tools execute the cell: it has code, and no tag to skip it."""
    is_code = cell["cell_type"] == "code" and bool("".join(cell["source"]).strip())
    return is_code and "skip-execution" not in tags(cell)


def fault(parameter: Parameter, value: object) -> str:
    """What is wrong with the value, for example `found 4, expected one of 1, 2, 3`; empty if nothing.

    It may have the wrong type, be outside the choices, or be below the minimum. A `…_date` is empty or
    ISO 8601 `yyyy-mm-dd`, a `…_limit` is like `4GB` or `70%`; `…_dir` and `database` are possible paths,
    `cluster` is empty or the address of a Spark Connect server.
    """
    name, kind, expected = parameter.name, parameter.type, ""
    if not _is_of(value, kind):
        expected = _EXPECTED[kind]
    elif parameter.choices and value not in parameter.choices:
        expected = f"one of {', '.join(map(str, parameter.choices))}"
    elif parameter.minimum is not None and value < parameter.minimum:
        expected = f"{parameter.minimum} or more"
    elif name.endswith("_date") and value and not _is_date(value):
        expected = 'a date as yyyy-mm-dd, or "" for no limit'
    elif name.endswith("_limit") and not _is_limit(value):
        expected = "a size of at least 50MB, like 4GB, or a share, like 70%"
    elif name == "cluster" and value and not _ADDRESS.fullmatch(value):
        expected = "an address like sc://host:15002"
    elif name.endswith(PATHS) and value != parameter.default:
        expected = _expected_path(value)
    if not expected:
        return ""
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    text = text.encode(errors="backslashreplace").decode()  # a kernel cannot send lone surrogates
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
    """Refuse wrong parameters in a running notebook; without a parameters cell, do nothing.

    `cell_sources` are the cells executed so far (IPython's `In`), `namespace` holds their variables.
    Raises UsageError for a value with a `fault`, a start after its end, and a name that papermill set
    but no parameters cell declares.
    """
    parameters: list[Parameter] = []
    for source in cell_sources:
        with suppress(UsageError):
            # the last one counts, since the kernel may have run another notebook before
            parameters = read_parameters(source) or parameters
    if not parameters:
        return
    known = [each.name for each in parameters]
    injected = (source for source in cell_sources if source.startswith(_INJECTED))
    for name in chain(*map(_ASSIGNED.findall, injected)):
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
    """The `known` words that `text` lists, separated by commas, each once.

    Blanks and upper or lower case do not matter. Raises UsageError for an unknown word.
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
    """The mart that a build writes: stage 1, for learning, has its own unless the user names one."""
    return FIRST_MART if (stage, database) == (1, USUAL_MART) else database


class Command(click.Command):
    """A command whose options are parameters of notebooks, typed and checked as their cells declare.

    It has all parameters of the `notebooks`, or those named in `only`, and the common ones.
    """

    def __init__(
        self, *args, notebooks: tuple[str, ...] = (), only: tuple[str, ...] = (), **settings
    ) -> None:
        super().__init__(*args, **settings)
        self.notebooks, self.only = notebooks, only

    def declared(self, notebook: str) -> list[Parameter]:
        """The parameters of the notebook that are options of this command."""
        known = notebook_parameters(notebook_path(notebook))
        return [each for each in known if not self.only or each.name in self.only]

    def parameters(self) -> list[Parameter]:
        """The parameters of all notebooks; for each name, the first one with the most choices."""
        union: dict[str, Parameter] = {}
        for each in chain(*map(self.declared, self.notebooks), _COMMON):
            if len(each.choices) > len(union.setdefault(each.name, each).choices):
                union[each.name] = each
        return list(union.values())

    def given(self, notebook: str, values: dict[str, object]) -> dict[str, object]:
        """The `values` that the notebook accepts; a value that is not a choice there is left out."""
        return {
            each.name: values[each.name]
            for each in self.declared(notebook)
            if each.name in values and (not each.choices or values[each.name] in each.choices)
        }

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*map(_as_option, self.parameters()), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Check all options; put their values in `ctx.params` and those given in `ctx.obj`."""
        with augment_usage_errors(ctx):
            rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:  # completion sees unfinished commands
            _tell_other_place()
            refuse_backwards(ctx.params)
            ctx.obj = {
                name: _absolute(name, value)
                for name, value in ctx.params.items()
                if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
            }
            database = mart_of(ctx.params.get("stage"), ctx.params["database"])
            if database != ctx.params["database"]:
                ctx.obj["database"] = str(resolve(database))
            ctx.params |= ctx.obj
        return rest


def home() -> Path:
    """The folder that relative paths start from and whose notebooks run.

    It is `MART_HOME` if that is set; otherwise the current folder or the nearest one above it with the
    notebooks; otherwise the checkout.
    """
    if named := os.environ.get("MART_HOME"):
        return Path(named)
    return place_of(os.getcwd()) or CHECKOUT


@cache
def place_of(folder: str) -> Path | None:
    """The folder, or the nearest one above it, that has the notebooks of a mart; None if none has."""
    path = Path(folder)
    return next((each for each in (path, *path.parents) if is_place(each)), None)


def is_place(folder: Path) -> bool:
    """Whether the folder has the notebooks of a mart."""
    return (folder / "notebooks" / "01_build.ipynb").is_file()


def resolve(path: str | Path) -> Path:
    """The absolute path of `path`; a relative one starts at `home()`, never at the caller's folder."""
    return home() / Path(path).expanduser()


def shown(path: str | Path) -> str:
    """`path` as text to show: relative to `home()` if it is below, otherwise unchanged."""
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
    """The values of a `one of a, b, c: …` in `comment`; none if it is ordinary prose."""
    found = _ONE_OF.search(comment)
    words = [word.strip(" .") for word in found[1].split(",")] if found and kind in _CHOICE else []
    are_words = all(re.fullmatch(_CHOICE[kind], word) for word in words)
    return tuple(map(kind, words)) if are_words else ()


def _is_of(value: object, kind: type) -> bool:
    """Whether `value` is a valid `kind`: an int is a valid float, but a bool is not a number."""
    if kind is float:
        return type(value) is int or (type(value) is float and isfinite(value))
    return type(value) is kind


def _is_date(text: str) -> bool:
    with suppress(ValueError):  # a week or a date without hyphens is refused
        return date.fromisoformat(text).isoformat() == text
    return False


def _is_limit(text: str) -> bool:
    """Whether `text` is an amount of memory: a size, or a percentage of the machine's memory."""
    found = _LIMIT.fullmatch(text)
    least, most = _LIMITS[found[2].upper()] if found else (inf, 0)
    return bool(found) and least <= float(found[1]) <= most


def _expected_path(text: str) -> str:
    """What is expected in place of an impossible path; empty for a possible one, even if missing."""
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


def _tell_other_place() -> None:
    """Say which notebooks run if neither the current folder nor one above it has any."""
    if os.environ.get("MART_HOME") or place_of(os.getcwd()):
        return
    here = f"{os.getcwd()} has no notebooks/01_build.ipynb"
    if not is_place(CHECKOUT):
        raise StateError(f"{here}. Go to a folder that has it; `mart init DIR FILE…` makes one.")
    click.echo(f"mart: {here}, so this runs the notebooks of {CHECKOUT}.", err=True)


def _as_option(parameter: Parameter) -> click.Option:
    """The option for a parameter: click checks its type and choices, notebook rules the rest."""

    def checked(ctx: click.Context, option: click.Parameter, value: object) -> object:
        if found := fault(parameter, value):
            raise click.BadParameter(f"{found}.", ctx, option)
        return value

    word = f"--{parameter.name.replace('_', '-')}"
    kind, metavar = parameter.type, parameter.type.__name__.upper()
    if parameter.choices:
        kind, metavar = click.Choice(parameter.choices), None
    elif kind is bool:
        word, metavar = f"{word}/--no-{word[2:]}", None
    elif kind is str:
        kind = click.Path() if _is_path(parameter.name) else kind
        metavar = "YYYY-MM-DD" if parameter.name.endswith("_date") else None
    settings = {"default": parameter.default, "show_default": True, "help": parameter.help}
    return click.Option([word], type=kind, metavar=metavar, callback=checked, **settings)


def _is_path(name: str) -> bool:
    return name.endswith(PATHS) or name == "out"


def _absolute(name: str, value: object) -> object:
    """A path relative to the caller's folder, made absolute; other values unchanged."""
    if not _is_path(name):
        return value
    if not value:
        raise UsageError(f'--{name.replace("_", "-")}: found "", expected the path of a file or folder.')
    return os.path.abspath(os.path.expanduser(value))
