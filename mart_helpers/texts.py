"""Wording and quoting that several modules share."""

import glob
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it is slow, and `--help` does not need it
    from duckdb import DuckDBPyConnection

PERCENTAGE = "_pct"  # ending of the names of figures in percent


def did_you_mean(word: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    """` Did you mean …?` with the closest of the `known` words; empty if none is close."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {spell(near[0])}?" if near else ""


def quoted(name: str) -> str:
    """`name` as a quoted SQL identifier; it may contain any character."""
    return '"' + name.replace('"', '""') + '"'


def row_sql(columns: Sequence[str], relation: str = "") -> str:
    """SQL that makes these columns one comparable value: a single column as it is, several as a row."""
    names = [f"{relation}.{quoted(name)}" if relation else quoted(name) for name in columns]
    return names[0] if len(names) == 1 else f"row({', '.join(names)})"


def row_text_sql(columns: Sequence[str], relation: str = "") -> str:
    """SQL for the values of these columns as one text, separated by commas; null if all are null."""
    texts = [f"{row_sql([name], relation)}::varchar" for name in columns]
    return texts[0] if len(texts) == 1 else f"nullif(concat_ws(', ', {', '.join(texts)}), '')"


def literal(text: str | Path) -> str:
    """`text` as an SQL string, for the statements that take no parameters, such as `attach`."""
    return "'" + str(text).replace("'", "''") + "'"


def parsed(connection: "DuckDBPyConnection", sql: str) -> dict[str, Any]:
    """The syntax tree of a `select`, as DuckDB's parser gives it; empty if it gives none."""
    (text,) = connection.execute("select json_serialize_sql($1::varchar)", [sql]).fetchone()
    tree = json.loads(text)
    return {} if tree["error"] else tree


def tree_sql(connection: "DuckDBPyConnection", tree: Mapping[str, Any]) -> str:
    """The `select` of a syntax tree."""
    text = json.dumps(tree)
    return connection.execute("select json_deserialize_sql($1::json)", [text]).fetchone()[0]


def expression_sql(connection: "DuckDBPyConnection", node: Mapping[str, Any]) -> str:
    """The SQL of an expression in a syntax tree, without its alias."""
    tree = parsed(connection, "select 1")
    tree["statements"][0]["node"]["select_list"] = [{**node, "alias": ""}]
    return tree_sql(connection, tree).removeprefix("SELECT ")


def file_literal(path: Path) -> str:
    """`path` as an SQL string for DuckDB's readers, which treat `*`, `?` and `[` as a pattern."""
    return literal(glob.escape(str(path)))


def in_words(name: str) -> str:
    """The name of a column as ordinary words."""
    return name.replace(PERCENTAGE, ", %").replace("_", " ")


def first_of(rows: int, place: str, reason: str) -> str:
    """How many rows have a fault and where the first one is: `2 rows, the first at a.csv, line 3: …`."""
    return f"{f'{rows:,} rows, the first' if rows > 1 else '1 row,'} at {place}: {reason}"


def one_line(text: str, limit: int = 200) -> str:
    """`text` on one line, safe for a terminal; a long text loses its middle.

    Line ends, control characters and invisible characters become escapes like `\\n`.
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 60]} … {plain[-57:]}"


def visible(text: str) -> str:
    """`text` safe for a terminal: control characters are written as escapes, so none takes effect."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1]
        for character in text
    )


def size_text(path: Path) -> str:
    """Size of a file, or of all files in a folder, like `1.2 MB` (1 MB = 1,000,000 bytes)."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    size = float(sum(each.lstat().st_size for each in files if not each.is_dir()))
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """`rows` of texts as lines with aligned columns; each text goes through `one_line`."""
    shown = [[one_line(text, limit=10_000) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = (
        indent + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in shown
    )
    return "\n".join(line.rstrip() for line in lines)
