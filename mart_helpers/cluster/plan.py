"""Whether a select makes its rows one by one from those of a single large table, by DuckDB's own plan.

Then the files of that table can be asked one by one, each beside the small tables.
"""

from collections.abc import Collection, Iterator

from mart_helpers.errors import QueryError

_ROW_BY_ROW = {"PROJECTION", "FILTER", "ORDER_BY", "UNNEST"}

# Which side of a join may be the large one: the first (0), the second (1), or both.
_FIRST, _BOTH = (0,), (0, 1)
_SIDES = {"INNER": _BOTH, "RIGHT": (1,), "LEFT": _FIRST, "SEMI": _FIRST, "ANTI": _FIRST}
_SIDES |= {"MARK": _FIRST, "SINGLE": _FIRST}

_IN_WORDS = {
    "WINDOW": "a window function",
    "GROUP_BY": "a group by or distinct",
    "AGGREGATE": "an aggregate",
    "LIMIT": "a limit",
    "TOP_N": "a limit",
    "SAMPLE": "a sample",
    "UNION": "a union",
    "EXCEPT": "an except",
    "INTERSECT": "an intersect",
    "JOIN": "a join in which the large table is not the one that keeps its rows",
}


def refuse_other_rows(made: str, plan: dict, large: Collection[str]) -> str | None:
    """Which of the tables `large` the plan reads; None if it reads none.

    Raises QueryError, naming the construct, if a row needs others of the table, or if there are several.
    """
    reading = _Reading(made, large)
    if "nextval(" in str(plan):
        raise reading.refusal("a sequence")
    found = reading.read_by(plan)
    if len(found) > 1:
        raise reading.refusal("several large tables")
    return found[0] if found else None


class _Reading:
    def __init__(self, made: str, large: Collection[str]) -> None:
        self._made, self._large = made, large
        self._steps: dict[str, list[str]] = {}

    def refusal(self, construct: str) -> QueryError:
        return QueryError(
            f"{self._made} cannot be made on a cluster, file by file, because of {construct}. Make its "
            "rows one by one from those of one large table, or build without cluster."
        )

    def read_by(self, node: dict) -> list[str]:
        """The large tables that a step of the plan reads, row by row."""
        name, details, children = node["name"], node["extra_info"], node["children"]
        if name == "SEQ_SCAN":
            table = details["Table"].split(".", 2)[-1].strip('"')
            return [table] if table in self._large else []
        if name == "CTE_SCAN":
            return self._steps.get(details["CTE Index"], [])
        found = [*self._read_in_turn(name, details, children)]
        sides = [side for side, tables in enumerate(found) if tables]
        if name == "CTE":
            return found[1]
        allowed = _BOTH if name == "CROSS_PRODUCT" else _FIRST if name in _ROW_BY_ROW else ()
        if name.endswith("JOIN") and name != "POSITIONAL_JOIN":
            allowed = _SIDES.get(details.get("Join Type", ""), ())
        if not {*sides} <= {*allowed}:
            raise self.refusal(
                next((words for end, words in _IN_WORDS.items() if name.endswith(end)), name)
            )
        return [table for tables in found for table in tables]

    def _read_in_turn(self, name: str, details: dict, children: list[dict]) -> Iterator[list[str]]:
        for child in children:
            found = self.read_by(child)
            if name == "CTE" and details["Table Index"] not in self._steps:
                self._steps[details["Table Index"]] = found
            yield found
