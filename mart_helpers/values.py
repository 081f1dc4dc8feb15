"""How the text of an input becomes a value of the declared type, strictly or not at all.

DuckDB's own casts take more than the contract does: `2.5` becomes the whole number 3, `infinity` and
`epoch` are dates, surplus decimals are rounded away. So the text is matched against a pattern before
it is cast, and text that does not match gives null.
"""

import re
from typing import NamedTuple

#: White space, as `str.strip` has it.
BLANKS = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
_WHOLE_TYPES = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_TIME_OF_DAY = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?"


class Form(NamedTuple):
    """What text of a type looks like: an RE2 pattern or None for any, and the same in words."""

    pattern: str | None
    words: str


def form_of(type_name: str) -> Form:
    """The form that text must have to become a value of DuckDB's type `type_name`."""
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", type_name)
    if type_name == "VARCHAR":
        return Form(None, "text")
    if type_name == "DATE":
        return Form(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T]{_TIME_OF_DAY})?", "a date (yyyy-mm-dd)")
    if type_name in _WHOLE_TYPES:
        return Form(r"[+-]?[0-9]+(\.0*)?", f"a whole number ({type_name.lower()})")
    if decimal:
        digits, scale = map(int, decimal.groups())
        return Form(
            rf"[+-]?[0-9]*(\.[0-9]{{0,{scale}}}0*)?",
            f"a plain number (at most {digits - scale} digits before and {scale} after the point)",
        )
    return Form(None, f"a {type_name.lower()}")


def trimmed_sql(text: str) -> str:
    """SQL for the text expression `text` without the white space around it, as `str.strip` has it."""
    return f"trim({text}, '{BLANKS}')"


def id_sql(text: str) -> str:
    """SQL for the id in the text expression `text`: trimmed, null where nothing is left.

    Trimming is slow, so text that begins and ends with a visible character of ASCII is spared it.
    """
    is_plain = f"{text} between '!' and '~' and {text}[-1] between '!' and '~'"
    return f"case when {is_plain} then {text} else nullif({trimmed_sql(text)}, '') end"


def cast_sql(text: str, type_name: str, cast: str | None = None) -> str:
    """SQL that turns the text expression `text` into a value of `type_name`, or null.

    White space around a value does not count. `cast` is what DuckDB's own `try_cast` makes of the text,
    where that is at hand.
    """
    if type_name == "VARCHAR":
        return text
    cast = cast or f"try_cast({text} as {type_name})"
    pattern = form_of(type_name).pattern
    if pattern is None:
        return cast
    trimmed = trimmed_sql(text)
    value = f"left({trimmed}, 10)" if type_name == "DATE" else trimmed
    return (
        f"case when {_is_plain(text, cast, type_name)} then {cast} "
        f"when regexp_full_match({trimmed}, '{pattern}') then try_cast({value} as {type_name}) end"
    )


def _is_plain(text: str, cast: str, type_name: str) -> str:
    """The quick look, cheaper than a pattern: is the text what its value would be written as?

    A decimal is written with all its decimals, of which the text may leave out zeros at the end.
    """
    written = f"{cast}::varchar"
    if type_name == "DATE":  # `infinity` and years of five digits are written as they are, too
        return f"{written} = {text} and {cast} between date '0001-01-01' and date '9999-12-31'"
    if type_name.startswith("DECIMAL"):
        return f"starts_with({written}, {text})"
    return f"{written} = {text}"
