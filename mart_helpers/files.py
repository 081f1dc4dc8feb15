"""Writing files whole or not at all: a name never stands for half a file.

What is written goes to a part file beside its target, and takes the target's place by a rename.
"""

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

from filelock import lock_descriptor

from mart_helpers.errors import StateError
from mart_helpers.parameters import shown

try:
    from fcntl import F_FULLFSYNC, fcntl  # macOS, whose fsync stops at the disk's own cache
except ImportError:
    F_FULLFSYNC = None

_BLOCK = 1 << 18  # larger ones are slower: the system then fetches new memory for each

_MAY_CHANGE = 4 << 20

_SECONDS_BETWEEN_LOOKS = 0.05


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path to write to, beside `target`, that replaces it in one step when the block is done.

    Until then the target stays as it is, and for good where the block raises or the process dies.
    Raises StateError where the folder or the disk do not let it be written.
    """
    with whole_files([target]) as (part,):
        yield part


@contextmanager
def whole_files(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """As `whole_file`, for several: all are complete on disk before the first target is replaced.

    They are replaced in the order given, so the last can vouch for the others.
    """
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context(_part(target)) for target in targets]
            yield parts
            for part in parts:
                sync(part)
            for part, target in zip(parts, targets, strict=True):
                os.replace(part, target)
            for folder in {target.parent for target in targets}:
                sync(folder)
    except OSError as error:
        raise StateError(
            f"{shown(targets[0].parent)} cannot be written to: {error.strerror or error}. "
            "Make room or make it writable, or name another folder."
        ) from error


@contextmanager
def second_part(part: Path) -> Iterator[Path]:
    """Another path to write to for the target of `part`; its file is gone after the block.

    If the process dies, the next one that writes to the target removes it, as `part` itself.
    """
    name, *_ = part.name.removeprefix(".").rsplit(".", 2)
    with _part(part.with_name(name)) as second:
        yield second


def join_files(first: Path, second: Path, end: bytes, seam: bytes, begin: bytes) -> None:
    """Append a file to another, a `seam` in place of the first one's `end` and the second's `begin`.

    Raises ValueError where they do not end and begin like that.
    """
    with first.open("rb+") as whole, second.open("rb") as rest:
        whole.seek(-len(end), os.SEEK_END)
        if whole.read() != end or rest.read(len(begin)) != begin:
            raise ValueError(f"{first.name} and {second.name} do not fit together")
        whole.seek(-len(end), os.SEEK_END)
        whole.write(seam)
        whole.truncate()
        shutil.copyfileobj(rest, whole, _BLOCK)


@contextmanager
def hashed_meanwhile(path: Path) -> Iterator[Future]:
    """Size and SHA-256 of a file that the block writes from start to end, but for its last megabytes.

    They are there when the block is done. The last four megabytes may be changed until then.
    """
    is_whole = Event()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(_hash_as_it_grows, path, is_whole)
        try:
            yield found
        finally:
            is_whole.set()


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_as_it_grows(path: Path, is_whole: Event) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while True:
            ended = is_whole.is_set()
            ready = path.stat().st_size - (0 if ended else _MAY_CHANGE)
            while size < ready and (block := file.read(min(_BLOCK, ready - size))):
                digest.update(block)
                size += len(block)
            if ended:
                return size, digest.hexdigest()
            is_whole.wait(_SECONDS_BETWEEN_LOOKS)


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """A new, empty file beside `target`, locked for as long as it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        with suppress(OSError):  # some network drives know no locks: nothing is swept there
            lock_descriptor(descriptor)
        if os.name == "nt":  # a file that is locked or open can there neither be written nor renamed
            os.close(descriptor)
        yield part
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the parts of processes that were killed: nobody holds the lock of such a part."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError), part.open("rb+") as file:
            if lock_descriptor(file.fileno(), blocking=False):
                part.unlink()


def sync(path: Path) -> None:
    """Wait until the file or the folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor) if F_FULLFSYNC is None else fcntl(descriptor, F_FULLFSYNC)
    finally:
        os.close(descriptor)
