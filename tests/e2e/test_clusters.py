"""Several clusters on one fleet: made, stopped, started and deleted, and the others go on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cluster.cli.clusters import gather_clusters
from cluster.local.change import change_layout, layout_turn
from cluster.local.clusters import create_cluster, delete_cluster, start_cluster, stop_cluster
from cluster.local.create import with_new_cluster
from cluster.local.layout import ClusterState, Layout
from engine.errors import ConfigError
from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e


def _listed(cluster: LocalCluster) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in asyncio.run(gather_clusters(cluster.folder))}


def _state(cluster: LocalCluster, name: str) -> str:
    return _listed(cluster)[name]["state"]


def _wish(cluster: LocalCluster, change: Callable[[Layout], Layout]) -> None:
    """As a command leaves it that is killed right after it has saved the layout."""
    with layout_turn(cluster.folder):
        change_layout(cluster.folder, change)


def _kept(cluster: LocalCluster, node: str, volume: int) -> int:
    """Segments and page versions that a storage node's disk has of a volume."""
    path = cluster.folder.storage(node) / "node.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        counts = [
            db.execute(f"SELECT count(*) FROM {table} WHERE volume = ?", (volume,)).fetchone()[0]
            for table in ("segment", "page_version", "truncation")
        ]
    return sum(counts)


@dataclass
class _Work:
    """One client of main that writes all the time, over one connection."""

    done: int = 0
    errors: list[str] = field(default_factory=list)
    longest_s: float = 0.0


@contextmanager
def _working_on_main(cluster: LocalCluster) -> Iterator[_Work]:
    cluster.query("CREATE TABLE IF NOT EXISTS work (id INTEGER PRIMARY KEY)")
    work, stop = _Work(), threading.Event()

    def run() -> None:
        try:
            with cluster.connect() as client:
                while not stop.wait(0.05):
                    began = time.monotonic()
                    client.execute("INSERT INTO work DEFAULT VALUES")
                    work.done += 1
                    work.longest_s = max(work.longest_s, time.monotonic() - began)
        except psycopg.Error as error:
            work.errors.append(str(error))

    before = cluster.events()
    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield work
    finally:
        stop.set()
        worker.join()
    assert work.errors == []
    assert work.done > 0
    assert cluster.query("SELECT count(*) FROM work") == [(work.done,)]
    news = [event for event in cluster.events()[len(before) :] if event.startswith("main")]
    fine = ("the writer works", "registered")  # a control plane that was killed notes them again
    assert [event for event in news if not any(words in event for words in fine)] == []


def test_two_clusters_are_apart_while_one_comes_rests_and_goes(new_cluster, tmp_path: Path) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE t (text TEXT)")
    cluster.query("INSERT INTO t VALUES ('of main')")
    with _working_on_main(cluster) as work:
        said = cluster.sextet("cluster", "create", "shop", "--readers", 1, "--max-storage", "40M")
        assert said.stdout.startswith("cluster shop is created after")
        assert cluster.url(of="shop") in said.stdout
        assert cluster.url(of="shop", reader=True) in said.stdout
        cluster.query("CREATE TABLE t (text TEXT)", of="shop")
        cluster.query("INSERT INTO t VALUES ('of the shop')", of="shop")
        cluster.until_sql("SELECT text FROM t", [("of the shop",)], of="shop", reader=True)
        assert cluster.query("SELECT text FROM t") == [("of main",)]
        assert _state(cluster, "shop") == _state(cluster, "main") == "available"

        _every_command_knows_it(cluster, tmp_path)

        done = work.done
        said = cluster.sextet("cluster", "stop", "shop").stdout
        assert "shop is stopped; `sextet cluster start shop`" in said
        assert _state(cluster, "shop") == "stopped"
        with pytest.raises(psycopg.OperationalError, match="refused"):
            cluster.query("SELECT 1", of="shop")
        for command in (("sql", "-c", "SELECT 1"), ("failover",), ("instance", "add")):
            refused = cluster.sextet(*command, "--cluster", "shop", check=False)
            assert refused.returncode == 1
            assert "shop is stopped; start it with `sextet cluster start shop`" in refused.stderr
        status = cluster.sextet("status", "--cluster", "shop").stdout
        assert status.startswith("cluster shop  stopped")
        assert "refused" not in status
        cluster.until(lambda: work.done > done, "main goes on")

        assert "shop answers SQL" in cluster.sextet("cluster", "start", "shop").stdout
        assert cluster.query("SELECT text FROM t", of="shop") == [("of the shop",)]

        no = cluster.sextet("cluster", "delete", "shop", check=False)
        assert "this deletes shop and its data for good; say so with --yes" in no.stderr
        assert "shop is deleted" in cluster.sextet("cluster", "delete", "shop", "--yes").stdout
        rows = json.loads(cluster.sextet("cluster", "list", "--json").stdout)
        assert [(row["name"], row["state"]) for row in rows] == [("main", "available")]
        nodes = [node.name for node in cluster.layout.storage]
        cluster.until(lambda: not any(_kept(cluster, n, 2) for n in nodes), "nothing is left of it")
        assert all(_kept(cluster, n, 1) for n in nodes)
    last = cluster.sextet("cluster", "delete", "main", "--yes", check=False)
    assert "main is the last cluster here and cannot be deleted" in last.stderr
    said = [event for event in cluster.events() if event.startswith("shop: is ")]
    assert said == [
        "shop: is created, with volume 2",
        "shop: is stopped",
        "shop: is started",
        "shop: is stopped",
        "shop: is deleted, and volume 2 with it",
    ]
    begun = [e for e in cluster.events() if "failover" in e and "started" in e]
    assert begun == ["shop: failover from shop-1 to shop-2 started: on purpose"]


def _every_command_knows_it(cluster: LocalCluster, folder: Path) -> None:
    of = ("--cluster", "shop")
    cluster.sextet("export", folder / "copy.db", *of)
    with closing(sqlite3.connect(folder / "copy.db")) as copy:
        assert copy.execute("SELECT text FROM t").fetchall() == [("of the shop",)]
    assert "shop-2 is the writer instead of shop-1" in cluster.sextet("failover", *of).stdout
    assert cluster.sextet("instance", "add", *of).stdout.startswith("shop-3 serves reads")
    cluster.sextet("instance", "remove", "shop-3")
    cluster.sextet("endpoint", "add", "first", "--members", "shop-1", *of)
    assert "the limit is 50.0 MiB" in cluster.sextet("storage", "limit", "50M", *of).stdout
    assert "all copies are equal" in cluster.sextet("storage", "verify", *of).stdout


def test_who_is_down_drops_later_and_what_is_stopped_stays_so(new_cluster) -> None:
    cluster = new_cluster("--readers", 0)
    for name in ("gone", "rests"):
        create_cluster(cluster.folder, name, readers=0)
        cluster.query("CREATE TABLE t (text TEXT)", of=name)
        cluster.query("INSERT INTO t VALUES (hex(randomblob(100000)))", of=name)
    cluster.sextet("fault", "kill", "storage-3", "--hold")
    stop_cluster(cluster.folder, "rests")
    done = cluster.sextet("cluster", "delete", "gone", "--yes")
    assert "storage-3 does not answer and may have segments of it" in done.stderr
    assert _kept(cluster, "storage-3", 2) > 0
    assert _kept(cluster, "storage-1", 2) == 0

    cluster.down()
    said = cluster.up()  # the fault has ended with the installation
    assert "cluster main up" in said
    assert "cluster rests stays stopped" in said
    cluster.until(lambda: _kept(cluster, "storage-3", 2) == 0, "it drops what it kept")
    assert _state(cluster, "rests") == "stopped"
    assert cluster.process("storage-3").alive
    start_cluster(cluster.folder, "rests")
    assert cluster.query("SELECT length(text) FROM t", of="rests") == [(200000,)]
    create_cluster(cluster.folder, "gone", readers=0)  # the name is free, the volume new
    assert _listed(cluster)["gone"]["volume"]["id"] == 4
    with pytest.raises(psycopg.Error, match="no such table"):
        cluster.query("SELECT * FROM t", of="gone")

    delete_cluster(cluster.folder, "main")  # any but the last
    cluster.down()
    said = cluster.up()
    assert "cluster rests up" in said
    assert "sextet status --cluster rests" in said


def test_a_command_that_was_killed_is_taken_to_its_end_by_the_next(new_cluster) -> None:
    cluster = new_cluster("--readers", 0)
    with _working_on_main(cluster):
        _wish(cluster, lambda layout: with_new_cluster(layout, "shop", readers=0))
        assert _state(cluster, "shop") == "creating"
        cluster.kill("control")
        said = cluster.sextet("cluster", "create", "shop").stdout
        assert "going on with shop as an earlier command has begun it" in said
        assert _state(cluster, "shop") == "available"
        again = cluster.sextet("cluster", "create", "shop", check=False)
        assert "there is a cluster shop already" in again.stderr

        _wish(cluster, lambda layout: layout.with_state("shop", ClusterState.STOPPED))
        assert _state(cluster, "shop") == "stopping"
        cluster.kill("control")
        assert stop_cluster(cluster.folder, "shop"), "the control plane is back and knows"
        assert _state(cluster, "shop") == "stopped"

        _wish(cluster, lambda layout: layout.with_state("shop", ClusterState.RUNNING))
        start_cluster(cluster.folder, "shop")
        stop_cluster(cluster.folder, "shop")

        _wish(cluster, lambda layout: layout.with_state("shop", ClusterState.DELETING))
        assert _state(cluster, "shop") == "deleting"
        for call in (start_cluster, stop_cluster):
            with pytest.raises(
                ConfigError, match="shop is being deleted; finish that with `sextet"
            ):
                call(cluster.folder, "shop")
        cluster.kill("control")
        cluster.sextet("cluster", "delete", "shop", "--yes")
        assert list(_listed(cluster)) == ["main"]


@pytest.mark.long
def test_kill_9_at_any_moment_leaves_what_the_same_command_ends(new_cluster) -> None:
    cluster = new_cluster("--readers", 0)
    with _working_on_main(cluster):
        for number in range(12):
            for command in (("create", "shop", "--readers", "0"), ("delete", "shop", "--yes")):
                if number % 3 == 0:
                    cluster.kill("control")
                arguments = [sys.executable, "-m", "cluster.cli.app", "cluster", *command]
                process = subprocess.Popen(
                    [*arguments, "--data", str(cluster.folder.data)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                time.sleep(0.25 + number * 0.1)  # not to wait for anything: to hit each moment once
                process.kill()
                process.wait()
                cluster.sextet("cluster", *command, check=False)
                there = list(_listed(cluster))
                assert there == (["main", "shop"] if command[0] == "create" else ["main"])
                if command[0] == "create":
                    cluster.query("SELECT 1", of="shop")
