"""Makes the options of the command line from the parameters cells of notebooks."""

import os
from itertools import chain

import click
from click.core import ParameterSource, augment_usage_errors

from mart_helpers.errors import StateError, UsageError
from mart_helpers.parameters import (
    CHECKOUT,
    PATHS,
    USUAL_MART,
    Parameter,
    fault,
    is_place,
    mart_of,
    notebook_parameters,
    notebook_path,
    place_of,
    refuse_backwards,
    resolve,
)

COMMON = (
    Parameter("database", str, USUAL_MART, "the mart, one DuckDB file"),
    Parameter("data_dir", str, "data", "folder of exports, reports and executed notebooks"),
)


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
        for each in chain(*map(self.declared, self.notebooks), COMMON):
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

    word, kind, metavar = _spelt(parameter.name), parameter.type, parameter.type.__name__.upper()
    if parameter.choices:
        kind, metavar = click.Choice(parameter.choices), None
    elif kind is bool:
        word, metavar = f"{word}/--no-{word[2:]}", None
    elif kind is str:
        kind = click.Path() if _is_path(parameter.name) else kind
        metavar = "YYYY-MM-DD" if parameter.name.endswith("_date") else None
    settings = {"default": parameter.default, "show_default": True, "help": parameter.help}
    return click.Option([word], type=kind, metavar=metavar, callback=checked, **settings)


def _spelt(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_path(name: str) -> bool:
    return name.endswith(PATHS) or name == "out"


def _absolute(name: str, value: object) -> object:
    """A path relative to the caller's folder, made absolute; other values unchanged."""
    if not _is_path(name):
        return value
    if not value:
        raise UsageError(f'{_spelt(name)}: found "", expected the path of a file or folder.')
    return os.path.abspath(os.path.expanduser(value))
