"""What the bytes of a CSV file are: text in UTF-8, or something else that is refused by its name."""

import codecs
import gzip
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from mart_helpers.errors import InputError

_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
_AROUND_BYTES = 30
_GZIP = b"\x1f\x8b"
_ASCII = bytes(range(128))
_NOT_IN_WINDOWS_1252 = {0x81, 0x8D, 0x8F, 0x90, 0x9D}

#: How files of other kinds begin, by the way out. What begins with letters only is told from a header
#: by a byte that no text has. UTF-16 and UTF-32 without a mark show by their NULs, as in RFC 4627.
_KINDS = {
    "Save it as UTF-8": {
        "UTF-32 text": rb"\xff\xfe\0\0|\0\0\xfe\xff|[\t\n\r -~]\0\0\0|\0\0\0[\t\n\r -~]",
        "UTF-16 text": rb"\xff\xfe|\xfe\xff|([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}",
    },
    "Unpack it, or save the sheet as CSV (UTF-8)": {
        "a zip archive or an Excel workbook": rb"PK\x03\x04",
    },
    "Save the sheet as CSV (UTF-8)": {
        "an old Excel workbook": rb"\xd0\xcf\x11\xe0",
    },
    "Unpack it; gzip is the one packing that is read": {
        "a bzip2 file": rb"BZh[1-9]1AY&SY",
        "an xz file": rb"\xfd7zXZ\0",
        "a Zstandard file": rb"\x28\xb5\x2f\xfd",
        "an LZ4 file": rb"\x04\x22\x4d\x18",
        "a gzip file": rb"\x1f\x8b",
        "a 7-Zip archive": rb"7z\xbc\xaf\x27\x1c",
        "a RAR archive": rb"Rar!\x1a\x07",
        "a tar archive": rb".{257}ustar[\0 ]",
    },
    "Name it .parquet, without gzip around it": {
        "a Parquet file": rb"PAR1[\0-\x1f]",
    },
    "Save its rows as CSV or Parquet": {
        "a SQLite database": rb"SQLite format 3\0",
        "a DuckDB database": rb".{8}DUCK.{2}\0\0",
        "an Access database": rb"\0\x01\0\0Standard (Jet|ACE) DB",
        "an ORC file": rb"ORC(?=.*\0)",
        "an Avro file": rb"Obj\x01",
        "a Feather or Arrow file": rb"ARROW1\0\0",
        "an HDF5 file": rb"\x89HDF\r\n",
    },
    "Ask the source for CSV": {
        "a PDF document": rb"%PDF",
        "an RTF document": rb"\{\\rtf",
        "a PNG picture": rb"\x89PNG",
        "a JPEG picture": rb"\xff\xd8\xff",
        "a GIF picture": rb"GIF8[79]a",
        "JSON": rb"(\xef\xbb\xbf)?\s*[{\[]",
    },
    "Fetch the extract again": {
        "HTML or XML, often an error page in place of the extract": rb"(\xef\xbb\xbf)?\s*<",
    },
    "Run git lfs pull": {
        "a Git LFS pointer in place of the file": rb"version https://git-lfs",
    },
}


def read_head(path: Path, name: str) -> str:
    """The first megabyte of a CSV file, plain or gzipped, as text; its header is sound UTF-8.

    `name` is how people are told of the file. Raises InputError for a file that cannot be read, is
    empty, is packed otherwise than its name says, or is no text in UTF-8.
    """
    try:
        with path.open("rb") as raw:
            _refuse_wrong_packing(name, _is_gzip(path), raw.read(_HEADER_BYTES))
        with _opened(path) as file:
            head = file.read(_HEADER_BYTES)
    except PermissionError as error:
        raise InputError(f"{name}: may not be read. Give yourself the right to read it.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: cannot be read ({error}). Make a new extract.") from error
    _refuse_other_kinds(name, head, around="gzip around " if _is_gzip(path) else "")
    header_end = head.find(b"\n", len(head) - len(head.lstrip()))
    _refuse_other_encodings(path, name, head if header_end < 0 else head[:header_end])
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise InputError(f"{name} is empty. It needs a header row and rows below it.")
    _refuse_lone_returns(name, text.lstrip("\r\n").partition("\n")[0])
    return text


def refuse_eight_bit(path: Path, name: str, *, block_bytes: int = _BLOCK_BYTES) -> None:
    """Refuse a CSV file that has text beyond ASCII, none of which is UTF-8.

    Such a file is in another encoding as a whole; where some of it is UTF-8, single bytes are damaged.
    It is read once, by blocks. Raises InputError with the first line that shows it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    beyond: set[int] = set()
    first: tuple[int, int, bytes] | None = None
    lines = 1
    with _opened(path) as file:
        while block := file.read(block_bytes):
            if not decoder.decode(block).isascii():
                return
            high = block.translate(None, delete=_ASCII)
            if high and first is None:
                at = block.index(high[0])
                first = (lines + block.count(b"\n", 0, at), high[0], _around(block, at))
            beyond.update(high)
            lines += block.count(b"\n")
    if first:
        raise _eight_bit(name, beyond, *first)


def one_line(text: str, limit: int = 200) -> str:
    """`text` as a message may quote it: on one line, printable, its middle left out where it is long."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 60]} … {plain[-57:]}"


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if _is_gzip(path) else path.open("rb")


def _refuse_wrong_packing(name: str, is_gzip: bool, head: bytes) -> None:
    if head.startswith(_GZIP) and not is_gzip:
        raise InputError(f"{name}: holds gzip bytes. If that is right, name it .csv.gz.")
    if is_gzip and not head.startswith(_GZIP) and head:
        _refuse_other_kinds(name, head)
        raise InputError(f"{name}: holds no gzip bytes. If that is right, name it .csv.")


def _refuse_other_kinds(name: str, head: bytes, around: str = "") -> None:
    for way_out, kinds in _KINDS.items():
        for kind, beginning in kinds.items():
            if re.match(beginning, head, re.DOTALL):
                raise InputError(f"{name}: is {around}{kind}. {way_out}.")


def _refuse_other_encodings(path: Path, name: str, header: bytes) -> None:
    if b"\0" in header:
        raise InputError(
            f"{name}: its header holds NUL bytes: it is UTF-16, or no text. Save it as CSV (UTF-8)."
        )
    try:
        header.decode()
    except UnicodeDecodeError as error:
        refuse_eight_bit(path, name)
        raise InputError(
            f"{name}: its header is damaged: the byte {error.object[error.start]:#04x} is no UTF-8, "
            "other text in the file is. Mend the header, or make a new extract."
        ) from error


def _refuse_lone_returns(name: str, header: str) -> None:
    if "\r" in header.rstrip("\r"):
        raise InputError(
            f"{name}: its lines end with CR alone, or CR stands in the header. Convert its line ends to "
            "LF, for example with mac2unix."
        )


def _around(block: bytes, at: int) -> bytes:
    """What stands around a byte of a block, on its line."""
    before = block[max(at - _AROUND_BYTES, 0) : at].rpartition(b"\n")[2]
    return before + block[at : at + _AROUND_BYTES].partition(b"\n")[0]


def _eight_bit(name: str, beyond: set[int], line: int, byte: int, around: bytes) -> InputError:
    words, encoding = _guessed(beyond)
    text = one_line(around.decode(encoding, errors="replace"))
    return InputError(
        f"{name}: is not UTF-8 but an 8-bit encoding: {words}. Line {line} shows it first, by the byte "
        f'{byte:#04x} in "{text}" (if that reads wrong, it is yet another encoding). Save it as UTF-8, '
        f"for example with iconv -f {encoding} -t UTF-8."
    )


def _guessed(beyond: set[int]) -> tuple[str, str]:
    """An 8-bit encoding that has the bytes `beyond` ASCII, in words and as iconv calls it."""
    if beyond & _NOT_IN_WINDOWS_1252:
        return "neither Windows-1252 nor Latin-1, perhaps code page 850", "CP850"
    if min(beyond) < 0xA0:  # where Latin-1 has control characters
        return "most likely Windows-1252", "WINDOWS-1252"
    return "Latin-1 (ISO-8859-1) or Windows-1252", "ISO-8859-1"
