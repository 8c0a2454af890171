"""`sextet up` and `down` when things are not as they should be: two at once, signals, strange folders."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

import pytest

from cluster.local.state import is_locked, running_state
from tests.e2e.conftest import LocalCluster, free_port

pytestmark = pytest.mark.e2e


@contextmanager
def starting(cluster: LocalCluster):
    """`sextet up` as a process of its own, ended by its id if the test does not wait for its end."""
    command = [sys.executable, "-m", "cluster.cli.app", "up", "--readers", "0"]
    command += ["--port", str(cluster.port), "--data", str(cluster.folder.data)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_starts_at_once_are_one_start(new_cluster):
    cluster = new_cluster(start=False)
    with starting(cluster) as first, starting(cluster) as second:
        printed = [process.communicate(timeout=120) for process in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0], printed
    outputs = sorted(output for output, _ in printed)
    assert sum("is running already" in output for output in outputs) == 1
    assert cluster.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_start_ended_by_a_signal_leaves_nothing(new_cluster, number):
    cluster = new_cluster(start=False)
    with starting(cluster) as process:
        storage = cluster.process("storage-6")
        assert process.poll() is None, "it has ended before it was told to"
        process.send_signal(number)
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, f"{printed}\n{errors}"
    assert "Traceback" not in errors
    assert not storage.alive
    assert running_state(cluster.folder) is None
    assert not is_locked(cluster.folder)
    cluster.up("--readers", 0)
    assert cluster.query("SELECT 1") == [(1,)]


def test_down_during_a_start_stops_everything(new_cluster):
    cluster = new_cluster(start=False)
    cluster.folder.log("main-1").mkdir(
        parents=True
    )  # it cannot start, so the start takes long enough
    with starting(cluster) as process:
        cluster.process("storage-6")
        assert "stopped" in cluster.down()
        _, errors = process.communicate(timeout=120)
    cluster.folder.log("main-1").rmdir()
    assert process.returncode == 1
    assert "did not start; everything is stopped again" in errors
    assert "no cluster is running" in cluster.down()


@pytest.mark.long
def test_two_clusters_side_by_side_in_folders_with_strange_names(tmp_path):
    made = [
        LocalCluster(tmp_path / name, free_port()) for name in ("a b", "ü [b] 'quoted' $x\u65e5")
    ]
    try:
        for number, cluster in enumerate(made):
            printed = cluster.up("--readers", 0)
            assert cluster.url() in printed
            cluster.query(f"CREATE TABLE mine AS SELECT {number} AS n")
        for number, cluster in enumerate(made):
            assert cluster.query("SELECT n FROM mine") == [(number,)]
            target = tmp_path / f"[b] é {number}.db"
            cluster.sextet("export", target)
            with sqlite3.connect(target) as copy:
                assert copy.execute("SELECT n FROM mine").fetchall() == [(number,)]
            copy.close()
        assert str(made[1].folder.data) in made[1].down()
        assert made[0].query("SELECT n FROM mine") == [(0,)]
    finally:
        for cluster in made:
            cluster.finish()


def test_commands_that_up_names_work_as_they_are_printed(new_cluster, tmp_path):
    cluster = new_cluster(start=False)
    environment = {k: v for k, v in os.environ.items() if k != "SEXTET_DATA"}
    environment |= {"PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    command = [sys.executable, "-m", "cluster.cli.app", "up", "--readers", "0"]
    command += ["--port", str(cluster.port), "--data", str(cluster.folder.data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    (status,) = (line for line in done.stdout.splitlines() if " status" in line)
    again = subprocess.run(
        shlex.split(status), capture_output=True, text=True, env=environment, check=False
    )
    assert again.returncode == 0, again.stderr
    assert cluster.url() in again.stdout


def test_inner_ports_that_others_have_taken_meanwhile_are_replaced(new_cluster):
    cluster = new_cluster("--readers", 1)
    cluster.query("CREATE TABLE t (a)")
    cluster.query("INSERT INTO t VALUES (42)")
    cluster.down()
    taken = cluster.layout.storage_node("storage-3").port
    with socket.create_server(("127.0.0.1", taken)):  # somebody else's by now
        cluster.port += 20
        assert f":{cluster.port}/main" in cluster.up(), "the endpoints have moved too"
        assert cluster.query("SELECT a FROM t") == [(42,)]
        cluster.until_sql("SELECT a FROM t", [(42,)], reader=True)
        cluster.query("INSERT INTO t VALUES (43)")
        cluster.until(lambda: all_equal(cluster), "six nodes are up and complete")


def all_equal(cluster) -> bool:
    nodes = cluster.status()["storage"]
    scls = {segment["scl"] for node in nodes for segment in node["segments"]}
    return {node["state"] for node in nodes} == {"up"} and len(scls) == 1


def test_file_larger_than_the_volume_may_become_is_refused(new_cluster, tmp_path):
    cluster = new_cluster("--readers", 0, "--max-storage", "10M")
    large = tmp_path / "large.db"
    with sqlite3.connect(large) as database:
        database.execute("CREATE TABLE t (a)")
        database.execute("INSERT INTO t VALUES (zeroblob(?))", (12 * 1024**2,))
    database.close()
    done = cluster.sextet("import", large, check=False)
    assert done.returncode == 1
    assert "`sextet storage limit`" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert cluster.query("SELECT count(*) FROM sqlite_schema") == [(0,)]
    cluster.sextet("storage", "limit", "40M")
    cluster.sextet("import", large)
    assert cluster.query("SELECT length(a) FROM t") == [(12 * 1024**2,)]
