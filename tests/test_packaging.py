"""The files that set up an environment say the same, and the environment is what they say."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Packages that conda-forge calls by another name; its plain `matplotlib` would bring Qt along.
CONDA_NAMES = {
    "python-duckdb": "duckdb",
    "matplotlib-base": "matplotlib",
    "playwright-python": "playwright",
}
LOCK_LINE = re.compile(
    r"""\#.*                                      # header
    | \s+\#\ .*                                   # who asks for it
    | [a-z0-9-]+(\[[a-z]+\])?==[\w.]+ (\ ;\ [^/@]+)?\ \\  # name[extra]==version ; marker
    | \s{4}--hash=sha256:[0-9a-f]{64}(\ \\)?""",
    re.VERBOSE,
)


PEERS = "tests/benchmarks/requirements-peers"
SERVERS = "tests/cluster/requirements-servers"
LOCKS = [
    *(f"requirements{name}.lock" for name in ("", "-dev", "-app", "-cluster")),
    *(f"{PEERS}.lock", f"{SERVERS}.lock"),
]


def pins(requirements: list[str]) -> dict[str, str]:
    """Name and version of each `name==version`; anything looser is an error."""
    return dict(requirement.split("==") for requirement in requirements)


RUN_PINS = pins(PROJECT["dependencies"])
EXTRAS = {name: pins(extra) for name, extra in PROJECT["optional-dependencies"].items()}
APP_PINS = RUN_PINS | EXTRAS["app"]
DEV_PINS = RUN_PINS | EXTRAS["lab"] | EXTRAS["test"]
CLUSTER_PINS = RUN_PINS | EXTRAS["cluster"]
PEER_PINS, SERVER_PINS = (
    pins(re.findall(r"^\w.*$", (ROOT / f"{name}.in").read_text("utf-8"), re.MULTILINE))
    for name in (PEERS, SERVERS)
)


def locked_versions(lock: str) -> dict[str, set[str]]:
    """Versions per package; more than one where they depend on the Python."""
    versions: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text("utf-8").splitlines():
        if found := re.match(r"([a-z0-9-]+)(?:\[\w+\])?==([\w.]+)", line):
            versions.setdefault(found[1], set()).add(found[2])
    return versions


def make(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    # What an outer `make test` was told is not for this one.
    inherited = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=inherited | variables, capture_output=True, text=True
    )


def test_conda_users_get_the_packages_of_pyproject_at_its_versions_from_conda_forge_alone() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    found = pins([spec for spec in environment["dependencies"] if "==" in spec])
    assert {CONDA_NAMES.get(name, name): pin for name, pin in found.items()} == DEV_PINS | APP_PINS
    others = [spec for spec in environment["dependencies"] if "==" not in spec]
    assert others == [f"python {PROJECT['requires-python']}", "pip", {"pip": ["-e ."]}]
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_a_lock_holds_each_pin() -> None:
    pins_of = [RUN_PINS, DEV_PINS, APP_PINS, CLUSTER_PINS, PEER_PINS, SERVER_PINS]
    for lock, expected in zip(LOCKS, pins_of, strict=True):
        locked = locked_versions(lock)
        assert {name: locked.get(name) for name in expected} == {n: {v} for n, v in expected.items()}


def test_a_lock_has_pins_with_hashes_and_no_place_to_load_from() -> None:
    for lock in LOCKS:
        text = (ROOT / lock).read_text("utf-8")
        assert [line for line in text.splitlines() if not LOCK_LINE.fullmatch(line)] == [], lock
        packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
        assert len(packages) >= len(locked_versions(lock)) > 0, lock
        assert [package for package in packages if "--hash=sha256:" not in package] == [], lock


def test_the_tests_run_on_the_versions_of_a_batch_run() -> None:
    run, dev = locked_versions("requirements.lock"), locked_versions("requirements-dev.lock")
    assert {name: dev.get(name) for name in run} == run


def test_the_app_can_be_installed_beside_the_tests() -> None:
    app, dev = locked_versions("requirements-app.lock"), locked_versions("requirements-dev.lock")
    assert {name: app[name] for name in app if name in dev} == {n: dev[n] for n in dev if n in app}


def test_the_cluster_extra_has_the_versions_of_a_batch_run_and_of_the_server() -> None:
    cluster, run = locked_versions("requirements-cluster.lock"), locked_versions("requirements.lock")
    assert {name: cluster.get(name) for name in run} == run
    assert SERVER_PINS["pyspark"] == CLUSTER_PINS["pyspark-client"]


def test_the_benchmarks_measure_against_the_engines_of_a_batch_run() -> None:
    shared = PEER_PINS.keys() & RUN_PINS.keys()
    assert shared == {"duckdb", "numpy", "pandas"}
    assert {name: PEER_PINS[name] for name in shared} == {name: RUN_PINS[name] for name in shared}


def test_the_installed_versions_are_the_pinned_ones() -> None:
    assert {name: version(name) for name in DEV_PINS} == DEV_PINS


def test_make_help_names_each_target_with_a_sentence_and_none_is_taken_for_a_file() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shown = dict(re.findall(r"^make ([a-z-]+) +(\S.*\.)$", make().stdout, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets == set(shown) == set(phony.split())


def make_in_a_new_folder(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    for name in ["Makefile", "pyproject.toml", "requirements.lock"]:
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return make("run", cwd=folder, **variables)


def test_make_names_the_way_out_where_python_is_too_old_or_missing(tmp_path: Path) -> None:
    failed = make_in_a_new_folder(tmp_path, PYTHON="no-such-python")
    assert failed.returncode != 0
    assert '"no-such-python" is not Python 3.11 or newer. Install one' in failed.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_names_the_way_out_where_python_lacks_venv(tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError('left out, as Debian does')\n")
    failed = make_in_a_new_folder(tmp_path, PYTHON=sys.executable, PYTHONPATH=str(tmp_path))
    assert failed.returncode != 0
    assert "apt install python3-venv" in failed.stderr
    assert not (tmp_path / ".venv").exists()


def test_ruff_finds_nothing_to_mend(subtests: pytest.Subtests) -> None:
    for check in [["check"], ["format", "--check"]]:
        with subtests.test(check[0]):
            ruff = [sys.executable, "-m", "ruff", *check, "--output-format", "concise"]
            found = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
            assert found.returncode == 0, found.stdout


def test_continuous_integration_can_start_its_script() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_workflow_runs_the_commands_of_the_readme_on_each_python_and_nbval_by_itself() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert matrix == {"os": ["ubuntu-latest", "macos-latest"], "python": ["3.11", "3.12", "3.13"]}
    commands = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in jobs.items()}
    assert commands["tests"] == ["make run", "make test"]
    assert commands["notebooks"][-1] == "pytest --nbval notebooks"


def test_a_container_opens_jupyterlab_on_the_first_notebook() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert container["postCreateCommand"] == "make run"
    assert container["postAttachCommand"].startswith("make lab ")
    lab = make("--dry-run", "lab", "LAB_ARGS=--no-browser").stdout
    assert "/lab/tree/notebooks/01_build.ipynb" in lab
    assert lab.endswith(" --no-browser\n")
    assert (ROOT / "notebooks" / "01_build.ipynb").exists()


def test_commit_hooks_download_nothing_and_find_what_they_run() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    (tests,) = (shlex.split(hook["entry"]) for hook in hooks if "pytest" in hook["entry"])
    collected = subprocess.run(
        [sys.executable, *tests[1:], "--collect-only"], cwd=ROOT, capture_output=True, text=True
    )
    assert re.search(r"^[1-9]\d*/\d+ tests collected", collected.stdout, re.MULTILINE)
