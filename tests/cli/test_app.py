"""The command as users start it: help, and one clear line when something cannot be done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.local import layout
from cluster.local.folder import Folder
from tests.cluster.control.test_catalog import make_layout

COMMANDS = [
    *("up", "down", "status", "failover", "events", "sql"),
    *(
        "import",
        "export",
        "restore",
        "clone",
        "backtrack",
        "log",
        "sim",
        "chaos",
        "bench",
        "version",
    ),
]


def sextet(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.app", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output
    if command not in ("sim", "bench", "version"):
        assert "--data" in result.output
        assert "SEXTET_DATA" in result.output


def test_help_names_every_command():
    result = CliRunner().invoke(app, ["--help"])
    assert all(command in result.output for command in COMMANDS)
    assert {c.name or c.callback.__name__ for c in app.registered_commands} == set(COMMANDS)


def test_help_does_not_import_what_only_a_command_needs():
    script = (
        "import sys, cluster.cli.app\n"
        "heavy = {'cluster.sim', 'grpc', 'psycopg', 'prompt_toolkit', 'asyncio', 'google.protobuf'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["sql", "-c", "SELECT 1"],
        ["import", "file.db"],
        ["export", "file.db"],
        ["log", "storage-1"],
        ["failover"],
        ["backtrack", "main", "--to-lsn", "5"],
        ["failover", "--to", "main-2"],
        ["events"],
        ["cluster", "list"],
        ["cluster", "create", "shop"],
        ["cluster", "stop", "main"],
        ["cluster", "start", "main"],
        ["cluster", "delete", "main", "--yes"],
    ],
)
def test_command_on_a_stopped_cluster_says_so_with_status_3(tmp_path, arguments):
    layout.save(tmp_path, make_layout())
    done = sextet(*arguments, "--data", tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        f"sextet: no cluster is running in {tmp_path}; start it with `sextet up`\n"
    )


def test_status_of_a_stopped_cluster_is_json_too(tmp_path):
    done = sextet("status", "--json", "--data", tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["running"] is False


def test_data_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "elsewhere"))
    assert "elsewhere" in sextet("status").stderr


def test_down_without_a_cluster_is_no_error(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        done = sextet("down", "--data", folder)
        assert done.returncode == 0
        assert "cluster" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--readers", "99"], "99 readers cannot be; choose 0 to 15"),
        (["up", "--max-storage", "huge"], "'huge' is no size"),
        (["up", "--port", "70000"], "70000 is no port number"),
    ],
)
def test_bad_option_of_up_is_one_line_and_nothing_is_made(tmp_path, arguments, says):
    done = sextet(*arguments, "--data", tmp_path)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert layout.load(tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "No such command 'nope'; see `sextet --help`"),
        (["up", "--bogus"], "No such option: --bogus; see `sextet up --help`"),
        (["up", "--port", "x"], "Invalid value for '--port'"),
        (["log"], "Missing argument 'node'; see `sextet log --help`"),
        (["log", "storage-1", "--from", str(2**64)], "Invalid value for '--from'"),
        (["log", "storage-1", "--from", "-1"], "Invalid value for '--from'"),
        (["log", "storage-1", "--page", "-1"], "Invalid value for '--page'"),
        (["log", "storage-1", "--limit", "0"], "Invalid value for '--limit'"),
        (["import"], "Missing argument 'file'"),
        (["sql", "--json"], "--json needs -c; see `sextet sql --help`"),
    ],
)
def test_wrong_call_is_one_line_with_status_2(arguments, says):
    done = sextet(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_command_at_all_shows_the_help():
    done = sextet()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr
    assert "sextet: " not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_folder_that_cannot_be_written_is_one_line(tmp_path):
    Folder.at(tmp_path).make()
    tmp_path.chmod(0o555)
    try:
        done = sextet("up", "--data", tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert done.returncode == 1
    assert "cannot be written; choose another --data" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_installation_of_another_format_is_refused(tmp_path):
    (tmp_path / layout.FILE).write_text('{"format": 7}')
    done = sextet("up", "--data", tmp_path)
    assert done.returncode == 1
    assert "has format 7, this Sextet knows 1" in done.stderr


def test_what_counts_only_at_creation_is_refused_later(tmp_path):
    layout.save(tmp_path, make_layout())
    done = sextet("up", "--readers", "5", "--data", tmp_path)
    assert done.returncode == 1
    assert "this cluster has 2 readers" in done.stderr


def test_data_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = sextet("up", "--data", tmp_path / "file" / "below")
    assert done.returncode == 1
    assert "cannot be made" in done.stderr
    assert len(done.stderr.splitlines()) == 1
