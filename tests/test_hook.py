"""The pre-commit hooks in a repository of their own, with real commits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree

import pytest
from conftest import CHECKOUT

PARTS = (".pre-commit-config.yaml", "pyproject.toml", "notebooks", "tests", "mart_helpers")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the notebooks and the hooks installed, all of it committed."""
    for part in PARTS:
        copy_of = copytree if (CHECKOUT / part).is_dir() else copy
        (tmp_path / "copy").mkdir(exist_ok=True)
        copy_of(CHECKOUT / part, tmp_path / "copy" / part)
    monkeypatch.chdir(tmp_path / "copy")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "hooks"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@localhost")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "Begin")):
        subprocess.run(["git", *command], check=True)
    subprocess.run([sys.executable, "-m", "pre_commit", "install"], check=True, capture_output=True)
    return tmp_path / "copy"


def test_a_commit_of_a_notebook_with_noise_is_refused_and_one_without_is_not(repository):
    path = repository / "notebooks" / "03_export.ipynb"
    notebook = json.loads(path.read_text())
    title, *others = notebook["cells"][0]["source"]
    notebook["cells"][0]["source"] = [title.replace("\n", ", again\n"), *others]
    noisy = notebook | {"metadata": notebook["metadata"] | {"widgets": {}}}
    write(path, noisy)
    refused = commit()
    assert refused.returncode == 1
    assert "it_carries_no_noise_of_its_run" in refused.stdout + refused.stderr
    write(path, notebook)
    accepted = commit()
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr


def write(path: Path, notebook: dict) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def commit() -> subprocess.CompletedProcess:
    return subprocess.run(["git", "commit", "-a", "-m", "Try"], capture_output=True, text=True)
