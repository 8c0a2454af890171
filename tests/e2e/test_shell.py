"""`sextet sql` in a real terminal: lines, tables, errors, history, Ctrl-C, and instances that go away."""

from __future__ import annotations

import os
import sys

import psycopg
import pytest

from tests.e2e.terminal import CTRL_C, CTRL_D, UP, Terminal

pytestmark = pytest.mark.e2e

WRITER, IN_TRANSACTION, READER = "main(writer)=>", "main(writer)*>", "main(reader)=>"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n;"


def shell(cluster, *options: str) -> Terminal:
    command = [sys.executable, "-m", "cluster.cli.app", "sql", *options]
    return Terminal(command, {**os.environ, "SEXTET_DATA": str(cluster.folder.data)})


def run(terminal: Terminal, text: str, *, prompt: str = WRITER) -> None:
    """Type a line at the prompt, once it is there."""
    terminal.expect(prompt)
    terminal.type(text + "\r")


def test_lines_tables_errors_and_history(cluster):
    with shell(cluster) as terminal:
        run(terminal, "SELECT 'several',")
        terminal.expect("…")
        terminal.type("'lines' AS b, NULL AS c;\r")
        terminal.expect("│ several")
        terminal.expect("│ lines │ NULL │")
        terminal.expect("(1 row,")
        run(terminal, "SELECT * FROM nowhere;")
        terminal.expect("42P01: no such table: nowhere")
        run(terminal, 'SELECT * FROM "[/b]";')
        terminal.expect("42P01: no such table: [/b]")
        run(terminal, "\\nonsense")
        terminal.expect("there is no command \\nonsense")
        terminal.expect("Ctrl-D")
        terminal.expect(WRITER)
        terminal.type(UP + UP + UP + "\r")
        terminal.expect("42P01: no such table: nowhere")
        run(terminal, "SELECT")
        terminal.expect("…")
        terminal.type("\\q\r")
        assert terminal.until_ended() == 0
    with shell(cluster) as terminal:
        terminal.expect(WRITER)
        terminal.type(CTRL_D)
        assert terminal.until_ended() == 0
    assert "SELECT * FROM nowhere;" in cluster.folder.history.read_text()


def test_prompt_shows_the_transaction(cluster):
    with shell(cluster) as terminal:
        run(terminal, "BEGIN;")
        run(terminal, "bogus;", prompt=IN_TRANSACTION)
        run(terminal, "ROLLBACK;", prompt="main(writer)!>")
        run(terminal, "\\q")
        assert terminal.until_ended() == 0


def test_reader_refuses_writes(cluster):
    with shell(cluster, "--reader") as terminal:
        run(terminal, "CREATE TABLE no (a);", prompt=READER)
        terminal.expect("25006")
        run(terminal, "\\q", prompt=READER)
        assert terminal.until_ended() == 0


def test_ctrl_c_drops_what_is_typed_and_cancels_what_runs(cluster):
    cluster.query("CREATE TABLE busy (i)")
    with shell(cluster) as terminal, cluster.connect() as other:
        terminal.expect(WRITER)
        terminal.type("SELECT 'never sent'" + CTRL_C)
        run(terminal, "INSERT INTO busy " + ENDLESS)
        terminal.until_running()
        other.execute("SET lock_timeout = '50ms'")
        cluster.until(lambda: not can_write(other), "the statement runs: it holds the write lock")
        terminal.type(CTRL_C)
        terminal.expect("cancelled")
        cluster.until(lambda: can_write(other), "the statement has ended on the writer")
        run(terminal, "SELECT 'goes' || ' on';")
        terminal.expect("│ goes on")
        run(terminal, "\\q")
        assert terminal.until_ended() == 0
    assert cluster.query("SELECT count(*) FROM busy WHERE i > 0") == [(0,)]


def can_write(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("INSERT INTO busy VALUES (0)")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def test_shell_lives_through_a_killed_writer_and_a_stopped_cluster(new_cluster):
    cluster = new_cluster("--readers", 0)
    with shell(cluster) as terminal:
        run(terminal, "CREATE TABLE t (a);")
        run(terminal, "BEGIN;")
        run(terminal, "INSERT INTO t VALUES (1);", prompt=IN_TRANSACTION)
        terminal.expect("INSERT 0 1")
        old = cluster.kill("main-1")
        cluster.until_restarted("main-1", old)
        run(terminal, "SELECT count(*) FROM t;", prompt=IN_TRANSACTION)
        terminal.expect("the connection was lost")
        terminal.expect("connected again")
        run(terminal, "SELECT 'rows ' || count(*) FROM t;")
        terminal.expect("│ rows 0")
        terminal.expect(WRITER)
        cluster.down()
        terminal.type("SELECT 1;\r")
        terminal.expect("the connection was lost")
        terminal.expect("see `sextet status`")
        run(terminal, "SELECT 2;", prompt="main(writer)?>")
        terminal.expect("see `sextet status`")
        cluster.up()
        run(terminal, "SELECT 'back' || ' again';", prompt="main(writer)?>")
        terminal.expect("connected again")
        terminal.expect("│ back again")
        run(terminal, "\\q")
        assert terminal.until_ended() == 0
