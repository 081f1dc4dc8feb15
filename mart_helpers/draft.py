"""`mart init` makes a folder with the notebooks and a draft for the user's own files.

The draft consists of comments in `01_build` for the user to confirm: a declaration and a mapping for
each file, with notes on its first rows. It loads nothing.
"""

import json
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import chain, combinations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb

from mart_helpers.contract import read_contracts
from mart_helpers.errors import UsageError
from mart_helpers.formats import tables_in
from mart_helpers.mart import create_candidate
from mart_helpers.parameters import home, notebook_cells
from mart_helpers.raw import Raw, RawFiles
from mart_helpers.records import refuse_eight_bit
from mart_helpers.sources import CsvFile
from mart_helpers.texts import one_line, quoted

_ROWS = 100_000

_NEEDED = ("create macro date_from", "create schema contract", "create table contract.")

_EXAMPLE = "# create view mapping."

_PICTURE = re.compile(r"!\[[^\]]*\]\((pictures/[\w.-]+)\)")

_DAYS = (
    *("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d"),
    *("%d.%m.%y", "%m/%d/%y", "%d/%m/%y", "%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M"),
)

#: Possible formats of texts: the type, SQL for the value of {0}, and a note. The format that reads the
#: most texts is used, if it reads nearly all; among equals, the first.
_STYLES = (
    ("bigint", "regexp_extract({0}, '^[+-]?(0|[1-9][0-9]{{0,17}})$')", "whole numbers"),
    *(("date", f"date_from({{0}}, '{style}')", f"days written as {style}") for style in _DAYS),
    *(("decimal(18, 4)", f"number_from({{0}}, '{sign}')", f"numbers with {sign}") for sign in ".,"),
    *(("decimal(9, 6)", f"percent_from({{0}}, '{sign}')", f"percentages with {sign}") for sign in ".,"),
)

# a date format is recognised even if some values are bad; text may look like a number by chance
_NEARLY_ALL, _MOST = 0.95, 0.6

# numbers that are identifiers
_LABEL = re.compile(r"\b(id|key|no|nr|number|nummer|code|zip|plz)\b", re.IGNORECASE)


class _Seen(NamedTuple):
    """What the first rows show about a column: its type, SQL that reads it, and notes."""

    column: str
    name: str
    type: str
    expression: str
    is_filled: bool
    is_key: bool
    notes: list[str]


class _Source(NamedTuple):
    """What its first rows show about a source; `counted` says how many rows it has."""

    name: str
    counted: str
    rows: int
    columns: Sequence[_Seen]

    @property
    def key(self) -> _Seen | None:
        """The first column that is different in each row."""
        return next((each for each in self.columns if each.is_key), None)


def make_place(folder: Path, files: Sequence[Path]) -> list[str]:
    """Make `folder` with the notebooks and a copy and a draft of each file; returns lines on each.

    Raises UsageError if the folder is not empty or a file does not exist, InputError for a file that
    cannot be read or is in another encoding.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"DIR: {folder} already exists. Name a new or an empty folder.")
    for file in files:
        if not file.exists():
            raise UsageError(f"FILE: {file}: there is no such file.")
        if not file.is_file():
            raise UsageError(f"FILE: {file} is not a file. Name its files one by one.")
    (folder / "notebooks").mkdir(parents=True)
    (folder / "inputs").mkdir()
    for file in files:
        shutil.copyfile(file, folder / "inputs" / file.name)
    try:
        drafts = _drafts(folder / "inputs", [folder / "inputs" / file.name for file in files])
        for path in sorted((home() / "notebooks").glob("0*.ipynb")):
            _write_notebook(path, folder / "notebooks" / path.name, drafts)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return [
        f"drafted {name}, {rows}" if cells else f"{name} already matches the contract"
        for name, rows, cells in drafts
    ]


def _write_notebook(path: Path, to: Path, drafts: Sequence[tuple[str, str, list[str]]]) -> None:
    """Write a notebook without outputs, and its pictures; the drafts replace its example."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
        for picture in _PICTURE.findall("".join(cell["source"])):
            if (path.parent / picture).is_file():
                (to.parent / picture).parent.mkdir(exist_ok=True)
                shutil.copyfile(path.parent / picture, to.parent / picture)
        cells.append(cell)
        if _EXAMPLE in "".join(cell["source"]):
            cells[-1:] = [
                {**cell, "id": f"{cell['id']}-{number}", "source": draft.splitlines(keepends=True)}
                for number, draft in enumerate(chain.from_iterable(each[2] for each in drafts), 1)
            ] or [cell]
    notebook["cells"] = cells
    to.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _drafts(inputs: Path, files: Sequence[Path]) -> list[tuple[str, str, list[str]]]:
    """For each file or sheet: its name, the number of its rows in words, and the cells of its draft.

    Tables that others refer to come first.
    """
    with TemporaryDirectory() as scratch:
        session = create_candidate(Path(scratch, "mart.duckdb"))
        connection = session.connection
        raw_files = RawFiles(session, inputs)
        try:
            for cell in notebook_cells(home() / "notebooks" / "01_build.ipynb"):
                magic, _, sql = "".join(cell["source"]).partition("\n")
                if magic.startswith("%%sql") and any(each in sql for each in _NEEDED):
                    session.execute(sql, shows=False)
            sources = [_looked_at(connection, raw_files[name]) for name in _names(files)]
            return [
                (source.name, source.counted, _draft(connection, source, references))
                for source, references in _ordered(connection, sources)
            ]
        finally:
            session.close()


def _names(files: Sequence[Path]) -> Iterator[str]:
    """The names of the files as sources; for a file with several tables, the names of these."""
    for file in files:
        tables = tables_in(file) if file.suffix in (".xlsx", ".sqlite") else []
        if len(tables) > 1:
            yield from tables
        else:
            yield file.name.partition(".")[0]


def _count(connection: duckdb.DuckDBPyConnection, raw: Raw) -> str:
    """How many records were counted, and how many of them cannot be read, in words.

    Raises InputError for a file in another encoding.
    """
    rows = raw.records.total()
    view = f"source.main.{quoted(raw.name)}"
    (read,) = connection.execute(f"select count(*) from {view}").fetchone()
    if read == rows:
        return _rows(rows)
    for source in raw.sources:
        # here even one such row is too many, since it was not examined
        if isinstance(source, CsvFile) and not source.reader:
            refuse_eight_bit(source.path, source.name)
    return f"{_rows(rows)}, of which {rows - read:,} cannot be read"


def _rows(number: int) -> str:
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def _looked_at(connection: duckdb.DuckDBPyConnection, raw: Raw) -> _Source:
    """Copies the first rows into a temporary table, and looks at each column."""
    counted, name = _count(connection, raw), quoted(raw.name)
    connection.execute(
        f"create or replace temp table {name} as select * from source.main.{name} limit {_ROWS}"
    )
    (rows,) = connection.execute(f"select count(*) from {name}").fetchone()
    seen: list[_Seen] = []
    for column in raw.columns:
        text = quoted(column)
        is_label = f"regexp_matches({text}, '^0[0-9]')"  # 007 is no number
        counts = [
            f"count(nullif({sql.format(text)}::varchar, ''))"
            + (f" filter (not {is_label})" if kind.startswith("decimal") else "")
            for kind, sql, _ in _STYLES
        ]
        filled, different, example, *read = connection.execute(
            f"select count({text}), count(distinct {text}), min({text}), {', '.join(counts)} from {name}"
        ).fetchone()
        kind, sql, notes = _style(read, filled)
        is_key = rows == filled == different > 0
        is_first_key = is_key and not any(each.is_key for each in seen)
        if kind == "bigint":
            kind = "varchar" if is_first_key or _LABEL.search(column) else kind
            sql = "{0}"
        notes += ["different in each row"] if is_key else [f"{different:,} different"]
        notes += [f"{rows - filled:,} empty"] if filled < rows else []
        notes += [f"such as {one_line(example, 80)}"] if example else []
        plain = _plain_name(column, [each.name for each in seen])
        seen.append(_Seen(column, plain, kind, sql.format(text), filled == rows, is_key, notes))
    return _Source(raw.name, counted, rows, seen)


def _style(read: Sequence[int], filled: int) -> tuple[str, str, list[str]]:
    """The type, SQL for the values, and notes, from the number of texts that each format reads."""
    most = max(read)
    fits = [style for style, count in zip(_STYLES, read, strict=True) if count == most]
    kind, sql, words = fits[0]
    if not most or most < filled * (_MOST if kind == "date" else _NEARLY_ALL):
        return "varchar", "{0}", []
    others = [words for other, _, words in fits[1:] if (kind, other) != ("bigint", "decimal(18, 4)")]
    cannot = [f"{filled - most:,} cannot be read this way"] if most < filled else []
    return kind, sql, [words, *(f"OR {each}?" for each in others), *cannot]


def _plain_name(column: str, taken: Sequence[str] = ()) -> str:
    """The name in lower-case letters, digits and underscores; quoted if it is an SQL keyword."""
    plain = unicodedata.normalize("NFKD", column.replace("ß", "ss"))
    plain = plain.encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or "column"
    name = f"_{name}" if name[0].isdigit() else name
    while name in taken or quoted(name) in taken:
        name += "_2"
    return quoted(name) if name in _reserved() else name


@cache
def _reserved() -> set[str]:
    sql = "select keyword_name from duckdb_keywords() where keyword_category = 'reserved'"
    with duckdb.connect() as connection:
        return {word for (word,) in connection.execute(sql).fetchall()}


def _draft(
    connection: duckdb.DuckDBPyConnection, source: _Source, references: Mapping[str, str]
) -> list[str]:
    """Cells of comments: to declare and map a table for the source, or to map it to declared ones.

    None for a source that already fits the declared table of its name.
    """
    name, columns, key = source.name, source.columns, source.key
    declared = read_contracts(connection)
    if name in declared and declared[name].required_names <= {each.column.lower() for each in columns}:
        return []
    table = _plain_name(name)
    said = [f"a table of its own for {name}, after a look at {_rows(source.rows)}: confirm each line,"]
    said += [f"then load it below, with loader.load({table!r}, from_seed=False)"]
    said += [] if key else [_key_of_two(connection, source)]
    lines = [_declaration(each, each is key, references.get(each.name, "")) for each in columns]
    notes = ["; ".join(each.notes) for each in columns]
    cells = [
        _cell(said, f"create table contract.{table} (", lines, notes, ")"),
        _view([], table, [(each.name, each) for each in columns], name),
    ]
    for other, contract in declared.items():
        taken = {column: _nearest(column, columns) for column in contract.column_names}
        if len([each for each in taken.values() if each]) > 1:
            said = [f"or {name} as the declared {other}"]
            cells.append(_view(said, other, [*taken.items()], name))
    return cells


def _nearest(name: str, columns: Sequence[_Seen]) -> _Seen | None:
    """The column with the most similar name, if any is similar."""
    near = get_close_matches(name, [each.name for each in columns], n=1, cutoff=0.85)
    return next((each for each in columns if each.name in near), None)


def _view(said: Sequence[str], table: str, pairs: Sequence[tuple[str, _Seen | None]], name: str) -> str:
    given = [f"{each.expression if each else 'null'} as {column}" for column, each in pairs]
    notes = ["" if each else "from which column?" for _, each in pairs]
    begin = f"create view mapping.{table} as\nselect"
    return _cell(said, begin, given, notes, f"from source.{quoted(name)}")


def _cell(said: Sequence[str], begin: str, items: Sequence[str], notes: Sequence[str], end: str) -> str:
    """A cell of comments: a statement around items with their notes."""
    ended = [*(f"{item}," for item in items[:-1]), items[-1]]
    pairs = zip(ended, notes, strict=True)
    listed = [f"    {item}" + (f"  -- {note}" if note else "") for item, note in pairs]
    lines = ["%%sql", *(f"-- {each}" for each in said), *begin.split("\n"), *listed, end]
    return "\n".join(f"# {line}" for line in lines)


def _declaration(seen: _Seen, is_key: bool, reference: str) -> str:
    words = [seen.name, seen.type]
    words += ["primary key"] if is_key else ["not null"] if seen.is_filled else []
    return " ".join([*words, *([f"references {reference}"] if reference else [])])


def _references(
    connection: duckdb.DuckDBPyConnection, source: _Source, others: Sequence[_Source]
) -> dict[str, tuple[str, str]]:
    """The columns whose values are all keys of another source, each with the source and its key."""
    found: dict[str, tuple[str, str]] = {}
    for column, other in product(source.columns, others):
        key = other.key
        if other is source or column is source.key or column.name in found or not key:
            continue
        if {column.type, key.type} == {"varchar"}:
            foreign = f"select {quoted(column.column)} as key from {quoted(source.name)}"
            known = f"select {quoted(key.column)} as key from {quoted(other.name)}"
            lost = f"from ({foreign}) anti join ({known}) using (key) where key is not null limit 1"
            if not connection.execute(lost).fetchone():
                found[column.name] = other.name, f"contract.{_plain_name(other.name)} ({key.name})"
    return found


def _ordered(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[_Source]
) -> Iterator[tuple[_Source, dict[str, str]]]:
    """The sources with their references, each after those that it refers to; cycles are left out."""
    left = [(source, _references(connection, source, sources)) for source in sources]
    before: set[str] = set()
    while left:
        source, references = min(left, key=lambda each: len({to for to, _ in each[1].values()} - before))
        left = [each for each in left if each[0] is not source]
        yield source, {column: key for column, (to, key) in references.items() if to in before}
        before.add(source.name)


def _key_of_two(connection: duckdb.DuckDBPyConnection, source: _Source) -> str:
    """A pair of columns that is unique together, in words."""
    for one, two in combinations([each for each in source.columns if each.is_filled], 2):
        pair = f"({quoted(one.column)}, {quoted(two.column)})"
        found = connection.execute(f"select count(distinct {pair}) from {quoted(source.name)}")
        if found.fetchone() == (source.rows,):
            return f"no column is a key, but {one.name} and {two.name} are one together"
    return "no column is a key, and no two columns together are one"
