"""`python -m mart`: the notebooks, and a few tools around the mart, from the command line.

The options of a notebook's command are those of its parameters cell. Whatever takes long to import
is imported by the function that needs it, so that `--help` answers at once.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from mart_helpers.errors import MartError, UsageError
from mart_helpers.parameters import (
    Parameter,
    checked,
    notebook_parameters,
    notebook_path,
    resolve,
    shown,
)
from mart_helpers.texts import did_you_mean

if TYPE_CHECKING:
    from mart_helpers.kernel import Kernel
    from mart_helpers.run import Progress

PROGRAM = "python -m mart"

METAVARS = {str: "TEXT", int: "INT", float: "FLOAT", bool: "true|false"}

REQUIRED = object()  # the default of an option that has to be given

# What a notebook is asked at its end, by the word that stands before the answer. 01_build has the mart
# open then, and to open it again takes longer than many a cell.
LAST_QUESTIONS = {
    "01_build": {
        "rows": """\
from mart_helpers.mart import account_of
print(*account_of(mart.connection), sep="\\n")
""",
        "checks": """\
from mart_helpers.checks import verdict_of
print(*verdict_of(check_results.itertuples()), sep="\\n")
""",
    },
    "02_explore": {
        "sales": """\
if not len(sales_range):
    print("none is left by the dates and filters: tables and charts are empty")
""",
    },
}

CLEAR_LINE = "\r\x1b[2K"

Values = dict[str, object]


class Command(NamedTuple):
    """What a word after `python -m mart` does: it runs notebooks in this order, or one function.

    `words` follow the command without an option before them. `shared` are parameters of 01_build that
    mean the same here. `more` gives the text that stands below the options in `--help`.
    """

    help: str
    notebooks: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    run: Callable[[Values], None] | None = None
    words: tuple[Parameter, ...] = ()
    shared: tuple[str, ...] = ()
    more: Callable[[], str] | None = None


def main(argv: list[str] | None = None) -> int:
    """Exit status of the command in `argv`: 0 done, 1 data or mart say no, 2 wrong usage."""
    try:
        _run_command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except MartError as error:
        print(f"mart: {error}", file=sys.stderr)
        return error.exit_status
    except ModuleNotFoundError as error:
        print(
            f"mart: {error}. This Python lacks the project's packages: run `make run` once, then "
            "`source .venv/bin/activate`.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("mart: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _run_command(words: list[str]) -> None:
    if not words or words[0] not in COMMANDS:
        _answer_without_command(words)
        return
    name, command = words[0], COMMANDS[words[0]]
    declared = {each: notebook_parameters(notebook_path(each)) for each in command.notebooks}
    parameters = _union([*declared.values(), command.parameters, _shared(command), COMMON])
    given = _given(name, command, parameters, words[1:])
    values = {each.name: each.default for each in parameters} | given
    if command.run:
        command.run(values)
        return
    own = {
        notebook: {each.name: given[each.name] for each in known if each.name in given}
        for notebook, known in declared.items()
    }
    if values["show_code"] and not values.get("html", True):
        raise UsageError("--show-code is about the page of a notebook: give --html as well.")
    _run_notebooks(name, own, values)


def _answer_without_command(words: list[str]) -> None:
    match words:
        case ["-h" | "--help", *_]:
            print(_general_help())
        case ["--version", *_]:
            print(f"mart {_version()}")
        case []:
            raise UsageError(f"no command. Give one of {', '.join(COMMANDS)}: {PROGRAM} all")
        case [word, *_] if word.startswith("-"):
            raise UsageError(f"found {word} before a command. Options follow it: {PROGRAM} all …")
        case [word, *_]:
            near = did_you_mean(word, COMMANDS) or f" Give one of {', '.join(COMMANDS)}."
            raise UsageError(f'unknown command "{word}".{near}')


def _general_help() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name.ljust(width)}  {command.help}" for name, command in COMMANDS.items()]
    lines = [
        f"usage: {PROGRAM} COMMAND [OPTIONS]",
        "",
        "From CSV extracts to a star schema in one DuckDB file, by the notebooks of this project.",
        "",
        *commands,
        "",
        f"`{PROGRAM} COMMAND --help` lists the options of a command, `--version` the version.",
        "Exit status: 0 done, 1 the data or the mart says no, 2 wrong usage.",
    ]
    return "\n".join(lines)


def _version() -> str:
    import tomllib

    project = Path(__file__).parents[1] / "pyproject.toml"
    return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}. See `{self.prog} --help`.")


def _shared(command: Command) -> list[Parameter]:
    """The parameters of 01_build that the command shares."""
    if not command.shared:
        return []
    return [
        each for each in notebook_parameters(notebook_path("01_build")) if each.name in command.shared
    ]


def _given(name: str, command: Command, parameters: list[Parameter], words: list[str]) -> Values:
    """The values that `words` give, checked, paths made absolute. Raises UsageError."""
    parser = _Parser(
        prog=f"{PROGRAM} {name}",
        description=command.help,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        epilog=command.more and command.more(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for each in command.words:
        parser.add_argument(each.name, metavar=each.name.upper(), help=each.help)
    for each in parameters:
        _add_option(parser, each)
    given, unknown = parser.parse_known_args(words)
    if unknown:
        word = unknown[0].partition("=")[0]
        near = did_you_mean(word, [_option(each.name) for each in parameters])
        raise UsageError(f"{name}: unknown option {word}.{near} See `{parser.prog} --help`.")
    values = checked([*command.words, *parameters], vars(given), spell=_option)
    return {name: _absolute(name, value) for name, value in values.items()}


def _union(groups: Iterable[Iterable[Parameter]]) -> list[Parameter]:
    """All parameters of the groups; the first that has a name describes it."""
    union: dict[str, Parameter] = {}
    for group in groups:
        for each in group:
            union.setdefault(each.name, each)
    return list(union.values())


def _add_option(parser: _Parser, parameter: Parameter) -> None:
    shown_default = "empty" if parameter.default == "" else parameter.default
    default = f" (default: {shown_default})" if parameter.default not in (None, REQUIRED) else ""
    parser.add_argument(
        _option(parameter.name),
        metavar=_metavar(parameter),
        required=parameter.default is REQUIRED,
        help=(parameter.help + default).strip().replace("%", "%%"),
        # a truth value is true where nothing follows: --dry-run
        **({"nargs": "?", "const": "true"} if parameter.type is bool else {}),
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(parameter: Parameter) -> str:
    if parameter.choices:
        return "|".join(map(str, parameter.choices))
    if parameter.name.endswith("_date"):
        return "YYYY-MM-DD"
    return "PATH" if _is_path(parameter.name) else METAVARS[parameter.type]


def _is_path(name: str) -> bool:
    return name.endswith("_dir") or name in ("database", "out")


def _absolute(name: str, value: object) -> object:
    """A path as seen from the caller's folder; other values as they are."""
    if not _is_path(name):
        return value
    if not value:
        raise UsageError(f'{_option(name)}: found "", expected the path of a file or folder.')
    return os.path.abspath(os.path.expanduser(value))


def _run_notebooks(command: str, own: dict[str, Values], values: Values) -> None:
    """Run the notebooks in `own`, each with its own values, then say where the results are."""
    folder = None
    database, data_dir = resolve(values["database"]), resolve(values["data_dir"])
    if "formats" in values:
        _refuse_formats(data_dir, values["formats"])
    seconds, executed, said = {}, [], {}
    for (notebook, given), following in zip(own.items(), [*list(own)[1:], None], strict=True):
        if notebook == "01_build" and (build := _same_build(values)):
            seconds[notebook] = f"nothing has changed since {build}"
            print(f"{notebook}  {seconds[notebook]} (--force builds again)", file=sys.stderr)
            continue
        started = monotonic()
        with _reported(notebook) as on_cell:
            from mart_helpers.run import new_run_folder, run_notebook

            folder = folder or new_run_folder(data_dir / "runs", command)
            on_end = partial(_ask, notebook, said)
            executed.append(run_notebook(notebook, given, folder, on_cell, following, on_end))
        seconds[notebook] = f"{monotonic() - started:.1f} s"
    results = list(_results(list(own), database, data_dir, values.get("formats", ""), said))
    pages = zip(["page", *[""] * len(executed)], map(shown, _pages(executed, values)), strict=False)
    times = seconds.items() if len(own) > 1 else ()
    kept = [("executed", shown(folder))] if folder else []
    _print_aligned([*times, *results, *kept, *pages])


def _ask(notebook: str, said: dict[str, list[str]], kernel: "Kernel") -> None:
    """Note what the notebook that the kernel has run answers to its last questions, if there are any."""
    for word, question in LAST_QUESTIONS.get(notebook, {}).items():
        said[word] = kernel.printed(question)


def _refuse_formats(data_dir: Path, formats: str) -> None:
    """Raise UsageError for an unknown format now, and not when notebooks before have run."""
    from mart_helpers.export import export_folders

    list(export_folders(data_dir, formats))


def _same_build(values: Values) -> str | None:
    """The published build, if building would only repeat it and nobody insists; a report does."""
    from mart_helpers.mart import unchanged_since

    return None if values.get("force", True) else unchanged_since(values)


def _pages(executed: list[Path], values: Values) -> list[Path]:
    """Write the executed notebooks as pages where they are asked for; those pages."""
    is_report = "html" not in values  # which is a page anyway
    if not is_report and not values["html"]:
        return []
    from mart_helpers.pages import write_pages, write_report

    database, data_dir = resolve(values["database"]), resolve(values["data_dir"])
    folder, show_code = data_dir / "pages", values["show_code"]
    if is_report:
        report = data_dir / "quality" / "quality_report.json"
        return [write_report(executed, folder, database, report, show_code)]
    return write_pages(executed, folder, database, show_code)


def _results(
    notebooks: list[str], database: Path, data_dir: Path, formats: str, said: dict[str, list[str]]
) -> Iterator[tuple[str, str]]:
    from mart_helpers.inspect import last_verdict
    from mart_helpers.mart import last_account
    from mart_helpers.texts import size_text

    if "01_build" in notebooks and database.exists():
        rows, *reasons = said.get("rows") or last_account(database)
        yield "rows", rows
        yield from (("", line) for line in reasons)
        yield "mart", f"{shown(database)} ({size_text(database)})"
    yield from (("sales", line) for line in said.get("sales", []))
    if "03_export" in notebooks:
        from mart_helpers.export import export_folders

        yield "exports", ", ".join(map(shown, export_folders(data_dir, formats)))
    report = data_dir / "quality" / "quality_report.json"
    is_reported = "04_quality" in notebooks and report.exists()
    passed, *others = last_verdict(report) if is_reported else said.get("checks") or [""]
    if is_reported or others:  # a build says nothing of checks where all have passed
        yield "checks", passed
        yield from (("", line) for line in others)
    if "04_quality" in notebooks and report.parent.exists():
        yield "quality", shown(report.parent)


def _print_aligned(rows: list[tuple[str, ...]]) -> None:
    from mart_helpers.texts import aligned

    print(aligned(rows, indent=""))


@contextmanager
def _reported(notebook: str) -> Iterator[Callable[["Progress"], None]]:
    """Show a notebook's run on stderr: one line that follows the cells where someone watches it."""
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    start, before_end = ("", CLEAR_LINE) if live else ("\n", "")

    def say(text: str, before: str, after: str) -> None:
        sys.stderr.write(f"{before}{text[: shutil.get_terminal_size().columns - 1]}{after}")
        sys.stderr.flush()

    def follow(progress: "Progress") -> None:
        if live:
            where = f"{progress.cell}/{progress.cells}  {progress.heading}"
            say(f"{notebook}  {where}", CLEAR_LINE, "")

    started = monotonic()
    outcome = "stopped after"
    say(f"{notebook}  starting", "", start)
    try:
        yield follow
        outcome = "done in"
    finally:
        say(f"{notebook}  {outcome} {monotonic() - started:.1f} s", before_end, "\n")


def _inspect(values: Values) -> None:
    from mart_helpers.inspect import describe_mart

    print(describe_mart(resolve(values["database"])))


def _diff(values: Values) -> None:
    from mart_helpers.diff import described
    from mart_helpers.mart import earlier_mart

    database = resolve(values["database"])
    print(described(earlier_mart(database, values["before"]), database))


def _rollback(values: Values) -> None:
    from mart_helpers.mart import kept_builds, rollback

    database = resolve(values["database"]).resolve()
    build = rollback(database, values["build"])
    kept = ", ".join(map(str, kept_builds(database)))
    print(f"{shown(database)} is build {build} again. Kept beside it: build {kept or 'none'}.")


def _reset(values: Values) -> None:
    from mart_helpers.mart import held
    from mart_helpers.reset import generated, remove
    from mart_helpers.texts import size_text

    database, data_dir = resolve(values["database"]), resolve(values["data_dir"])
    found = generated(database, data_dir)
    if not found:
        print("nothing to remove")
    elif values["dry_run"]:
        for path in found:
            print(f"would remove {shown(path)} ({size_text(path)})")
    else:
        with held(database) as lock:
            for path in found:
                size = size_text(path)
                remove(path)
                print(f"removed {shown(path)} ({size})")
            remove(Path(lock.lock_file))


def _generate(values: Values) -> None:
    from mart_helpers.lab.generator import generate
    from mart_helpers.texts import size_text

    seed = {} if values["seed"] is None else {"seed": values["seed"]}
    paths = generate(values["sales"], Path(values["out"]), **seed)
    _print_aligned([(shown(path), size_text(path)) for path in paths])


def _break(values: Values) -> None:
    from mart_helpers.lab.damage import break_inputs

    out = Path(values["out"])
    broken = break_inputs(values["kind"], resolve(values["inputs_dir"]), out)
    lab = resolve(values["data_dir"]) / "broken"
    places = f"--database {_typed(lab / 'mart.duckdb')} --data-dir {_typed(lab)}"
    print("\n".join(f"wrote {_typed(path)}" for path in broken.paths))
    print("\nTo find out what is wrong with them:")
    print(f"  {PROGRAM} build --inputs-dir {_typed(out)} {places}")
    print(f"  {PROGRAM} quality --inputs-dir {_typed(out)} --as-of-date {broken.as_of} {places}")


def _portfolio(values: Values) -> None:
    from mart_helpers.portfolio import make_portfolio

    with _reported("portfolio"):
        paths = make_portfolio(resolve(values["inputs_dir"]), Path(values["out"]))
    print("\n".join(f"wrote {_typed(path)}" for path in paths))


def _kinds_of_damage() -> str:
    from mart_helpers.lab.damage import described_kinds

    return f"kinds, and what happened:\n{described_kinds()}"


def _typed(path: Path) -> str:
    """`path` as it is typed in the caller's folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _trace(values: Values) -> None:
    from mart_helpers.trace import trace

    inputs_dir = resolve(values["inputs_dir"])
    print(trace(resolve(values["database"]), values["table"], values["key"], inputs_dir))


COMMON = (
    Parameter("database", str, "data/mini_data_mart.duckdb", "the mart, one DuckDB file"),
    Parameter("data_dir", str, "data", "folder of exports, reports and executed notebooks"),
)

FORCE = Parameter("force", bool, False, "build even if nothing has changed since the last build")

SHOW_CODE = Parameter("show_code", bool, False, "with the code of the notebook's cells on the page")

PAGES = (
    Parameter("html", bool, False, "write each notebook as a page of HTML too, to read or to mail"),
    SHOW_CODE,
)

ALL = ("01_build", "04_quality", "02_explore", "03_export")

COMMANDS = {
    "build": Command("load the inputs, check them, publish the mart", ("01_build",), (FORCE, *PAGES)),
    "explore": Command("look at sales, customers and products", ("02_explore",), PAGES),
    "export": Command("write the mart's tables as files to share", ("03_export",), PAGES),
    "quality": Command("check the mart and write a report", ("04_quality",), PAGES),
    "all": Command("build, quality, explore and export, in this order", ALL, (FORCE, *PAGES)),
    "report": Command("do all of that, and write it as one page of HTML to mail", ALL, (SHOW_CODE,)),
    "inspect": Command("show the tables and columns of the mart", run=_inspect),
    "trace": Command(
        "show where a row of the mart comes from",
        run=_trace,
        words=(
            Parameter("table", str, REQUIRED, "a declared input, such as fact_sales"),
            Parameter("key", str, REQUIRED, "the row's natural key, such as S000123"),
        ),
        shared=("inputs_dir",),
    ),
    "diff": Command(
        "show what the last build changed, in rows and money",
        parameters=(
            Parameter("before", str, "", "what to compare with: a kept build's number, or a mart file"),
        ),
        run=_diff,
    ),
    "rollback": Command(
        "publish the mart again that the last build replaced",
        parameters=(
            Parameter("build", int, None, "the kept build to take; default: the newest before"),
        ),
        run=_rollback,
    ),
    "reset": Command(
        "remove the mart and everything else that runs have written",
        parameters=(Parameter("dry_run", bool, False, "only list what would be removed"),),
        run=_reset,
    ),
    "portfolio": Command(
        "make pictures of the mart, of what it says and of what an edit changes",
        parameters=(Parameter("out", str, REQUIRED, "folder for the PNG files"),),
        run=_portfolio,
        shared=("inputs_dir",),
    ),
    "generate": Command(
        "write synthetic inputs of any size",
        parameters=(
            Parameter("sales", int, REQUIRED, "number of sale lines"),
            Parameter("out", str, REQUIRED, "folder for the CSV files"),
            Parameter("seed", int, None, "whole number: the same one gives the same rows"),
        ),
        run=_generate,
    ),
    "break": Command(
        "write a copy of the inputs with one kind of damage, to find it with the workbook",
        words=(Parameter("kind", str, REQUIRED, "what happened: one of those below"),),
        parameters=(Parameter("out", str, REQUIRED, "a new or empty folder for the files"),),
        run=_break,
        shared=("inputs_dir",),
        more=_kinds_of_damage,
    ),
}
