"""Removes what the notebooks have generated, and nothing else."""

import re
import shutil
from pathlib import Path

from mart_helpers.errors import StateError
from mart_helpers.inspecting import is_duckdb
from mart_helpers.project import shown
from mart_helpers.running import run_folders

# Beside the mart: DuckDB's log, unpublished builds, the mart before, the lock of a build.
SIBLING = re.compile(r"\.wal|\.candidate.*|\.previous.*|\.lock")
EXPORT = re.compile(r"(csv|json|parquet|xlsx)-export", re.IGNORECASE)


def generated(database: Path, data_dir: Path) -> list[Path]:
    """Files of the mart at `database`, and folders of its outputs in `data_dir`.

    Raises StateError where `database` is something else than a DuckDB database.
    """
    if database.exists() and not is_duckdb(database):
        raise StateError(
            f"{shown(database)}: not a DuckDB database, so nothing was removed. "
            "Give the path of the mart: --database data/mini_data_mart.duckdb"
        )
    beside = [
        each
        for each in _entries(database.parent)
        if each.name.startswith(database.name)
        and SIBLING.fullmatch(each.name.removeprefix(database.name))
    ]
    mart = [database] if database.is_file() or database.is_symlink() else []
    quality = [each for each in [data_dir / "quality"] if each.is_dir()]
    folders = export_folders(data_dir) + quality + _runs(data_dir / "runs")
    return sorted(mart + beside) + folders


def export_folders(data_dir: Path) -> list[Path]:
    """Folders in `data_dir` that exports have made, ordered by name."""
    return sorted(each for each in _entries(data_dir) if each.is_dir() and EXPORT.fullmatch(each.name))


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; of a link, the link alone.

    Raises StateError where it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(
            f"{shown(path)}: {error.strerror}. Make it writable, or remove it yourself."
        ) from error


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _runs(folder: Path) -> list[Path]:
    """The folder of executed notebooks; only those runs where it holds other things as well."""
    ours = run_folders(folder)
    return [folder] if ours and len(ours) == len(_entries(folder)) else ours
