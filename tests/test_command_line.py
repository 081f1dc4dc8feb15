"""What the command line prints, refuses and runs; the notebooks are tiny ones but where it says so."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from test_running import write_notebook

from mart_helpers.cli import main
from mart_helpers.cli import mart as mart_group
from mart_helpers.texts import size_text

ROOT = Path(__file__).resolve().parents[1]
DATABASE = 'database: str = "data/mini_data_mart.duckdb"  # the mart'
DATA_DIR = 'data_dir: str = "data"  # folder of the results'
DATES = 'start_date: str = ""  # first day, 100 % ISO\nend_date: str = ""  # last day'
BUILD = f"""\
stage: int = 3  # one of 1, 2, 3: 1 seed rows, 2 sales from CSV, 3 every table from CSV
inputs_dir: str = "inputs"  # folder with the CSV extracts
max_rejected_share: float = 0.1  # share of bad rows that stops the build
drops_only: bool = False  # refuse only falls
fail_on: str = "error"  # publish nothing from this severity on, one of error, warn
{DATABASE}"""
QUALITY = f'fail_on: str = "error"  # one of error, warn, never: what stops\n{DATABASE}\n{DATA_DIR}'
SET_UP = """\
from pathlib import Path
from mart_helpers.errors import CheckFailed
from mart_helpers.parameters import resolve
def write(folder, *values):
    resolve(folder).mkdir(parents=True, exist_ok=True)
    (resolve(folder) / "values.txt").write_text(" ".join(map(str, values)))"""
SUMMARY = """\
print("rows    4 read, 3 loaded, 1 in quarantine")
print("        1 × sale_id is missing")
print("checks  2 of 2 passed")  # summary"""


BUILD_LOG = "create table build_log (build_id integer, built_at timestamp)"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project with five tiny notebooks that write down the values they were given."""
    folder = tmp_path / "home"
    notebooks = {
        "01_build": (
            BUILD,
            "write('log/build', stage, inputs_dir, database, drops_only, fail_on)",
            f"import duckdb\nduckdb.connect(resolve(database)).execute('{BUILD_LOG}')",
            SUMMARY,
        ),
        "02_explore": (
            f"{DATES}\ntop_n: int = 10\n{DATABASE}",
            "write('log/explore', top_n)",
            "print(top_n, 'sale lines')  # summary",
        ),
        "03_export": (
            f'{DATES}\nformats: str = "csv,json"\n{DATABASE}\n{DATA_DIR}',
            "write(Path(data_dir) / 'CSV-export', start_date, formats)",
        ),
        "04_quality": (
            QUALITY,
            "write(Path(data_dir) / 'quality', fail_on)",
            "if fail_on == 'warn':\n    raise CheckFailed('3 sales without a day.')",
        ),
        "05_dashboard": (f"{DATABASE}\n{DATA_DIR}", "print('one page')  # summary"),
    }
    for name, (parameters, *cells) in notebooks.items():
        path = folder / "notebooks" / f"{name}.ipynb"
        write_notebook(path, parameters, SET_UP, "# Write\n\nand more", *cells)
    monkeypatch.setenv("MART_HOME", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def mart(capfd):
    """Runs a command in this process, as `mart WORDS` does in its own."""

    def run(*words: str) -> Done:
        capfd.readouterr()
        status = main(list(words))
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Done(status, said.out, said.err)

    return run


def without_times(text: str) -> list[str]:
    text = re.sub(r"\d+\.\d+ s", "N s", text)
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", text, flags=re.MULTILINE).splitlines()


def on_one_line(text: str) -> str:
    return " ".join(text.split())


def test_help_imports_nothing_heavy(home):
    code = (
        "import sys\n"
        "from mart_helpers.cli import main\n"
        "assert main(['--help']) == main(['all', '--help']) == main(['reset', '--help']) == 0\n"
        "heavy = {'papermill', 'nbconvert', 'nbformat', 'jupyter_client', 'IPython'}\n"
        "heavy |= {'duckdb', 'pandas', 'matplotlib', 'jinja2'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("set()\n")


def test_the_help_lists_every_command_and_says_what_the_exit_statuses_mean(home, mart):
    done = mart("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  (\w+)  +[A-Z]", done.stdout, re.MULTILINE)
    assert listed == list(mart_group.commands)
    assert {"build", "explore", "export", "dashboard", "all", "report", "trace", "break"} <= set(listed)
    assert {"0", "1", "2", "130"} <= {*re.findall(r"\d+", done.stdout.partition("Exit status")[2])}
    assert '"$(_MART_COMPLETE=bash_source mart)"' in done.stdout
    assert mart() == mart("help") == mart("-h") == done


def test_the_help_of_a_command_shows_its_notebooks_parameters(home, mart):
    done = mart("build", "--help")
    text = on_one_line(done.stdout)
    assert "--stage [1|2|3] one of 1, 2, 3: 1 seed rows" in text
    assert "--inputs-dir PATH folder with the CSV extracts [default: inputs]" in text
    assert "--max-rejected-share FLOAT" in text
    assert "--data-dir PATH" in text
    assert "--drops-only / --no-drops-only" in text
    assert mart("help", "build") == done
    explore = on_one_line(mart("explore", "--help").stdout)
    assert '--start-date YYYY-MM-DD first day, 100 % ISO [default: ""]' in explore
    assert "--top-n INT [default: 10]" in explore
    trace = on_one_line(mart("trace", "--help").stdout)
    assert "TABLE KEY" in trace
    assert "--inputs-dir PATH folder with the CSV extracts [default: inputs]" in trace
    assert "--stage" not in trace


def test_commands_options_and_choices_can_be_completed(home, mart, monkeypatch):
    def completed(*words: str) -> list[str]:
        monkeypatch.setenv("_MART_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["mart", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return mart().stdout.split()

    assert completed("build", "--max") == ["plain,--max-rejected-share"]
    assert completed("quality", "--fail-on", "w") == ["plain,warn"]
    assert completed("build", "--database", "da") == ["file,da"]


def test_the_version_is_that_of_the_project(mart):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mart("--version").stdout == f"mart {project['version']}\n"
    assert project["scripts"] == {"mart": "mart:run"}


def test_a_wrong_call_says_so_before_anything_runs(home, mart, subtests):
    for words, message in [
        (["biuld"], "No such command 'biuld'. Did you mean 'build'? See `mart --help`."),
        (["trace", "fact_sales", "S1", "--stage", "1"],
            "No such option '--stage'. See `mart trace --help"),
        (["build", "--stage", "4"], "Invalid value for '--stage': '4' is not one of '1', '2', '3'."),
        (["export", "--start-date", "2024-02-01", "--end-date=2024-01-01"],
            "The start date 2024-02-01 is after the end date 2024-01-01."),
        (["all", "--formats", "csv,cvs"], 'formats: found "cvs", expected some of csv'),
        (["generate", "--sales", "9", "--out", ""], '--out: found "", expected the path of a file'),
        (["trace", "fact_sales"], "Missing argument 'KEY'."),
        (["build", "--notify", " "], '--notify: found "", expected a command.'),
        (["all", "--show-code"], "--show-code needs a page to show the code on: add --html."),
    ]:  # fmt: skip
        with subtests.test(message):
            done = mart(*words)
            assert done.returncode == 2
            assert done.stderr.startswith(f"mart: {message}")
            assert done.stderr.count("\n") == 1
            assert done.stdout == ""
            assert not (home / "data").exists()


def test_a_python_without_the_packages_is_told_how_to_get_them():
    done = subprocess.run(
        [sys.executable, "-S", "-m", "mart", "build"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("mart: No module named 'click'. This Python lacks the project's pack")


def test_all_runs_each_notebook_with_its_own_values_and_says_where_the_results_are(
    home, mart, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    options = ["--stage", "2", "--top-n", "3", "--start-date", "2024-01-01", "--inputs-dir", "in"]
    done = mart("all", *options, "--drops-only", "--data-dir", "out", "--database=data/m.duckdb")
    assert done.returncode == 0
    said = (home / "log/build/values.txt").read_text()
    assert said == f"2 {tmp_path}/in {tmp_path}/data/m.duckdb True error"
    assert (home / "log/explore/values.txt").read_text() == "3"
    out = tmp_path / "out"
    assert (out / "CSV-export/values.txt").read_text() == "2024-01-01 csv,json"
    assert (out / "quality/values.txt").read_text() == "error"
    (run,) = (out / "runs").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}Z-all", run.name)
    notebooks = ["01_build", "04_quality", "02_explore", "03_export", "05_dashboard"]
    assert {each.stem for each in run.iterdir()} == set(notebooks)
    assert without_times(done.stderr) == [
        line
        for name in notebooks
        for line in (f"{name}  N s", f"{name}  Write  N s", f"{name}  done in N s")
    ]
    assert without_times(done.stdout) == [
        "01_build      N s",
        "04_quality    N s",
        "02_explore    N s",
        "03_export     N s",
        "05_dashboard  N s",
        "rows          4 read, 3 loaded, 1 in quarantine",
        "              1 × sale_id is missing",
        "checks        2 of 2 passed",
        "explore       3 sale lines",
        f"mart          {tmp_path}/data/m.duckdb ({size_text(tmp_path / 'data/m.duckdb')})",
        f"exports       {out}/CSV-export, {out}/JSON-export",
        f"quality       {out}/quality",
        f"executed      {run}",
        "next          make lab opens the notebooks, make app shows the mart with controls",
        "dashboard     one page",
    ]


def test_pages_of_all_notebooks_are_written_when_all_have_run(home, mart):
    (home / "data").mkdir()
    assert mart("all", "--html", "--fail-on", "warn", "--database", "data/other").returncode == 1
    assert not (home / "data" / "pages").exists()
    done = mart("all", "--html")
    names = ["01_build", "04_quality", "02_explore", "03_export", "05_dashboard"]
    pages = [f"data/pages/{name}.html" for name in names]
    assert [line.split()[-1] for line in done.stdout.splitlines()[-7:-2]] == pages
    assert done.stdout.splitlines()[-7].startswith("page          data")
    assert all("<h1>Write</h1>" in (home / page).read_text() for page in pages)


def test_all_stops_at_the_first_failure(home, mart):
    (home / "data").mkdir()
    done = mart("all", "--fail-on", "warn")
    assert done.returncode == 1
    assert without_times(done.stderr) == [
        "01_build  N s",
        "01_build  Write  N s",
        "01_build  done in N s",
        "04_quality  N s",
        "04_quality  Write  N s",
        "04_quality  stopped after N s",
        "mart: 3 sales without a day.",
    ]
    assert done.stdout == ""
    assert not (home / "log/explore").exists()


def test_a_choice_that_one_notebook_lacks_leaves_it_its_default(home, mart):
    (home / "data").mkdir()
    assert "--fail-on [error|warn|never]" in mart("all", "--help").stdout
    assert mart("all", "--fail-on", "never").returncode == 0
    assert (home / "log/build/values.txt").read_text().endswith(" error")
    assert (home / "data/quality/values.txt").read_text() == "never"
    done = mart("build", "--fail-on", "never")
    assert done.returncode == 2
    assert "--fail-on': 'never' is not one of 'error', 'warn'" in done.stderr


def test_generate_lists_the_files_it_wrote_below_the_callers_folder(home, mart, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = mart("generate", "--sales", "50", "--out", "sample")
    assert done.returncode == 0
    lines = [re.sub(r" +", " ", line) for line in done.stdout.splitlines()]
    files = sorted((tmp_path / "sample").iterdir())
    assert [line.split(" (")[0].split()[0] for line in lines] == [str(file) for file in files]
    assert all(re.search(r" (\d+ bytes|\d+\.\d kB)$", line) for line in lines)
    assert mart("generate", "--sales=50", "--out=again", "--seed=99").returncode == 0
    assert (tmp_path / "again/fact_sales.csv").read_text() != files[-1].read_text()


def test_without_its_packages_the_app_says_how_to_install_them(home, mart, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    refused = mart("app")
    assert refused.returncode == 1
    assert re.search(r"not installed \(\w+\)\. Run `make app`, or `pip install", refused.stderr)
