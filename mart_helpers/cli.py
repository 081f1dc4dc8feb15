"""`mart`, or `python -m mart`: runs the notebooks and a few tools from the command line.

A notebook's command has the options of its parameters cell. Each function imports the slow modules
that it needs, so that `--help` answers at once.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import click

from mart_helpers.errors import MartError, StateError, UsageError
from mart_helpers.outcome import Outcome, hand_on, reported
from mart_helpers.parameters import Command, resolve, shown
from mart_helpers.texts import aligned, size_text, visible

ALL = ("01_build", "04_quality", "02_explore", "03_export", "05_dashboard")


def main(argv: list[str] | None = None, program: str = "mart") -> int:
    """Exit status of the command in `argv`: 0 done, 1 refused or failed, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    try:
        if asked := os.environ.get("_MART_COMPLETE"):
            from click.shell_completion import shell_complete

            return shell_complete(mart, {}, "mart", "_MART_COMPLETE", asked)
        with mart.make_context(program, words) as context:
            mart.invoke(context)
        return 0
    except click.exceptions.Exit as done:  # after --help or --version
        return done.exit_code
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else program
        return _refused(f"{error.format_message()} See `{asked} --help`.", error.exit_code)
    except BrokenPipeError:  # the program that reads our output, like `head`, stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MartError, OSError) as error:
        return _refused(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """The message for an error, and the exit status."""
    if isinstance(error, MartError):
        return str(error), error.exit_status
    if isinstance(error, OSError):  # for example a full disk, or no folder for temporary files
        where = f"{shown(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror or error}.", 1
    return f"{type(error).__name__}: {error}", 1


def _refused(message: str, status: int) -> int:
    with suppress(OSError):
        print(f"mart: {visible(message)}", file=sys.stderr)
    return status


def _say(text: str) -> None:
    """Print a result. Raises StateError if it cannot be written."""
    try:
        print(visible(text), flush=True)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise StateError(f"The results cannot be printed: {error.strerror}.") from error


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
    epilog="""`mart help COMMAND` shows the options of a command. Exit status: 0 done; 1 refused or
    failed, because of the data or the mart; 2 wrong usage; 130 interrupted. To complete commands with
    Tab in bash, add eval "$(_MART_COMPLETE=bash_source mart)" to ~/.bashrc; for zsh and fish, use
    zsh_source and fish_source.""",
)
@click.version_option(package_name="mini-data-mart", message="mart %(version)s")
@click.pass_context
def mart(ctx: click.Context) -> None:
    """Build a star schema in one DuckDB file from extracts, with the notebooks of this project."""
    if not ctx.invoked_subcommand:
        click.echo(ctx.get_help())


@click.pass_context
def _run_notebooks(ctx: click.Context, **values: object) -> None:
    """Run the command's notebooks, each with its own values, and print where the results are."""
    is_paged = values.get("html", True)  # a report is a page
    if values.get("show_code") and not is_paged:
        raise UsageError("--show-code needs a page to show the code on: add --html.")
    if values["notify"] is not None and not values["notify"].strip():
        raise UsageError('--notify: found "", expected a command.')
    places = map(resolve, (values["database"], values["data_dir"]))
    outcome = Outcome(ctx.info_name, ctx.command.notebooks, *places)
    with _notified(values["notify"], outcome):
        gettempdir()  # cells are compiled there, so fail now if it is missing
        if "formats" in values:  # refuse an unknown one before any notebook runs
            from mart_helpers.export import export_folders

            outcome.exports = list(export_folders(outcome.data_dir, values["formats"]))
        for notebook in outcome.notebooks:
            with reported(notebook, values["verbose"]) as on_cell:
                outcome.run(notebook, ctx.command.given(notebook, ctx.obj), on_cell)
        if is_paged:
            outcome.write_pages(values.get("show_code", False))
        _say(outcome.lines())
        if values.get("open"):
            outcome.open_page()


@contextmanager
def _notified(command: str | None, outcome: Outcome) -> Iterator[None]:
    """Pass the outcome of the block to `command`, if there is one and nobody interrupts the run."""
    try:
        yield
    except Exception as error:
        _notify(command, outcome, *_told(error))
        raise
    _notify(command, outcome, "", 0)


def _notify(command: str | None, outcome: Outcome, error: str, status: int) -> None:
    try:
        problem = command and hand_on(command, outcome.summary(status, error))
    except Exception as failure:  # a failed notification does not undo the run
        problem = f"was not called: {_told(failure)[0]}"
    if problem:
        _refused(f"--notify: `{command}` {problem}", status)


PAGED, CODE, OPEN, VERBOSE = (
    click.Option(words, is_flag=True, help=text)
    for words, text in (
        (["--html"], "also write each notebook as an HTML page to read or mail"),
        (["--show-code"], "show the code of the notebook's cells on the page"),
        (["--open"], "open the page in a browser"),
        (["-v", "--verbose"], "print a line for each cell, with its seconds"),
    )
)
EXPLORED = click.Option(["--html/--no-html"], default=True, show_default=True, help=PAGED.help)
NOTIFY = click.Option(
    ["--notify"],
    metavar="COMMAND",
    help="command that gets a summary of the run as JSON on its standard input",
)

for name, notebooks, flags, text in (
    ("build", ALL[:1], [PAGED, CODE], "Load the inputs, check them, publish the mart."),
    ("explore", ("02_explore",), [EXPLORED, CODE, OPEN], "Look at sales, customers and products."),
    ("export", ("03_export",), [PAGED, CODE], "Write the mart's tables as files to share."),
    ("quality", ("04_quality",), [PAGED, CODE], "Check the mart and write a report."),
    ("dashboard", ALL[-1:], [PAGED, CODE, OPEN], "Make one page with figures, charts and filters."),
    ("all", ALL, [PAGED, CODE, OPEN], "Build, quality, explore, export and dashboard, in this order."),
    ("report", ALL, [OPEN], "Do the same as all, and also write one page to print or mail."),
):
    settings = {"help": text, "params": [*flags, VERBOSE, NOTIFY], "callback": _run_notebooks}
    mart.add_command(Command(name, notebooks=notebooks, **settings))


@mart.command(cls=Command, notebooks=ALL[:1], only=("inputs_dir",))
@click.option("--port", default=8501, show_default=True, help="port on this computer for the app")
def app(port: int, inputs_dir: str, database: str, **_: object) -> None:
    """Show the mart in a browser, with dates and filters."""
    try:
        from mart_helpers.app import serve
    except ModuleNotFoundError as error:
        raise StateError(
            f"The app needs packages that are not installed ({error.name}). Run `make app`, or "
            "`pip install -r requirements-app.lock`."
        ) from error
    serve(resolve(database), resolve(inputs_dir), port)


@mart.command(cls=Command)
def inspect(database: str, **_: object) -> None:
    """Show the tables and columns of the mart."""
    from mart_helpers.books import describe_mart

    _say(describe_mart(resolve(database)))


@mart.command(cls=Command, notebooks=ALL[:1], only=("inputs_dir",))
@click.argument("table")
@click.argument("key")
def trace(table: str, key: str, inputs_dir: str, database: str, **_: object) -> None:
    """Show where a row of the mart comes from.

    TABLE is an input, KEY the natural key of its row. Example: mart trace fact_sales S000123
    """
    from mart_helpers.trace import trace

    _say(trace(resolve(database), table, key, resolve(inputs_dir)))


@mart.command(cls=Command)
@click.option(
    "--before", default="", help="what to compare with: the number of a kept build, or a mart file"
)
def diff(before: str, database: str, **_: object) -> None:
    """Show what the last build changed, in rows and money."""
    from mart_helpers.diff import described
    from mart_helpers.kept import earlier_mart

    _say(described(earlier_mart(resolve(database), before), resolve(database)))


@mart.command(cls=Command)
@click.option(
    "--build", type=int, help="number of the kept build to bring back; default: the newest kept one"
)
def rollback(build: int | None, database: str, **_: object) -> None:
    """Bring back the mart that the last build replaced."""
    from mart_helpers.kept import kept_builds, rollback

    path = resolve(database).resolve()
    build = rollback(path, build)
    kept = ", ".join(map(str, kept_builds(path)))
    _say(f"{shown(path)} is build {build} again. Kept beside it: build {kept or 'none'}.")


@mart.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="only list what would be removed")
def reset(dry_run: bool, database: str, data_dir: str) -> None:
    """Remove the mart and everything else that runs have written."""
    from mart_helpers.kept import held
    from mart_helpers.reset import generated, remove

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
    """Make pictures of the mart and its pages to show to others."""
    from mart_helpers.portfolio import make_portfolio

    with reported("portfolio"):
        paths = make_portfolio(resolve(inputs_dir), Path(out))
    _say("\n".join(f"wrote {_typed(path)}" for path in paths))


@mart.command(options_metavar="")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("files", metavar="FILE…", nargs=-1, type=click.Path(path_type=Path))
def init(folder: Path, files: tuple[Path, ...]) -> None:
    """Make a folder of your own, with a draft for your files.

    DIR must be new or empty. The command copies the notebooks and each FILE into it, and drafts the
    cells for your files in 01_build, as comments: types, date and number formats, keys, references.
    Check the draft and remove the comment signs.
    """
    from mart_helpers.draft import make_place

    place = folder.absolute()
    drafts = make_place(place, files)
    _say("\n".join([f"made {_typed(place)}", *(f"  {each}" for each in drafts)]))
    _say(
        f"\nNext: open 01_build with `jupyter lab {_typed(place / 'notebooks')}` (of this project's "
        ".venv), confirm what\nstands below Mappings; then "
        f"cd {_typed(place)}, and mart build. The drafts declare tables of your own; to\nfeed "
        "dim_customer, dim_product and fact_sales of the sample instead, write a mapping as in\n"
        "docs/other_files.md. Until you do, mart build --stage 1 gives these three their seed rows."
    )


@mart.command(cls=Command)
@click.option(
    "--sales", type=int, help="number of sale lines; default: write the sample of inputs/ again"
)
@click.option("--out", required=True, type=click.Path(), help="folder for the CSV files")
@click.option("--seed", type=int, help="a number; the same seed gives the same rows")
@click.option("--history", is_flag=True, help="write the customers as a folder of dated extracts")
def generate(sales: int | None, out: str, seed: int | None, history: bool, **_: object) -> None:
    """Write synthetic inputs of any size, or the sample again."""
    from mart_helpers.lab.generator import USUAL_SEED, generate
    from mart_helpers.lab.sample import write_sample

    if sales is None:
        paths = write_sample(Path(out))
    else:
        paths = generate(sales, Path(out), USUAL_SEED if seed is None else seed, history=history)
    _say(aligned([(shown(path), size_text(path)) for path in paths], indent=""))


class BreakCommand(Command):
    """The command `break`; its help lists the kinds of damage."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mart_helpers.lab.damage import KINDS

        with formatter.section("Kinds, and what happened"):
            formatter.write_dl([(kind.name, kind.story) for kind in KINDS])


@mart.command("break", cls=BreakCommand, notebooks=ALL[:1], only=("inputs_dir",))
@click.argument("kind")
@click.option("--out", required=True, type=click.Path(), help="a new or empty folder for the files")
def break_(kind: str, out: str, inputs_dir: str, data_dir: str, **_: object) -> None:
    """Damage a copy of the inputs, and leave you to find out how."""
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


def _typed(path: Path) -> str:
    """`path` as the caller would type it from the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
