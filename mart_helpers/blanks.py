"""Is there white space around any value of a CSV file? To look takes less than to trim each id."""

from collections.abc import Iterator
from pathlib import Path

from mart_helpers.contract import BLANKS

_NARROW = [ord(blank) for blank in BLANKS if blank.isascii() and blank not in "\r\n"]

_WIDE = [blank.encode() for blank in BLANKS if not blank.isascii()]

_QUOTE = ord('"')

_LINE_ENDS = b"\r\n"

_BLOCK = 1 << 20

_OVERLAP = 3  # the bytes of the longest blank; more than a blank and what stands on either side


def may_hold_blanks(path: Path, delimiter: str, *, closely: bool = True) -> bool:
    """Whether there may be white space at an end of a value; False only where there certainly is none.

    One that stands at an end has a delimiter, a line end or a quote beside it. White space beyond ASCII
    is found wherever it stands, and line ends beside quotes count: they may be within. Where nobody
    looks `closely`, for which numpy is imported, all blanks, quotes and text beyond ASCII count.
    """
    edges = _LINE_ENDS + b'"' + delimiter.encode()
    return any(_holds_blanks(block, edges, closely) for block in _blocks(path))


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in overlapping blocks, with a line end behind the last value."""
    before = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield before + block
            before = (before + block)[-_OVERLAP:]
    yield before + b"\n"


def _holds_blanks(block: bytes, edges: bytes, closely: bool) -> bool:
    sought = [*((blank, edges) for blank in _NARROW), (_QUOTE, _LINE_ENDS)]
    if any(
        each in block and not (closely and _stands_within(block, each, ends)) for each, ends in sought
    ):
        return True
    return not block.isascii() and not (closely and _is_free_of_wide(block))


def _stands_within(block: bytes, character: int, edges: bytes) -> bool:
    """Whether the character has no edge beside it, wherever it stands."""
    import numpy as np

    array = np.frombuffer(block, dtype=np.uint8)
    is_edge = np.isin(np.arange(256), list(edges))
    (places,) = np.nonzero(array == character)
    inner = places[(places > 0) & (places < len(array) - 1)]
    return not (is_edge[array[inner - 1]] | is_edge[array[inner + 1]]).any()


def _is_free_of_wide(block: bytes) -> bool:
    """Whether there is no white space beyond ASCII."""
    import numpy as np

    array = np.frombuffer(block, dtype=np.uint8)
    beyond = array[array > 0x7F].tobytes()  # in UTF-8, whole characters, one behind the other
    return not any(blank in beyond for blank in _WIDE)
