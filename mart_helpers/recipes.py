"""Whether a build would only make the published mart again.

The recipe of a build is all that shapes its mart, save the extracts: the code cells of 01_build and its
parameters, this package, and DuckDB's version. Its hash stands in `build_log`; the fingerprints of the
extracts are in `build_inputs`.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

import mart_helpers
from mart_helpers.contract import read_contract
from mart_helpers.errors import MartError, UsageError
from mart_helpers.files import sha256_of
from mart_helpers.keeping import refuse_damaged
from mart_helpers.opening import open_published
from mart_helpers.parameters import (
    INJECTED,
    is_literal,
    notebook_cells,
    notebook_parameters,
    notebook_path,
    read_parameters,
)
from mart_helpers.project import resolve
from mart_helpers.sources import find_sources, unchanged

NOTEBOOK = "01_build"
# These say where the mart is and how it comes about, not what is in it.
_WITHOUT_EFFECT = ("database", "inputs_dir", "keep_previous", "memory_limit")


def recipe_of(values: Mapping[str, object]) -> str:
    """Hash of the recipe of 01_build as it stands in its file, with these values of its parameters."""
    declared = notebook_parameters(notebook_path(NOTEBOOK))
    shaping = {
        each.name: each.type(values[each.name]) for each in declared if each.name not in _WITHOUT_EFFECT
    }
    helpers = [(path.name, sha256_of(path)) for path in _helper_files()]
    recipe = [duckdb.__version__, shaping, _steps(), helpers]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def recipe_of_run(executed: Iterable[str], names: Mapping[str, object]) -> str | None:
    """Hash of the recipe of a run that is under way; None where it is not for certain that of the files.

    `executed` are the cells that its kernel has run so far, `names` what they have defined. They have to
    be the cells of 01_build, in their order and once, and this package the one that was loaded.
    """
    try:
        return _recipe_of_run([source for source in executed if source.strip()], names)
    except (MartError, OSError):  # the project has no such notebook
        return None


def _recipe_of_run(executed: list[str], names: Mapping[str, object]) -> str | None:
    parameters, *steps = executed or [""]  # some, such as nbval, keep no history
    names_in_file = [each.name for each in notebook_parameters(notebook_path(NOTEBOOK))]
    if _declared(parameters) != names_in_file:
        return None
    if steps and _is_injected(steps[0], names_in_file):
        steps.pop(0)
    if steps != _steps()[: len(steps)] or _have_helpers_changed():
        return None
    return recipe_of(names)


def unchanged_since(values: Mapping[str, object]) -> str | None:
    """The published build, as `build 7 of 2024-05-06 07:08 UTC`, if one with `values` would repeat it.

    None where anything differs or is in doubt: the recipe, a file of the extracts, or the mart itself,
    which is read to its end.
    """
    database = resolve(values["database"]).resolve()
    try:
        with open_published(database) as connection:
            build_id, built_at, recipe = connection.execute(_LAST_BUILD).fetchone()
            if recipe != recipe_of(values):
                return None
            if not _are_inputs_the_same(connection, build_id, resolve(values["inputs_dir"])):
                return None
        refuse_damaged(database)
    except (MartError, duckdb.Error, OSError, TypeError):  # the build will say what is wrong
        return None
    return f"build {build_id} of {built_at:%Y-%m-%d %H:%M} UTC"


def _are_inputs_the_same(connection: duckdb.DuckDBPyConnection, build_id: int, inputs_dir: Path) -> bool:
    rows = connection.execute(_INPUTS, [build_id]).fetchall()
    found = [
        source
        for table in {table for table, *_ in rows}
        for source in find_sources(inputs_dir, read_contract(connection, table))
    ]
    prints = {file: (size, sha256) for _, file, size, sha256 in rows}
    return len(unchanged(found, prints)) == len(found) == len(prints)


def _steps() -> list[str]:
    """The code cells of 01_build behind its parameters cell, as a kernel keeps them."""
    sources = (
        "".join(cell["source"]).rstrip("\n")
        for cell in notebook_cells(notebook_path(NOTEBOOK))
        if cell["cell_type"] == "code" and "parameters" not in cell.get("metadata", {}).get("tags", [])
    )
    return [source for source in sources if source.strip()]


def _declared(source: str) -> list[str]:
    try:
        return [each.name for each in read_parameters(source)]
    except UsageError:
        return []


def _is_injected(source: str, names: list[str]) -> bool:
    """Whether papermill wrote this cell: it assigns values to parameters, and does nothing else."""
    if not source.startswith(INJECTED):
        return False
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return all(
        isinstance(each, ast.Assign)
        and is_literal(each.value)
        and {ast.unparse(target) for target in each.targets} <= set(names)
        for each in statements
    )


def _helper_files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def _have_helpers_changed() -> bool:
    """Whether a file of this package is younger than what this process has loaded of it."""
    return any(
        max(path.stat().st_mtime, path.stat().st_ctime) > mart_helpers.LOADED_AT
        for path in _helper_files()
    )


_LAST_BUILD = "select build_id, built_at, recipe from build_log order by build_id desc limit 1"

_INPUTS = """
select table_name, file, bytes, sha256
from build_inputs
where build_id = ? and sha256 <> ''
"""
