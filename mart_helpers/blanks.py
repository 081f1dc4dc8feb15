"""Is there white space around any value of a CSV file? To look takes less than to trim each id."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mart_helpers.values import BLANKS

_NARROW = [ord(blank) for blank in BLANKS if blank.isascii() and blank not in "\r\n"]
_WIDE = [blank.encode() for blank in BLANKS if not blank.isascii()]
_BLOCK = 1 << 20
_OVERLAP = 3  # the bytes of the longest blank; more than a blank and what stands on either side


def may_hold_blanks(path: Path, delimiter: str) -> bool:
    """Whether there may be white space at an end of a value; False only where there certainly is none.

    One that stands at an end has a delimiter, a line end or a quote beside it. White space beyond ASCII
    is found wherever it stands, and line ends beside quotes count: they may be within.
    """
    edges = _set(b'\r\n"' + delimiter.encode())
    return any(_holds_blanks(block, edges) for block in _blocks(path))


def _set(characters: bytes) -> np.ndarray:
    """Of each byte, whether it is one of the characters."""
    return np.isin(np.arange(256), list(characters))


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in overlapping blocks, with a line end behind the last value."""
    before = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield before + block
            before = (before + block)[-_OVERLAP:]
    yield before + b"\n"


def _holds_blanks(block: bytes, edges: np.ndarray) -> bool:
    array = np.frombuffer(block, dtype=np.uint8)
    if any(blank in block and _is_beside(array, blank, edges) for blank in _NARROW):
        return True
    if _QUOTE in block and _is_beside(array, _QUOTE, _LINE_ENDS):
        return True
    if block.isascii():
        return False
    wide = array[array > 0x7F].tobytes()  # in UTF-8, whole characters, one behind the other
    return any(blank in wide for blank in _WIDE)


def _is_beside(array: np.ndarray, character: int, edges: np.ndarray) -> bool:
    (places,) = np.nonzero(array == character)
    inner = places[(places > 0) & (places < len(array) - 1)]
    return bool((edges[array[inner - 1]] | edges[array[inner + 1]]).any())


_QUOTE = ord('"')
_LINE_ENDS = _set(b"\r\n")
