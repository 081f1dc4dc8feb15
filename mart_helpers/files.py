"""Writes files completely or not at all, so that no name ever refers to half a file.

The data goes to a part file next to its target, and a rename puts it in the target's place.
"""

import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from mart_helpers.errors import StateError
from mart_helpers.parameters import shown

try:
    from fcntl import F_FULLFSYNC, fcntl  # macOS, whose fsync stops at the disk's own cache
except ImportError:
    F_FULLFSYNC = None


def write_files(contents: Mapping[Path, str | bytes]) -> list[Path]:
    """Write these contents, text as UTF-8, as `whole_files` does; returns the paths."""
    with whole_files(list(contents)) as parts:
        for part, content in zip(parts, contents.values(), strict=True):
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(contents)


@contextmanager
def whole_files(
    targets: Sequence[Path], outdated: Callable[[], Iterable[Path]] = list
) -> Iterator[list[Path]]:
    """Paths to write to that replace these targets at the end of the block: all of them or none.

    The targets are in a folder and its subfolders. If the block raises or the process dies, they stay as
    they are. Raises StateError if the folder or the disk cannot be written.

    All are complete on disk before the first is replaced. They are replaced in the order given, so the
    last can list the others; just before it, the files in `outdated` are removed. If one cannot be
    replaced, all are restored. If two processes write the same targets, the later one replaces
    everything that the other wrote (on Windows, which cannot lock folders, file by file).
    """
    try:
        with ExitStack() as stack:
            parts = [stack.enter_context(_part(target)) for target in targets]
            yield parts
            for part in parts:
                sync(part)
            folders = sorted({target.parent for target in targets})
            with ExitStack() as locks:
                for folder in folders:
                    locks.enter_context(sole_writer(folder))
                _replace(parts, targets, sorted({*outdated()} - {*targets}))
            for folder in folders:
                with suppress(OSError):  # all files are in place, though perhaps not yet on disk
                    sync(folder)
    except OSError as error:
        raise _not_writable(targets[0].parent, error) from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block for a folder; the others wait.

    Windows cannot lock folders, so nobody waits there. Raises StateError if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = None if os.name == "nt" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        with suppress(OSError):  # some network drives know no locks
            if descriptor is not None:
                lock_descriptor(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _not_writable(folder: Path, error: OSError) -> StateError:
    return StateError(
        f"{shown(folder)} cannot be written to: {error.strerror or error}. "
        "Free disk space, make it writable, or name another folder."
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file or the folder is on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        if F_FULLFSYNC is not None:
            with suppress(OSError):  # network drives do not support it
                fcntl(descriptor, F_FULLFSYNC)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(parts: Sequence[Path], targets: Sequence[Path], outdated: Sequence[Path]) -> None:
    """Put each part in its target's place and remove outdated files, or leave everything unchanged."""
    *swaps, last = zip(parts, targets, strict=True)
    # before the last target, which may be the only file that names them
    swaps += [*((None, path) for path in outdated), last]
    with ExitStack() as stack:
        # a single rename either happens or not
        backups = [stack.enter_context(_backup(target)) for _, target in swaps if len(swaps) > 1]
        done = 0
        try:
            for part, target in swaps:
                os.replace(part, target) if part else target.unlink(missing_ok=True)
                done += 1
        except OSError:
            for backup, (_, target) in zip(backups[:done], swaps, strict=False):
                os.replace(backup, target) if backup else target.unlink(missing_ok=True)
            raise


@contextmanager
def _backup(target: Path) -> Iterator[Path | None]:
    """A second name for the present file, if there is one, until the end of the block."""
    if not os.path.lexists(target):
        yield None
        return
    backup = _part_path(target)
    try:
        os.link(target, backup)
    except OSError:  # the file system has no links, or this is not a file
        shutil.copy2(target, backup)
    try:
        yield backup
    finally:
        backup.unlink(missing_ok=True)


def _part_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")


@contextmanager
def _part(target: Path) -> Iterator[Path]:
    """A new, empty file next to `target`, locked as long as it exists."""
    part = _part_path(target)
    with sole_writer(target.parent):  # so that nobody removes it as abandoned before it is locked
        _remove_abandoned(target)
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):  # some network drives have no locks; nothing is swept there
            lock_descriptor(descriptor)
    try:
        if os.name == "nt":  # Windows can neither write nor rename a locked or open file
            os.close(descriptor)
        yield part
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the part files of killed processes, which nobody has locked."""
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError), part.open("rb+") as file:
            if lock_descriptor(file.fileno(), blocking=False):
                part.unlink()
