"""The input contract, read back from the tables that `01_build` declares in schema `contract`.

The DDL is the only place that lists columns, types, keys, references and rules. What loading and the
structural checks need to know comes from DuckDB's catalog: `duckdb_columns()`, `duckdb_constraints()`.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import duckdb

from mart_helpers.errors import StateError

SCHEMA = "contract"

#: The prefixes that a comment of the contract may begin with, one after the other.
TABLE_PREFIXES: tuple[str, ...] = ("inferred", "optional")
COLUMN_PREFIXES: tuple[str, ...] = ("history",)

#: The column of a staging table with the first day on which a row of a dimension is valid.
FILE_DAY = "file_day"


#: Names that columns cannot have: DuckDB's own, and two with a meaning in checks.
_TAKEN = {"rowid", "skipped_because", "found_in_words"}


class Comment(NamedTuple):
    """A comment of the contract: the words before a colon that mean something, and the sentence."""

    prefixes: frozenset[str] = frozenset()
    sentence: str = ""


class Column(NamedTuple):
    """A declared column, its name in lower case; `default` is SQL text, or None if it has none."""

    name: str
    type: str
    is_required: bool
    default: str | None
    comment: Comment = Comment()

    @property
    def is_needed(self) -> bool:
        """Whether each row of an extract must have a value: there is neither a null nor a default."""
        return self.is_required and self.default is None


class Reference(NamedTuple):
    """A foreign key: the values of its columns must be those of `table_columns` in a row of `table`."""

    columns: tuple[str, ...]
    table: str
    table_columns: tuple[str, ...]


class Rule(NamedTuple):
    """A declared `check`: an SQL expression that no row may make false, over `columns`."""

    expression: str
    columns: tuple[str, ...]

    @property
    def words(self) -> str:
        """The expression as people write it, without the casts and capitals that the catalog adds."""
        plain = re.sub(r"CAST\('([^']*)' AS \w+\)", r"\1", self.expression)
        plain = re.sub(r"\b(BETWEEN|AND|OR|NOT|IN|IS|NULL)\b", lambda m: m[0].lower(), plain)
        return plain[1:-1] if plain.startswith("(") and plain.endswith(")") else plain


class Table(NamedTuple):
    """One declared input: its columns in order, its key, what else is unique, references and rules."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    references: tuple[Reference, ...] = ()
    rules: tuple[Rule, ...] = ()
    comment: Comment = Comment()

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the declared order."""
        return tuple(column.name for column in self.columns)

    @property
    def key_types(self) -> tuple[str, ...]:
        """The types of the columns of the key."""
        types = {column.name: column.type for column in self.columns}
        return tuple(types[name] for name in self.key)

    @property
    def id_names(self) -> set[str]:
        """Names of the columns whose values several rows may share: keys and references."""
        referring = (reference.columns for reference in self.references)
        return {name for names in (self.key, *self.uniques, *referring) for name in names}

    @property
    def history_names(self) -> tuple[str, ...]:
        """Names of the columns whose change makes a new version of a member; empty without history."""
        return tuple(each.name for each in self.columns if "history" in each.comment.prefixes)

    @property
    def is_optional(self) -> bool:
        """Whether the table is empty, not an error, if it has no file."""
        return "optional" in self.comment.prefixes

    @property
    def has_days(self) -> bool:
        """Whether its staging table has the first day on which a row is valid, as dimensions do."""
        return self.name.startswith("dim_")

    @property
    def required_names(self) -> set[str]:
        """Names of the columns that an extract must have: those without a default."""
        return {column.name for column in self.columns if column.default is None}


def declared_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the declared inputs, in the order of their declaration."""
    rows = connection.execute(
        "select table_name from duckdb_tables() "
        "where database_name = current_database() and schema_name = ? order by table_oid",
        [SCHEMA],
    )
    return [name for (name,) in rows.fetchall()]


def declared_keys(
    connection: duckdb.DuckDBPyConnection, database: str | None = None
) -> dict[str, tuple[str, ...]]:
    """The natural key of each input that the attached `database` declares, in declaration order."""
    rows = connection.execute(
        """
        select table_name, list_transform(constraint_column_names, lambda name: lower(name))
        from duckdb_constraints()
        where
            database_name = coalesce(?, current_database())
            and schema_name = ?
            and constraint_type = 'PRIMARY KEY'
        order by table_oid
        """,
        [database, SCHEMA],
    )
    return {table: tuple(names) for table, names in rows.fetchall()}


def read_contract(connection: duckdb.DuckDBPyConnection, table: str) -> Table:
    """The declaration of `table` in schema `contract`.

    Raises StateError if the table or its key is not declared, or if a comment has an unknown prefix.
    """
    constraints = _constraints(connection, table)
    # trying a query would abort the transaction of a cell
    if not constraints and table not in declared_tables(connection):
        raise StateError(
            f"{SCHEMA}.{table} is not declared. Run the cell that creates it, or correct the name "
            f"(declared: {', '.join(declared_tables(connection)) or 'nothing'})."
        )
    keys = [tuple(names) for kind, names, *_ in constraints if kind == "PRIMARY KEY"]
    if not keys:
        raise StateError(f"{SCHEMA}.{table} needs a primary key.")
    columns, comment = _columns(connection, table), _comment_of(connection, table)
    if "inferred" in comment.prefixes and table.startswith("fact_"):
        raise StateError(
            f"{SCHEMA}.{table}: only members of a dimension can be inferred, not rows of a fact."
        )
    if taken := _TAKEN & {column.name for column in columns}:
        raise StateError(
            f"{SCHEMA}.{table}: {', '.join(taken)} has a meaning of its own in DuckDB or in checks. "
            "Give the column another name."
        )
    found = Table(
        name=table,
        columns=columns,
        key=keys[0],
        uniques=tuple(tuple(names) for kind, names, *_ in constraints if kind == "UNIQUE"),
        references=tuple(
            Reference(tuple(names), other, tuple(other_names))
            for kind, names, _, other, other_names in constraints
            if kind == "FOREIGN KEY"
        ),
        rules=tuple(
            Rule(expression, tuple(dict.fromkeys(names)))
            for kind, names, expression, *_ in constraints
            if kind == "CHECK"
        ),
        comment=comment,
    )
    _refuse_odd_history(found)
    return found


def refuse_lengths(table: str, statements: Iterable[str]) -> None:
    """Raise StateError if one of these declares a text of limited length: DuckDB ignores the limit."""
    for statement in statements:
        plain = re.sub(r"--[^\n]*|'[^']*'", "", statement)
        if re.search(rf'create\b.*\btable\s+{SCHEMA}\."?{table}\b', plain, re.IGNORECASE) and (
            found := re.search(r"\b\w*char\w*( varying)?\s*\(\s*(\d+)\s*\)", plain, re.IGNORECASE)
        ):
            raise StateError(
                f"{SCHEMA}.{table}: DuckDB does not keep the length of {found[0].lower()}. Declare the "
                f"column as varchar, with check (length(…) <= {found[2]})."
            )


def _refuse_odd_history(table: Table) -> None:
    place = f"{SCHEMA}.{table.name}"
    if table.history_names and not table.has_days:
        raise StateError(f'{place}: "history:" is for the columns of a dimension. Remove it.')
    if marked := {*table.key} & {*table.history_names}:
        raise StateError(f'{place}.{min(marked)}: a key has no history. Remove "history:".')
    if table.has_days and FILE_DAY in table.column_names:
        raise StateError(f"{place}: its staging table adds a column {FILE_DAY}. Rename yours.")


def referred_columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, ...]]:
    """The columns of `table` that other declared tables refer to, each set of columns once."""
    rows = connection.execute(
        """
        select distinct list_transform(referenced_column_names, lambda name: lower(name))
        from duckdb_constraints()
        where
            database_name = current_database()
            and schema_name = ?
            and constraint_type = 'FOREIGN KEY'
            and referenced_table = ?
            and table_name <> referenced_table
        order by all
        """,
        [SCHEMA, table],
    )
    return [tuple(names) for (names,) in rows.fetchall()]


def read_comment(text: str | None, known: Iterable[str], what: str) -> Comment:
    """The comment of `what`, which may begin with the `known` prefixes.

    A prefix is a single word before a colon and a blank, as in `optional: one row per store`. Raises
    StateError for one that is not known.
    """
    prefixes, sentence, known = set(), (text or "").strip(), [*known]
    while found := re.match(r"(\w+):(?:\s+|$)", sentence):
        if found[1] not in known:
            expected = ", ".join(f'"{prefix}:"' for prefix in known) or "none"
            raise StateError(
                f'{what}: its comment begins with "{found[1]}:", which means nothing '
                f"there (known: {expected}). Correct it, or write the sentence without the colon."
            )
        prefixes.add(found[1])
        sentence = sentence[found.end() :]
    return Comment(frozenset(prefixes), sentence)


def ascends_sql(relation: str, key: str) -> str:
    """A query that is true if each key of the relation is greater than the previous one.

    Then no key repeats, and the query takes a fraction of the time of grouping; otherwise some may.
    """
    return (
        "select count_if(ascends) >= count(*) - 1 "
        f"from (select {key} > lag({key}) over () as ascends from {relation})"
    )


def _comment_of(connection: duckdb.DuckDBPyConnection, table: str) -> Comment:
    ((text,),) = connection.execute(
        "select comment from duckdb_tables() "
        "where database_name = current_database() and schema_name = ? and table_name = ?",
        [SCHEMA, table],
    ).fetchall()
    return read_comment(text, TABLE_PREFIXES, f"{SCHEMA}.{table}")


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[Column, ...]:
    rows = connection.execute(
        """
        select lower(column_name), data_type, not is_nullable, column_default, comment
        from duckdb_columns()
        where database_name = current_database() and schema_name = ? and table_name = ?
        order by column_index
        """,
        [SCHEMA, table],
    ).fetchall()
    for name, type_name, *_ in rows:
        if not form_of(type_name):
            raise StateError(
                f"{SCHEMA}.{table}: {name} is declared as {type_name.lower()}, which has no strict "
                f"form as text. Declare it as one of {DECLARABLE}; a list of allowed words is a varchar "
                "with a check."
            )
    return tuple(
        Column(*column, read_comment(comment, COLUMN_PREFIXES, f"{SCHEMA}.{table}.{column[0]}"))
        for *column, comment in rows
    )


def _constraints(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple]:
    return connection.execute(
        """
        select
            constraint_type,
            list_transform(constraint_column_names, lambda name: lower(name)),
            expression,
            referenced_table,
            list_transform(referenced_column_names, lambda name: lower(name)),
        from duckdb_constraints()
        where database_name = current_database() and schema_name = ? and table_name = ?
        order by constraint_index
        """,
        [SCHEMA, table],
    ).fetchall()


#: White space, as `str.strip` defines it.
BLANKS = "".join(character for character in map(chr, range(0x3001)) if character.isspace())

_SIGNED_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")

_UNSIGNED_TYPES = tuple(f"U{name}" for name in _SIGNED_TYPES)

_BINARY_TYPES = ("FLOAT", "DOUBLE")

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"

_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{0,6}0*)?)?"


class Form(NamedTuple):
    """The form of texts of a type: an RE2 pattern (None for any text), and the same in words."""

    pattern: str | None
    words: str


_FORMS = {
    "VARCHAR": Form(None, "text"),
    "DATE": Form(rf"{_DAY}([ T]{_TIME.replace('{0,6}0*', '+')})?", "a date (yyyy-mm-dd)"),
    "TIMESTAMP": Form(rf"{_DAY}([ T]{_TIME})?", "a timestamp (yyyy-mm-dd hh:mm:ss, at most 6 decimals)"),
    "TIME": Form(_TIME, "a time of day (hh:mm:ss, at most 6 decimals)"),
    "BOOLEAN": Form("(?i)true|false", "true or false"),
    "UUID": Form("(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a uuid (8-4-4-4-12 hex digits)"),
    **{
        name: Form(r"[+-]?[0-9]+(\.0*)?", f"a whole number ({name.lower()})")
        for name in (*_SIGNED_TYPES, *_UNSIGNED_TYPES)
    },
    **{
        name: Form(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", f"a plain number ({name.lower()})")
        for name in _BINARY_TYPES
    },
}

#: The types that a column may be declared with, in words.
DECLARABLE = ", ".join(["decimal(…, …)", *(name.lower() for name in _FORMS)])


def form_of(type_name: str) -> Form | None:
    """The form that a text must have to become a value of DuckDB's type `type_name`.

    None for a type without a strict form; no column may be declared with such a type.
    """
    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", type_name):
        digits, scale = map(int, decimal.groups())
        return Form(
            rf"[+-]?[0-9]*(\.[0-9]{{0,{scale}}}0*)?",
            f"a plain number (at most {digits - scale} digits before and {scale} after the point)",
        )
    return _FORMS.get(type_name)


def trimmed_sql(text: str) -> str:
    """SQL for the text expression `text` without surrounding white space, like `str.strip`."""
    return f"trim({text}, '{BLANKS}')"


def id_sql(text: str) -> str:
    """SQL for the id in the text expression `text`: trimmed, and null if nothing is left.

    Trimming is slow, so text that begins and ends with a visible ASCII character is not trimmed.
    """
    is_plain = f"{text} between '!' and '~' and {text}[-1] between '!' and '~'"
    return f"case when {is_plain} then {text} else nullif({trimmed_sql(text)}, '') end"


def cast_sql(text: str, type_name: str, cast: str | None = None) -> str:
    """SQL that turns the text expression `text` into a value of `type_name`, or null.

    White space around a value is ignored. `cast` is SQL for DuckDB's own `try_cast` of the text, if that
    is already computed.
    """
    if type_name == "VARCHAR":
        return text
    cast = cast or f"try_cast({text} as {type_name})"
    form = form_of(type_name)
    if not form:
        return cast
    trimmed = trimmed_sql(text)
    value = f"left({trimmed}, 10)" if type_name == "DATE" else trimmed
    fits = f"regexp_full_match({trimmed}, '{form.pattern}')"
    if type_name in _BINARY_TYPES:
        fits += f" and isfinite(try_cast({value} as {type_name}))"
    is_plain = _is_plain(text, cast, type_name)
    return (
        f"case {f'when {is_plain} then {cast}' if is_plain else ''} "
        f"when {fits} then try_cast({value} as {type_name}) end"
    )


def _is_plain(text: str, cast: str, type_name: str) -> str | None:
    """SQL for a quick test, cheaper than a pattern: is the text exactly how DuckDB writes its value?

    None for types for which this test is not enough, for example the time `24:00:00`.

    DuckDB writes all decimals of a decimal; the text may leave out zeros at the end.
    """
    written = f"{cast}::varchar"
    if type_name == "DATE":  # `infinity` and years with five digits would pass the test, too
        return f"{written} = {text} and {cast} between date '0001-01-01' and date '9999-12-31'"
    if type_name.startswith("DECIMAL"):
        return f"starts_with({written}, {text})"
    if type_name in _BINARY_TYPES:
        return f"{written} = {text} and isfinite({cast})"
    if type_name in ("TIMESTAMP", "TIME", "BOOLEAN", "UUID"):
        return None
    return f"{written} = {text}"
