"""The recipes of docs/nights.md do what the page says: each is run as its scheduler would run it.

The crontab runs all notebooks; the other recipes differ in what is around the command, which here is
one that runs a single notebook.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from conftest import CHECKOUT, put_mart, query

PAGE = (CHECKOUT / "docs" / "nights.md").read_text()
needs_jq = pytest.mark.skipif(not shutil.which("jq"), reason="the recipe needs jq")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, sample_mart: Path) -> Path:
    """The home of a user who has built a mart in `~/mini-data-mart`, with `mart` on the PATH there."""
    folder = tmp_path_factory.mktemp("user")
    project = folder / "mini-data-mart"
    for part in ("notebooks", "inputs"):
        shutil.copytree(CHECKOUT / part, project / part)
    script = project / ".venv" / "bin" / "mart"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mart "$@"\n')
    script.chmod(0o755)
    put_mart(sample_mart, project)
    return folder


def run(command: str, user: Path, cwd: Path, shell: str = "sh", **more: str):
    """The command in a shell, as a scheduler runs it for that user."""
    project = user / "mini-data-mart"
    environment = os.environ | {
        "HOME": str(user),
        "MART_HOME": str(project),
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{project / '.venv/bin'}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [shell, "-c", command],
        cwd=cwd,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=300,
    )


def shortened(command: str, to: str) -> str:
    """The recipe with a command of one notebook in place of `mart all`."""
    assert "mart all " in command
    return command.replace("mart all ", f"mart {to} ")


def verdict_on(user: Path) -> tuple[str, int]:
    """The day for which freshness was asked last, and the number of the last build."""
    project = user / "mini-data-mart"
    executed = max((project / "data" / "runs").glob("*/04_quality.ipynb"))
    (asked,) = re.findall(r'as_of_date = \\"([\d-]+)\\"', executed.read_text())
    database = project / "data" / "mini_data_mart.duckdb"
    return asked, query(database, "select max(build_id) from build_log")[0][0]


def today() -> str:
    return f"{date.today():%Y-%m-%d}"


def cron_line(crontab: str) -> tuple[list[str], str]:
    """The times and the command of the only line: for cron, a bare `%` would end the command."""
    (line,) = [each for each in crontab.splitlines() if not re.match(r"\w+=", each)]
    *times, command = line.split(None, 5)
    assert not re.search(r"(?<!\\)%", command)
    return times, command.replace(r"\%", "%")


def test_the_crontab_builds_writes_a_log_and_mails_the_end_of_a_bad_night(user):
    (crontab,) = blocks("cron")
    times, command = cron_line(crontab)
    assert times == ["15", "2", "*", "*", "*"]
    done = run(command, user, cwd=user)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (user / "mart.log").read_text()
    assert re.search(r"^[\d-]{10} [\d:]{8}  01_build  Publish  [\d.]+ s$", log, re.MULTILINE)
    assert re.search(r"^dashboard +data/pages/dashboard.html$", log, re.MULTILINE)
    asked, build = verdict_on(user)
    assert asked == today()
    inputs = user / "mini-data-mart" / "inputs"
    inputs.rename(user / "gone")
    try:
        bad = run(command, user, cwd=user)
    finally:
        (user / "gone").rename(inputs)
    assert "mart: inputs: there is no such folder" in bad.stdout, "cron mails what is printed"
    assert verdict_on(user)[1] == build


def test_the_units_of_systemd_build_every_night(user, tmp_path):
    service, timer = blocks("ini")
    unit = configparser.RawConfigParser(delimiters="=")
    unit.optionxform = str
    unit.read_string(service)
    place = unit["Service"]["WorkingDirectory"].replace("%h", str(user))
    words = shlex.split(unit["Service"]["ExecStart"])
    words = [word.replace("$$", "$").replace("%%", "%") for word in words]
    assert words[:2] == ["/bin/sh", "-c"]
    done = run(shortened(words[2], "quality"), user, cwd=Path(place))
    assert done.returncode == 0, done.stderr
    assert verdict_on(user)[0] == today()
    if analyze := shutil.which("systemd-analyze"):
        for name, text in (("mart.service", service), ("mart.timer", timer)):
            (tmp_path / name).write_text(text)
        units = [tmp_path / "mart.service", tmp_path / "mart.timer"]
        found = subprocess.run([analyze, "verify", *units], capture_output=True, text=True)
        assert (found.returncode, found.stderr) == (0, "")


@needs_jq
def test_the_workflow_installs_what_there_is_builds_and_keeps_the_results(user, tmp_path):
    (text,) = blocks("yaml")
    workflow = yaml.safe_load(text)
    steps = workflow["jobs"]["night"]["steps"]
    *installs, night = [step["run"] for step in steps if "run" in step]
    ours = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    known = [step for job in ours.values() for step in job["steps"]]
    assert installs[0] == "pip install --require-hashes -r requirements.lock"
    assert installs[1] in [step.get("run") for step in known]
    assert (CHECKOUT / "requirements.lock").exists()
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses[:2] == [step["uses"] for step in known[:2]]
    shown = tmp_path / "summary.md"
    project = user / "mini-data-mart"
    night = shortened(night, "quality")
    done = run(night, user, cwd=project, shell="bash", GITHUB_STEP_SUMMARY=str(shown))
    assert done.returncode == 0, done.stderr
    report = json.loads((project / "data" / "quality" / "quality_report.json").read_text())
    counts = report["counts"]
    assert re.search(rf"\b{counts['checks']}\b|\b{counts['pass']}\b", shown.read_text())
    for path in steps[-1]["with"]["path"].split():
        assert (project / path).exists()


@needs_jq
def test_the_mail_has_the_headline_and_what_was_printed(user, tmp_path):
    (command,) = [block for block in blocks("sh") if "mail -s" in block]
    stand_in = tmp_path / "mail"
    stand_in.write_text('#!/bin/sh\n{ printf "%s\\n" "$@"; cat; } > "$HOME/mailed"\n')
    stand_in.chmod(0o755)
    project = user / "mini-data-mart"
    path = f"{tmp_path}:{project / '.venv/bin'}:{os.environ['PATH']}"
    done = run(shortened(command, "build"), user, cwd=project, PATH=path)
    assert done.returncode == 0, done.stderr
    subject, address, headline, *lines = (user / "mailed").read_text().splitlines()[1:]
    assert (subject, address) == ("Data mart", "me@example.org")
    assert headline
    assert any(" loaded, " in line for line in lines)


class Chat(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    def do_POST(self):
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_chat_hears_of_news_and_of_nothing_else(user, tmp_path):
    (script,) = blocks("python")
    tell = tmp_path / "tell"
    tell.write_text(script)
    tell.chmod(0o755)
    chat = HTTPServer(("127.0.0.1", 0), Chat)
    chat.heard = []
    Thread(target=chat.serve_forever, daemon=True).start()
    project = user / "mini-data-mart"
    shutil.copy(tell, project / "tell")
    address = f"http://127.0.0.1:{chat.server_port}/hook"

    def night(*words: str) -> int:
        command = shlex.join(["mart", "build", "--notify", "./tell", *words])
        return run(command, user, cwd=project, CHAT_WEBHOOK=address, no_proxy="*").returncode

    assert night("--stage", "1") == 0
    assert night("--inputs-dir", "nowhere") == 1
    quiet = {"verdict": "pass", "headline": "All passed.", "is_changed": False}
    subprocess.run([tell], input=json.dumps(quiet), text=True, check=True)
    chat.shutdown()
    good, bad = (each["text"] for each in chat.heard)
    assert re.match(r"Data mart, (pass|warn): ", good)
    assert bad.startswith("Data mart, fail: nowhere: there is no such folder")
