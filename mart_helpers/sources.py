"""The file behind a declared table: found, and its header row understood."""

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path

from mart_helpers.contract import Table
from mart_helpers.errors import InputError
from mart_helpers.project import shown

_DELIMITERS = (",", ";", "\t", "|")
_ENDINGS = (".csv", ".csv.gz")
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One input file: where it is, its delimiter, and the name of each of its fields.

    `fields` are normalised: the contract's names where they match after trimming and lower-casing,
    and placeholders for the `ignored` ones.
    """

    path: Path
    name: str
    delimiter: str
    fields: tuple[str, ...]
    ignored: tuple[str, ...]


def find_source(inputs_dir: Path, table: Table) -> Source:
    """The one file in `inputs_dir` that holds `table`.

    Raises InputError where there is none or more than one, or where its header does not fit.
    """
    paths = [inputs_dir / f"{table.name}{ending}" for ending in _ENDINGS]
    found = [path for path in paths if path.exists()]
    if not found:
        raise InputError(
            f"{shown(inputs_dir)} holds no {table.name}.csv (or {table.name}.csv.gz). "
            f"Put the extract there, or name its folder with inputs_dir."
        )
    if len(found) > 1:
        raise InputError(
            f"{shown(inputs_dir)} holds two sources for {table.name}: "
            f"{' and '.join(path.name for path in found)}. Leave the one that counts."
        )
    return _understand(found[0], table)


def _understand(path: Path, table: Table) -> Source:
    header = _header_line(path)
    delimiter = max(_DELIMITERS, key=lambda mark: len(_known(header, mark, table)))
    names = _normalised(header, delimiter)
    known = [name for name in names if name in table.column_names]
    _refuse_repeated(path, known)
    _refuse_missing(path, table, names)
    return Source(
        path=path,
        name=path.name,
        delimiter=delimiter,
        fields=tuple(
            name if name in known else f"_ignored_{position}" for position, name in enumerate(names)
        ),
        ignored=tuple(name for name in names if name not in known),
    )


def _header_line(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error}). Make a new extract.") from error
    for line in head.splitlines():
        if line.strip():
            return line
    raise InputError(f"{path.name}: is empty. It needs a header row and rows below it.")


def _normalised(header: str, delimiter: str) -> list[str]:
    names = next(csv.reader(io.StringIO(header), delimiter=delimiter), [])
    return [name.strip().lower() for name in names]


def _known(header: str, delimiter: str, table: Table) -> set[str]:
    return set(_normalised(header, delimiter)) & set(table.column_names)


def _refuse_repeated(path: Path, known: list[str]) -> None:
    for name in known:
        if known.count(name) > 1:
            raise InputError(
                f'{path.name}: column "{name}" stands twice in the header. Remove or rename one of them.'
            )


def _refuse_missing(path: Path, table: Table, names: list[str]) -> None:
    missing = [
        f'"{column.name}"'
        for column in table.columns
        if column.name not in names and column.default is None
    ]
    if missing:
        raise InputError(
            f"{path.name}: missing column {', '.join(missing)} (found: {', '.join(names)}). "
            f"Add what is missing, or rename it in the file."
        )
