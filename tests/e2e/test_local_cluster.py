"""A cluster as a user meets it: up, SQL on both endpoints, kill -9, down, and the data is there."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


# -- looking at a running one


def test_sql_on_both_endpoints(cluster):
    with cluster.connect() as writer:
        writer.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        writer.execute("INSERT INTO note (text) VALUES (%s), (%s)", ("six", "copies"))
        assert writer.execute("SELECT id, text FROM note").fetchall() == [(1, "six"), (2, "copies")]
    cluster.until_sql("SELECT text FROM note ORDER BY id", [("six",), ("copies",)], reader=True)


def test_second_up_says_that_it_is_running(cluster):
    printed = cluster.up()
    assert "is running already" in printed
    assert cluster.url() in printed
    assert cluster.url(reader=True) in printed


def test_status_json_has_all_that_an_operator_wants(cluster):
    report = json.loads(cluster.sextet("status", "--json").stdout)
    assert report["endpoints"] == {"writer": cluster.url(), "reader": cluster.url(reader=True)}
    assert [i["role"] for i in report["instances"]] == ["writer", "replica", "replica"]
    assert {i["state"] for i in report["instances"]} == {"available"}
    assert [i["az"] for i in report["instances"]] == ["az1", "az2", "az3"]
    assert all(i["lag_ms"] is not None for i in report["instances"] if i["role"] == "replica")
    assert [s["az"] for s in report["storage"]] == ["az1", "az1", "az2", "az2", "az3", "az3"]
    assert {s["state"] for s in report["storage"]} == {"up"}
    for row in [*report["instances"], *report["storage"]]:
        os.kill(row["pid"], 0)
        with socket.create_connection(("127.0.0.1", row["port"])):
            pass
    (group,) = report["groups"]
    assert group["write_quorum"]
    assert group["read_quorum"]
    assert report["volume"]["vdl"] > 0
    assert report["redo"]["redo_bytes"] > 0


def test_status_for_people_names_everyone(cluster):
    text = cluster.sextet("status").stdout
    for name in ["main-1", "main-3", "storage-1", "storage-6", "VDL", "read point", cluster.url()]:
        assert name in text


def test_sql_command_prints_what_programs_can_read(cluster):
    cluster.sextet("sql", "-c", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, NULL), (2, 'x')")
    rows = cluster.sextet("sql", "-c", "SELECT a, b FROM t ORDER BY a").stdout
    assert rows == "1\t\\N\n2\tx\n"
    as_json = cluster.sextet("sql", "--json", "-c", "SELECT a FROM t WHERE a = 2").stdout
    assert json.loads(as_json) == [{"a": 2}]
    assert cluster.sextet("sql", stdin="SELECT 7;").stdout == "7\n"


def test_sql_error_is_one_line_with_its_sqlstate(cluster):
    done = cluster.sextet("sql", "-c", "SELECT * FROM nowhere", check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "42P01" in done.stderr
    refused = cluster.sextet("sql", "--reader", "-c", "CREATE TABLE no (a)", check=False)
    assert "25006" in refused.stderr


def test_log_shows_the_records_of_a_commit(cluster):
    cluster.sextet("sql", "-c", "CREATE TABLE logged (a); INSERT INTO logged VALUES (1)")
    records = json.loads(cluster.sextet("log", "storage-1", "--json", "--limit", 100000).stdout)
    assert records
    lsns = [record["lsn"] for record in records]
    assert lsns == sorted(lsns)
    assert any(record["commit"] for record in records)
    page = records[-1]["page"]
    some = json.loads(
        cluster.sextet("log", "storage-2", "--json", "--page", page, "--from", lsns[-1]).stdout
    )
    assert [record["lsn"] for record in some] == [lsns[-1]]
    assert "CPL" in cluster.sextet("log", "storage-1").stdout


def test_log_of_an_unknown_node_names_the_known_ones(cluster):
    done = cluster.sextet("log", "storage-9", check=False)
    assert done.returncode == 1
    assert "storage-1" in done.stderr


def test_reader_endpoint_spreads_clients_over_the_replicas(cluster):
    open_connections = [cluster.connect(reader=True) for _ in range(6)]
    try:

        def spread() -> bool:
            return [i["connections"] for i in cluster.status()["instances"]][1:] == [3, 3]

        cluster.until(spread, "three clients on each replica")
    finally:
        for connection in open_connections:
            connection.close()


def test_export_is_a_database_equal_to_the_cluster(cluster, tmp_path):
    cluster.sextet("sql", "-c", "CREATE TABLE out (a); INSERT INTO out VALUES (1), (2), (3)")
    cluster.until_sql("SELECT count(*) FROM out", [(3,)], reader=True)
    target = tmp_path / "copy.db"
    cluster.sextet("export", target)
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT sum(a) FROM out").fetchone() == (6,)
    copy.close()
    again = cluster.sextet("export", target, check=False)
    assert again.returncode == 1
    assert "--force" in again.stderr
    cluster.sextet("export", target, "--force")
    assert [p.name for p in tmp_path.iterdir()] == ["copy.db"]


def test_import_into_a_volume_that_is_not_empty_is_refused(cluster, tmp_path):
    cluster.sextet("sql", "-c", "CREATE TABLE IF NOT EXISTS full (a)")
    source = tmp_path / "source.db"
    with sqlite3.connect(source) as database:
        database.execute("CREATE TABLE t (a)")
    database.close()
    done = cluster.sextet("import", source, check=False)
    assert done.returncode == 1
    assert "not empty" in done.stderr


# -- breaking it


def test_killed_storage_node_comes_back_and_nobody_notices(cluster):
    with cluster.connect() as writer:
        writer.execute("CREATE TABLE steady (id INTEGER PRIMARY KEY)")
        old = cluster.kill("storage-2")
        for _ in range(50):
            writer.execute("INSERT INTO steady DEFAULT VALUES")
        assert writer.execute("SELECT count(*) FROM steady").fetchone() == (50,)
    cluster.until_restarted("storage-2", old)
    cluster.until(
        lambda: {s["state"] for s in cluster.status()["storage"]} == {"up"}, "storage-2 is up"
    )


def test_killed_writer_recovers_every_acknowledged_row(cluster):
    with cluster.connect() as writer:
        writer.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
        for _ in range(50):
            writer.execute("INSERT INTO kept DEFAULT VALUES")
        epoch = cluster.status()["volume"]["epoch"]
        old = cluster.kill("main-1")
    cluster.until_sql("SELECT count(*) FROM kept", [(50,)])
    assert cluster.process("main-1") != old
    assert cluster.status()["volume"]["epoch"] > epoch
    cluster.query("INSERT INTO kept DEFAULT VALUES")
    cluster.until_sql("SELECT count(*) FROM kept", [(51,)], reader=True)


def test_killed_control_plane_stops_nobody(cluster):
    old = cluster.kill("control")
    assert cluster.query("SELECT 1") == [(1,)]
    assert cluster.query("SELECT 1", reader=True) == [(1,)]
    cluster.until_restarted("control", old)
    cluster.until(lambda: cluster.sextet("status", check=False).returncode == 0, "control answers")


def test_killed_endpoint_cuts_no_connection(cluster):
    with cluster.connect() as writer:
        old = cluster.kill("endpoint-main")
        assert writer.execute("SELECT 1").fetchall() == [(1,)]
        cluster.until_restarted("endpoint-main", old)
        cluster.until_sql("SELECT 2", [(2,)])
        assert writer.execute("SELECT 3").fetchall() == [(3,)]


# -- starting and stopping


def test_data_survives_down_and_up(new_cluster):
    cluster = new_cluster("--readers", 1)
    cluster.query("CREATE TABLE t (a)")
    cluster.query("INSERT INTO t VALUES (42)")
    processes = {name: cluster.process(name) for name in ("main-1", "storage-1", "control")}
    assert "stopped" in cluster.down()
    assert not any(process.alive for process in processes.values())
    assert cluster.sextet("status", check=False).returncode == 3
    cluster.up()
    assert cluster.query("SELECT a FROM t") == [(42,)]
    cluster.until_sql("SELECT a FROM t", [(42,)], reader=True)


def test_killed_supervisor_takes_everyone_with_it_and_up_finds_the_data(new_cluster):
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE t (a)")
    supervisor = cluster.status()["processes"][0]
    storage = cluster.process("storage-1")
    os.kill(supervisor["pid"], 9)
    cluster.until(lambda: not storage.alive, "storage-1 ended with its supervisor")
    cluster.up()
    assert cluster.query("SELECT count(*) FROM t") == [(0,)]


def test_broken_file_changes_nothing_and_a_sound_one_comes_out_equal(new_cluster, tmp_path):
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    source = tmp_path / "source.db"
    with sqlite3.connect(source) as database:
        database.execute("PRAGMA page_size = 1024")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        rows = [(n, "row " * (n % 40)) for n in range(5000)]
        database.executemany("INSERT INTO t VALUES (?, ?)", rows)
    database.close()
    content = source.read_bytes()
    cluster = new_cluster("--readers", 1)
    refused = cluster.sextet("import", broken, check=False)
    assert refused.returncode == 1
    assert "broken.db" in refused.stderr
    printed = cluster.sextet("import", source).stdout
    assert printed.count("integrity check") == 2
    assert source.read_bytes() == content
    assert cluster.query("SELECT id, text FROM t ORDER BY id", reader=True) == rows
    cluster.sextet("export", tmp_path / "back.db")
    with sqlite3.connect(tmp_path / "back.db") as copy:
        assert copy.execute("SELECT id, text FROM t ORDER BY id").fetchall() == rows
    copy.close()


def test_taken_port_is_named_before_anything_starts(new_cluster):
    cluster = new_cluster(start=False)
    with socket.create_server(("127.0.0.1", cluster.port)):
        done = cluster.sextet("up", "--port", cluster.port, check=False)
    assert done.returncode == 1
    assert (
        f"port {cluster.port} is taken by another program; choose another with --port"
        in done.stderr
    )


def test_failing_start_shows_the_guilty_log_and_leaves_nothing(new_cluster):
    cluster = new_cluster(start=False)
    cluster.folder.make()
    cluster.folder.catalog.write_text("no database at all" * 100)
    done = cluster.sextet("up", "--port", cluster.port, check=False)
    assert done.returncode == 1
    assert "control keeps ending" in done.stderr
    assert "control.log" in done.stderr
    assert "catalog.db cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert cluster.sextet("status", check=False).returncode == 3


def test_start_without_one_storage_node_works_and_names_it(new_cluster):
    cluster = new_cluster(start=False)
    cluster.folder.make()
    (cluster.folder.data / "storage-3").write_text("a file where its folder should be")
    done = cluster.sextet("up", "--port", cluster.port, "--readers", 0)
    assert "storage-3 does not run" in done.stderr
    assert cluster.query("SELECT 1") == [(1,)]
    (row,) = (s for s in cluster.status()["storage"] if s["name"] == "storage-3")
    assert row["state"] == "down"
    assert row["error"]


def test_foreground_stops_with_sigint(new_cluster):
    cluster = new_cluster(start=False)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "cluster.cli.app", "up", "--foreground", "--readers", "0"),
            *("--port", str(cluster.port), "--data", str(cluster.folder.data)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        assert cluster.query("SELECT 1") == [(1,)]
        storage = cluster.process("storage-1")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert not storage.alive
