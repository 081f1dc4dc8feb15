"""Where the project is, so that relative paths mean the same from every folder."""

import os
from pathlib import Path


def home() -> Path:
    """Folder that relative paths start from: `MART_HOME` where it is set, else the checkout."""
    return Path(os.environ.get("MART_HOME") or Path(__file__).resolve().parents[1])


def resolve(path: str | Path) -> Path:
    """Absolute path of `path`; a relative one starts at `home()`, never at the caller's folder."""
    return home() / Path(path).expanduser()


def shown(path: str | Path) -> str:
    """`path` as people are shown it: relative to `home()` where it lies below, else as it is."""
    path = resolve(path)
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)
