"""The input contract, read back from the tables that `01_build` declares in schema `contract`.

The DDL is the only place that lists columns, types, keys, references and rules. What loading and the
structural checks need to know comes from DuckDB's catalog: `duckdb_columns()`, `duckdb_constraints()`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

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
        "select table_name, constraint_column_names from duckdb_constraints() "
        "where database_name = coalesce(?, current_database()) and schema_name = ? "
        "and constraint_type = 'PRIMARY KEY' order by table_oid",
        [database, SCHEMA],
    )
    return {table: tuple(map(str.lower, names)) for table, names in rows.fetchall()}


def read_contracts(connection: duckdb.DuckDBPyConnection) -> dict[str, Table]:
    """All declared inputs by name, in the order of their declaration. Raises like `read_contract`."""
    return {name: read_contract(connection, name) for name in declared_tables(connection)}


def read_contract(connection: duckdb.DuckDBPyConnection, table: str) -> Table:
    """The declaration of `table` in schema `contract`.

    Raises StateError if the table or its key is not declared, or if a declaration means nothing here: a
    type without a strict form as text, an unknown prefix of a comment.
    """
    # trying a query would abort the transaction of a cell
    found = connection.execute(_DECLARATION, {"schema": SCHEMA, "table": table}).fetchall()
    if not found:
        raise StateError(
            f"{SCHEMA}.{table} is not declared. Run the cell that creates it, or correct the name "
            f"(declared: {', '.join(declared_tables(connection)) or 'nothing'})."
        )
    ((comment, columns, constraints),) = found
    place, of_kind = f"{SCHEMA}.{table}", defaultdict(list)
    for kind, *constraint in map(dict.values, constraints or ()):
        of_kind[kind].append(constraint)
    read = Table(
        name=table,
        columns=tuple(_column(place, **column) for column in columns),
        key=next((tuple(names) for names, *_ in of_kind["PRIMARY KEY"]), ()),
        uniques=tuple(tuple(names) for names, *_ in of_kind["UNIQUE"]),
        references=tuple(
            Reference(tuple(names), other, tuple(other_names))
            for names, _, other, other_names in of_kind["FOREIGN KEY"]
        ),
        rules=tuple(
            Rule(expression, tuple(dict.fromkeys(names))) for names, expression, *_ in of_kind["CHECK"]
        ),
        comment=read_comment(comment, TABLE_PREFIXES, place),
    )
    if problem := _problem_of(read):
        raise StateError(f"{place}{problem}")
    return read


def _column(place: str, name: str, type: str, comment: str | None, **others: Any) -> Column:
    if not form_of(type):
        raise StateError(
            f"{place}: {name} is declared as {type.lower()}, which has no strict form as text. "
            f"Declare it as one of {DECLARABLE}; a list of allowed words is a varchar with a check."
        )
    prefixed = read_comment(comment, COLUMN_PREFIXES, f"{place}.{name}")
    return Column(name, type, **others, comment=prefixed)


def _problem_of(table: Table) -> str:
    """What is wrong with a declaration as a whole, to be said after its name; empty if nothing is."""
    names = {*table.column_names}
    if not table.key:
        return " needs a primary key."
    if "inferred" in table.comment.prefixes and table.name.startswith("fact_"):
        return ": only members of a dimension can be inferred, not rows of a fact."
    if taken := _TAKEN & names:
        return (
            f": {', '.join(taken)} has a meaning of its own in DuckDB or in checks. Give the column "
            "another name."
        )
    if table.history_names and not table.has_days:
        return ': "history:" is for the columns of a dimension. Remove it.'
    if marked := {*table.key} & {*table.history_names}:
        return f'.{min(marked)}: a key has no history. Remove "history:".'
    if table.has_days and FILE_DAY in names:
        return f": its staging table adds a column {FILE_DAY}. Rename yours."
    return ""


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


_DECLARATION = """
select
    comment,
    (
        select list(
            {
                name: lower(column_name),
                type: data_type,
                is_required: not is_nullable,
                'default': column_default,
                comment: comment
            }
            order by column_index
        )
        from duckdb_columns()
        where database_name = current_database() and schema_name = $schema and table_name = $table
    ),
    (
        select list(
            {
                kind: constraint_type,
                columns: list_transform(constraint_column_names, lambda name: lower(name)),
                expression: expression,
                other: referenced_table,
                other_columns: list_transform(referenced_column_names, lambda name: lower(name))
            }
            order by constraint_index
        )
        from duckdb_constraints()
        where database_name = current_database() and schema_name = $schema and table_name = $table
    )
from duckdb_tables()
where database_name = current_database() and schema_name = $schema and table_name = $table
"""

#: White space, as `str.strip` defines it.
BLANKS = "".join(character for character in map(chr, range(0x3001)) if character.isspace())

_BINARY_TYPES = ("FLOAT", "DOUBLE")

_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"

_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{0,6}0*)?)?"


class Form(NamedTuple):
    """The form of texts of a type: an RE2 pattern, and the same in words.

    `is_plain` is SQL for a quick test, cheaper than the pattern: is {text} exactly how DuckDB writes its
    value {cast}? For some types this is not enough, for example for the time `24:00:00`.
    """

    pattern: str
    words: str
    is_plain: str = "false"


_WRITTEN = "{cast}::varchar = {text}"

_FORMS = {
    "VARCHAR": Form(".*", "text"),
    # `infinity` and years with five digits are written as they are, too
    "DATE": Form(
        rf"{_DAY}([ T]{_TIME.replace('{0,6}0*', '+')})?",
        "a date (yyyy-mm-dd)",
        f"{_WRITTEN} and {{cast}} between date '0001-01-01' and date '9999-12-31'",
    ),
    "TIMESTAMP": Form(rf"{_DAY}([ T]{_TIME})?", "a timestamp (yyyy-mm-dd hh:mm:ss, at most 6 decimals)"),
    "TIME": Form(_TIME, "a time of day (hh:mm:ss, at most 6 decimals)"),
    "BOOLEAN": Form("(?i)true|false", "true or false"),
    "UUID": Form("(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a uuid (8-4-4-4-12 hex digits)"),
    **{
        name: Form(r"[+-]?[0-9]+(\.0*)?", f"a whole number ({name.lower()})", _WRITTEN)
        for sign in ("", "U")
        for name in (f"{sign}{size}" for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"))
    },
    **{
        name: Form(
            r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)",
            f"a plain number ({name.lower()})",
            f"{_WRITTEN} and isfinite({{cast}})",
        )
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
            # DuckDB writes all decimals; the text may leave out zeros at the end
            "starts_with({cast}::varchar, {text})",
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
    form, trimmed = form_of(type_name), trimmed_sql(text)
    value = f"left({trimmed}, 10)" if type_name == "DATE" else trimmed
    fits = f"regexp_full_match({trimmed}, '{form.pattern}')"
    if type_name in _BINARY_TYPES:
        fits += f" and isfinite(try_cast({value} as {type_name}))"
    return (
        f"case when {form.is_plain.format(text=text, cast=cast)} then {cast} "
        f"when {fits} then try_cast({value} as {type_name}) end"
    )
