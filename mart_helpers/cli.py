"""`mart`, or `python -m mart`: the notebooks, and a few tools around the mart, from the command line.

The options of a notebook's command are those of its parameters cell. Whatever takes long to import
is imported by the function that needs it, so that `--help` answers at once.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource, augment_usage_errors

from mart_helpers.errors import MartError, StateError, UsageError
from mart_helpers.parameters import (
    PATHS,
    Parameter,
    checked,
    notebook_parameters,
    notebook_path,
    resolve,
    shown,
)
from mart_helpers.texts import visible

if TYPE_CHECKING:
    from mart_helpers.run import Progress

METAVARS = {int: "INTEGER", float: "FLOAT"}

COMMON = (
    Parameter("database", str, "data/mini_data_mart.duckdb", "the mart, one DuckDB file"),
    Parameter("data_dir", str, "data", "folder of exports, reports and executed notebooks"),
)

ALL = ("01_build", "04_quality", "02_explore", "03_export")

Values = dict[str, object]


def main(argv: list[str] | None = None, program: str = "mart") -> int:
    """Exit status of the command in `argv`: 0 done, 1 the data or the mart says no, 2 wrong usage."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if asked := os.environ.get("_MART_COMPLETE"):
            from click.shell_completion import shell_complete

            return shell_complete(mart, {}, "mart", "_MART_COMPLETE", asked)
        with mart.make_context(program, list(arguments)) as context:
            mart.invoke(context)
        return 0
    except click.exceptions.Exit as done:  # after --help and the like
        return done.exit_code
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else program
        return _refused(f"{error.format_message()} See `{asked} --help`.", error.exit_code)
    except MartError as error:
        return _refused(str(error), error.exit_status)
    except BrokenPipeError:
        # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, no folder for temporary files, and the like
        where = f"{shown(error.filename)}: " if error.filename else ""
        return _refused(f"{where}{error.strerror or error}.", 1)


def _refused(message: str, status: int) -> int:
    with suppress(OSError):
        print(f"mart: {visible(message)}", file=sys.stderr)
    return status


def _say(text: str) -> None:
    """Print a result. Raises StateError where it cannot be written."""
    try:
        print(visible(text), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StateError(f"The results cannot be printed: {error.strerror}.") from error


class Command(click.Command):
    """A command with options that are parameters of notebooks, typed and checked as their cells say.

    It takes all parameters of the `notebooks`, or those named in `only`, and the common ones.
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
        """Those of all notebooks; where several have one of a name, the first describes it."""
        union: dict[str, Parameter] = {}
        for each in chain(*map(self.declared, self.notebooks), COMMON):
            union.setdefault(each.name, each)
        return list(union.values())

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*map(_as_option, self.parameters()), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the values of all options, checked, in `ctx.params`, and in `ctx.obj` those given."""
        with augment_usage_errors(ctx):
            rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:  # as in completion, which sees unfinished commands
            parameters = self.parameters()
            ctx.params |= checked(parameters, {p.name: ctx.params[p.name] for p in parameters}, _spelt)
            ctx.obj = {
                name: _absolute(name, value)
                for name, value in ctx.params.items()
                if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
            }
            ctx.params |= ctx.obj
        return rest


class Choice(click.Choice):
    """Choices to show and to complete; what is none of them is refused by `checked`."""

    def convert(self, value: object, *_: object) -> object:
        return value


def _as_option(parameter: Parameter) -> click.Option:
    """The option for a parameter; its value stays text, which `checked` reads as the notebooks do."""
    word, metavar = _spelt(parameter.name), METAVARS.get(parameter.type)
    kind = click.STRING
    if parameter.choices:
        kind, metavar = Choice([str(each) for each in parameter.choices]), None
    elif parameter.type is bool:
        word, kind = f"{word}/--no-{word[2:]}", None
    elif parameter.name.endswith("_date"):
        metavar = "YYYY-MM-DD"
    elif _is_path(parameter.name):
        kind = click.Path()
    return click.Option(
        [word],
        type=kind,
        metavar=metavar,
        default=parameter.default,
        show_default=True,
        help=parameter.help,
    )


def _spelt(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_path(name: str) -> bool:
    return name.endswith(PATHS) or name == "out"


def _absolute(name: str, value: object) -> object:
    """A path as seen from the caller's folder; other values as they are."""
    if not _is_path(name):
        return value
    if not value:
        raise UsageError(f'{_spelt(name)}: found "", expected the path of a file or folder.')
    return os.path.abspath(os.path.expanduser(value))


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    import tomllib

    if asked:
        project = Path(__file__).parents[1] / "pyproject.toml"
        click.echo(f"mart {tomllib.loads(project.read_text(encoding='utf-8'))['project']['version']}")
        ctx.exit()


class Group(click.Group):
    """Commands in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=Group,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [OPTIONS]",
    options_metavar="",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 the data or the mart says no, 2 wrong usage, 130 interrupted.\n\n"
    'Completion by Tab in bash: add `eval "$(_MART_COMPLETE=bash_source mart)"` to ~/.bashrc; '
    "zsh and fish likewise, with zsh_source or fish_source.",
)
@click.option("--version", is_flag=True, is_eager=True, callback=_version, expose_value=False,
              help="Show the version and exit.")  # fmt: skip
@click.pass_context
def mart(ctx: click.Context) -> None:
    """From CSV extracts to a star schema in one DuckDB file, by the notebooks of this project."""
    if not ctx.invoked_subcommand:
        click.echo(ctx.get_help())


def _run_notebooks(ctx: click.Context, **values: object) -> None:
    """Run the notebooks of the command, each with the values given for it; say where the results are."""
    if values["show_code"] and not values.get("html", True):
        raise UsageError("--show-code is about the page of a notebook: give --html as well.")
    database, data_dir = resolve(values["database"]), resolve(values["data_dir"])
    if "formats" in values:
        _refuse_formats(data_dir, values["formats"])
    folder, seconds, executed, said = None, {}, [], {}
    notebooks = ctx.command.notebooks
    for notebook in notebooks:
        started = monotonic()
        with _reported(notebook, values["verbose"]) as on_cell:
            from mart_helpers.run import new_run_folder, run_notebook, summary_of

            folder = folder or new_run_folder(data_dir / "runs", ctx.info_name)
            own = {p.name: ctx.obj[p.name] for p in ctx.command.declared(notebook) if p.name in ctx.obj}
            executed.append(run_notebook(notebook, own, folder, on_cell))
            said |= _by_word(summary_of(executed[-1]), notebook.partition("_")[2])
        seconds[notebook] = f"{monotonic() - started:.1f} s"
    results = list(_results(notebooks, database, data_dir, values.get("formats", ""), said))
    pages = zip(["page", *[""] * len(executed)], map(shown, _pages(executed, values)), strict=False)
    times = seconds.items() if len(notebooks) > 1 else ()
    kept = [("executed", shown(folder))] if folder else []
    _print_aligned([*times, *results, *kept, *pages])


def _refuse_formats(data_dir: Path, formats: str) -> None:
    """Raise UsageError for an unknown format now, and not when notebooks before have run."""
    from mart_helpers.export import export_folders

    list(export_folders(data_dir, formats))


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


def _by_word(summary: list[str], word: str) -> dict[str, list[str]]:
    """The lines of a notebook's summary by the word at their start; `word` where there is none."""
    lines: dict[str, list[str]] = {}
    for line in summary:
        start, gap, text = line.partition("  ")
        word = start if gap and start else word
        lines.setdefault(word, []).append(text.strip() if gap else line)
    return lines


def _results(
    notebooks: tuple[str, ...], database: Path, data_dir: Path, formats: str, said: dict[str, list[str]]
) -> Iterator[tuple[str, str]]:
    from mart_helpers.inspect import last_verdict
    from mart_helpers.texts import size_text

    report = data_dir / "quality" / "quality_report.json"
    if "04_quality" in notebooks and report.exists():
        said["checks"] = last_verdict(report)
    if "01_build" in notebooks and database.exists():
        said["mart"] = [f"{shown(database)} ({size_text(database)})"]
    if "03_export" in notebooks:
        from mart_helpers.export import export_folders

        said["exports"] = [", ".join(map(shown, export_folders(data_dir, formats)))]
    if "04_quality" in notebooks and report.parent.exists():
        said["quality"] = [shown(report.parent)]
    for word, lines in said.items():
        yield from zip([word, *[""] * len(lines)], lines, strict=False)


def _print_aligned(rows: list[tuple[str, ...]]) -> None:
    from mart_helpers.texts import aligned

    _say(aligned(rows, indent=""))


@contextmanager
def _reported(notebook: str, verbose: bool = False) -> Iterator[Callable[["Progress"], None]]:
    """Show a notebook's run on stderr: one line that follows the cells where someone watches it.

    Where it is `verbose`, each cell that has run leaves a line.
    """
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    started = cell_started = monotonic()
    at = ""

    def say(text: str, end: str = "\n") -> None:
        if live:
            text = f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}"
        with suppress(OSError):  # what is done counts, not who is told
            print(text, end=end, file=sys.stderr, flush=True)

    def leave_cell() -> None:
        if verbose and at:
            say(f"{at}  {monotonic() - cell_started:.2f} s")

    def follow(progress: "Progress") -> None:
        nonlocal at, cell_started
        leave_cell()
        at = f"{notebook}  {progress.cell}/{progress.cells}  {progress.heading}"
        cell_started = monotonic()
        if live:
            say(at, end="")

    outcome = "stopped after"
    say(f"{notebook}  starting", end="" if live else "\n")
    try:
        yield follow
        outcome = "done in"
    finally:
        leave_cell()
        say(f"{notebook}  {outcome} {monotonic() - started:.1f} s")


def _runs(name: str, notebooks: tuple[str, ...], text: str, *flags: click.Option) -> None:
    """Add the command `name`, which runs the notebooks in this order."""
    verbose = click.Option(["-v", "--verbose"], is_flag=True, help="print each cell and its seconds")
    callback = click.pass_context(_run_notebooks)
    mart.add_command(
        Command(name, notebooks=notebooks, help=text, params=[*flags, verbose], callback=callback)
    )


HTML, SHOW_CODE = (
    click.Option([name], is_flag=True, help=text)
    for name, text in {
        "--html": "write each notebook as a page of HTML too, to read or to mail",
        "--show-code": "with the code of the notebook's cells on the page",
    }.items()
)

_runs("build", ALL[:1], "Load the inputs, check them, publish the mart.", HTML, SHOW_CODE)
_runs("explore", ("02_explore",), "Look at sales, customers and products.", HTML, SHOW_CODE)
_runs("export", ("03_export",), "Write the mart's tables as files to share.", HTML, SHOW_CODE)
_runs("quality", ("04_quality",), "Check the mart and write a report.", HTML, SHOW_CODE)
_runs("all", ALL, "Build, quality, explore and export, in this order.", HTML, SHOW_CODE)
_runs("report", ALL, "Do all of that, and write it as one page of HTML to mail.", SHOW_CODE)


@mart.command(cls=Command)
def inspect(database: str, **_: object) -> None:
    """Show the tables and columns of the mart."""
    from mart_helpers.inspect import describe_mart

    _say(describe_mart(resolve(database)))


@mart.command(cls=Command, notebooks=ALL[:1], only=("inputs_dir",))
@click.argument("table")
@click.argument("key")
def trace(table: str, key: str, inputs_dir: str, database: str, **_: object) -> None:
    """Show where a row of the mart comes from.

    TABLE is a declared input, KEY the natural key of its row: trace fact_sales S000123
    """
    from mart_helpers.trace import trace

    _say(trace(resolve(database), table, key, resolve(inputs_dir)))


@mart.command(cls=Command)
@click.option("--before", default="", help="what to compare with: a kept build's number, or a mart file")
def diff(before: str, database: str, **_: object) -> None:
    """Show what the last build changed, in rows and money."""
    from mart_helpers.diff import described
    from mart_helpers.mart import earlier_mart

    _say(described(earlier_mart(resolve(database), before), resolve(database)))


@mart.command(cls=Command)
@click.option("--build", type=int, help="the kept build to take; default: the newest before")
def rollback(build: int | None, database: str, **_: object) -> None:
    """Publish the mart again that the last build replaced."""
    from mart_helpers.mart import kept_builds, rollback

    path = resolve(database).resolve()
    build = rollback(path, build)
    kept = ", ".join(map(str, kept_builds(path)))
    _say(f"{shown(path)} is build {build} again. Kept beside it: build {kept or 'none'}.")


@mart.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="only list what would be removed")
def reset(dry_run: bool, database: str, data_dir: str) -> None:
    """Remove the mart and everything else that runs have written."""
    from mart_helpers.mart import held
    from mart_helpers.reset import generated, remove
    from mart_helpers.texts import size_text

    found = generated(resolve(database), resolve(data_dir))
    if not found:
        _say("nothing to remove")
    elif dry_run:
        for path in found:
            _say(f"would remove {shown(path)} ({size_text(path)})")
    else:
        with held(resolve(database)) as lock:
            for path in found:
                size = size_text(path)
                remove(path)
                _say(f"removed {shown(path)} ({size})")
            remove(Path(lock.lock_file))


@mart.command(cls=Command, notebooks=ALL[:1], only=("inputs_dir",))
@click.option("--out", required=True, type=click.Path(), help="folder for the pictures")
def portfolio(out: str, inputs_dir: str, **_: object) -> None:
    """Make pictures of the mart and of what it says."""
    from mart_helpers.portfolio import make_portfolio

    with _reported("portfolio"):
        paths = make_portfolio(resolve(inputs_dir), Path(out))
    _say("\n".join(f"wrote {_typed(path)}" for path in paths))


@mart.command(cls=Command)
@click.option("--sales", required=True, type=int, help="number of sale lines")
@click.option("--out", required=True, type=click.Path(), help="folder for the CSV files")
@click.option("--seed", type=int, help="the same number gives the same rows")
def generate(sales: int, out: str, seed: int | None, **_: object) -> None:
    """Write synthetic inputs of any size."""
    from mart_helpers.lab.generator import SAMPLE_SEED, generate
    from mart_helpers.texts import size_text

    paths = generate(sales, Path(out), SAMPLE_SEED if seed is None else seed)
    _print_aligned([(shown(path), size_text(path)) for path in paths])


class BreakCommand(Command):
    """`break`, whose help lists the kinds of damage."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mart_helpers.lab.damage import KINDS

        with formatter.section("Kinds, and what happened"):
            formatter.write_dl([(kind.name, kind.story) for kind in KINDS])


@mart.command("break", cls=BreakCommand, notebooks=ALL[:1], only=("inputs_dir",))
@click.argument("kind")
@click.option("--out", required=True, type=click.Path(), help="a new or empty folder for the files")
def break_(kind: str, out: str, inputs_dir: str, data_dir: str, **_: object) -> None:
    """Write a copy of the inputs with one KIND of damage, to find it."""
    from mart_helpers.lab.damage import break_inputs

    paths, as_of = break_inputs(kind, resolve(inputs_dir), Path(out))
    lab = resolve(data_dir) / "broken"
    places = f"--database {_typed(lab / 'mart.duckdb')} --data-dir {_typed(lab)}"
    inputs = f"--inputs-dir {_typed(Path(out))}"
    for path in paths:
        _say(f"wrote {_typed(path)}")
    _say("\nTo find out what is wrong with them:")
    _say(f"  mart build {inputs} {places}")
    _say(f"  mart quality {inputs} --as-of-date {as_of} {places}")


@mart.command("help")
@click.argument("command", required=False)
@click.pass_context
def show_help(ctx: click.Context, command: str | None) -> None:
    """Show what a command does, or this list."""
    words = [command] if command else []
    with mart.make_context(ctx.parent.info_name, [*words, "--help"]) as context:
        mart.invoke(context)


def _typed(path: Path) -> str:
    """`path` as it is typed in the caller's folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
