"""Clones with real processes: made while the source goes on, apart from it, finished whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cluster.cli.clusters import gather_clusters
from cluster.control.forktable import CLONES_MAX
from cluster.local.adopt import adopt
from cluster.local.change import change_layout, layout_turn
from cluster.local.cloning import _fork_volume, with_clone
from cluster.local.clusters import delete_cluster, start_cluster, stop_cluster
from cluster.local.layout import ClusterState, ForkSpec, Layout
from engine.errors import ConfigError
from tests.e2e.conftest import LocalCluster
from tests.e2e.test_backup import archives, refused

pytestmark = pytest.mark.e2e

FORK = ForkSpec("main")


@dataclass
class _Inserting:
    """One client of main that inserts 1, 2, 3 ..., each a commit of its own."""

    done: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def _inserting(cluster: LocalCluster) -> Iterator[_Inserting]:
    work, stop = _Inserting(), threading.Event()

    def run() -> None:
        try:
            with cluster.connect() as client:
                while not stop.wait(0.01):
                    client.execute(f"INSERT INTO work VALUES ({work.done + 1})")
                    work.done += 1
        except psycopg.Error as error:
            work.errors.append(str(error))

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield work
    finally:
        stop.set()
        worker.join()
    assert work.errors == []


def _volumes(cluster: LocalCluster) -> dict[str, dict[str, Any]]:
    rows = json.loads(cluster.sextet("volume", "show", "--json").stdout)
    return {row["cluster"] or f"volume {row['volume']}": row for row in rows}


def _states(cluster: LocalCluster) -> dict[str, str]:
    return {row["name"]: row["state"] for row in asyncio.run(gather_clusters(cluster.folder))}


def test_a_clone_lives_its_own_life_from_the_first_second_on(
    new_cluster: Callable[..., LocalCluster], tmp_path: Path
) -> None:
    cluster = new_cluster("--readers", 0, "--archive", tmp_path / "store")
    cluster.query("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    cluster.query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        " INSERT INTO t SELECT i, hex(randomblob(500)) FROM n"
    )
    cluster.query("CREATE TABLE work (n INTEGER PRIMARY KEY)")
    everything = "SELECT count(*), sum(length(text)) FROM t"
    assert cluster.query(everything) == [(2000, 2_000_000)]

    # Made while somebody writes: it has all that was committed before, and nothing of what came after it.
    with _inserting(cluster) as work:
        cluster.until(lambda: work.done > 5, "somebody writes")
        before = work.done
        said = cluster.sextet("clone", "main", "copy", "--readers", 1).stdout
        after = work.done
        cluster.until(lambda: work.done > after + 5, "main goes on")
    assert said.startswith("cluster copy is a clone of main as of LSN ")
    assert cluster.url(of="copy", reader=True) in said
    [(count, last)] = cluster.query("SELECT count(*), max(n) FROM work", of="copy")
    assert before <= count == last <= after
    assert cluster.query("SELECT count(*) FROM work") == [(work.done,)]
    shown = _volumes(cluster)["copy"]
    assert (shown["own_pages"], shown["depth"]) == (0, 1)
    assert shown["shared_pages"] > 500
    lsn = shown["clone_of"]["lsn"]
    assert f"as of LSN {lsn}, committed {shown['clone_of']['time']}" in said

    # Neither sees the other, and a clone of the clone sees neither from then on.
    cluster.query("UPDATE t SET text = 'x' WHERE id % 2 = 0", of="copy")
    cluster.query("DELETE FROM t WHERE id > 1000")
    third = cluster.sextet("clone", "copy", "third", "--readers", 0).stdout
    assert third.startswith("cluster third is a clone of copy as of LSN ")
    cluster.query("DROP TABLE t", of="copy")
    assert cluster.query(everything) == [(1000, 1_000_000)]
    assert cluster.query(everything, of="third") == [(2000, 1_001_000)]
    with pytest.raises(psycopg.Error, match="no such table"):
        cluster.query(everything, of="copy")
    assert [row["depth"] for row in _volumes(cluster).values()] == [0, 1, 2]
    assert "main at LSN" in cluster.sextet("volume", "show", "copy").stdout

    # What is changed becomes a clone's own.
    cluster.query("UPDATE t SET text = text || 'y'", of="third")
    cluster.until(lambda: _volumes(cluster)["third"]["own_pages"] > 250, "it is written down")

    # A clone's archive begins with its fork, in one piece.
    def based() -> list[str]:
        found = [row for row in archives(cluster) if row["archive"].startswith("copy-")]
        return [
            row["archive"]
            for row in found
            if not row["error"] and row["bases"] and row["lsn"] > lsn
        ]

    (name,) = cluster.until(based, "the clone's archive has a base")
    assert name == cluster.layout.cluster("copy").archive, "the first one, not NAME.2"
    assert "ERROR" not in cluster.folder.log("archive-copy").read_text()
    cluster.sextet("restore", "copy", "back", "--to-lsn", lsn, "--readers", 0)
    assert cluster.query(everything, of="back") == [(2000, 2_000_000)]
    assert cluster.query("SELECT count(*) FROM work", of="back") == [(count,)]
    earlier = refused(cluster, "restore", "copy", "no", "--to-lsn", lsn - 1)
    assert "earlier" in earlier or "before" in earlier or "begin" in earlier, earlier

    # The sources go, and the clone stays, through a restart of a storage node.
    for source in ("main", "copy"):
        delete_cluster(cluster.folder, source)
    for node in ("storage-1", "storage-4"):
        cluster.until_restarted(node, cluster.kill(node))
    cluster.until_sql(everything, [(2000, 1_003_000)], of="third")
    assert cluster.query("PRAGMA integrity_check", of="third") == [("ok",)]
    said = cluster.sextet("storage", "verify", "--cluster", "third").stdout
    assert "all copies are equal" in said
    shown = _volumes(cluster)
    assert list(shown) == ["volume 1", "volume 2", "third", "back"]
    assert [shown[name]["depth"] for name in shown] == [0, 1, 2, 0]
    assert cluster.sextet("volume", "show").stdout.count("(deleted)") == 2


# -- killed


def _begun(cluster: LocalCluster, name: str, *, fork: ForkSpec = FORK) -> Layout:
    """As a command leaves it that is killed right after it has saved the layout."""
    with layout_turn(cluster.folder):
        return change_layout(
            cluster.folder, lambda old: with_clone(old, fork, name, readers=0, port=None)
        )


def _adopted(cluster: LocalCluster, name: str, *, fork: ForkSpec = FORK) -> Layout:
    layout = _begun(cluster, name, fork=fork)
    assert asyncio.run(adopt(layout))
    return layout


def _forked(cluster: LocalCluster, name: str, *, fork: ForkSpec = FORK) -> Layout:
    layout = _adopted(cluster, name, fork=fork)
    asyncio.run(_fork_volume(layout, name, fork))
    return layout


def _opened(cluster: LocalCluster, name: str) -> Layout:
    _forked(cluster, name)
    with layout_turn(cluster.folder):
        return change_layout(
            cluster.folder, lambda old: old.with_state(name, ClusterState.CREATING)
        )


def test_a_clone_that_was_begun_is_finished_or_removed(
    new_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE t (text TEXT)")
    cluster.query("INSERT INTO t VALUES ('of main')")
    stages = {"begun": _begun, "adopted": _adopted, "forked": _forked, "opened": _opened}
    for name, leave in stages.items():
        leave(cluster, name)
        assert _states(cluster)[name] == ("creating" if name == "opened" else "cloning")
        delete_cluster(cluster.folder, name)
        assert list(_states(cluster)) == ["main"]

        leave(cluster, name)
        with pytest.raises(ConfigError, match=f"{name} is being cloned from main; finish that"):
            start_cluster(cluster.folder, name)
        if name != "opened":
            with pytest.raises(ConfigError, match=f"{name} is being cloned from main; finish that"):
                delete_cluster(cluster.folder, "main")
        cluster.kill("control")
        said = cluster.sextet("clone", "main", name).stdout
        assert f"going on with {name} as an earlier command has begun it" in said
        assert cluster.query("SELECT text FROM t", of=name) == [("of main",)]
        delete_cluster(cluster.folder, name)

    # It is left alone by everything else, and by a restart.
    _begun(cluster, "later")
    said = refused(cluster, "sql", "--cluster", "later", "-c", "SELECT 1")
    assert "cluster later is being cloned; finish that with `sextet clone main later`" in said
    assert "there is a cluster later already" in refused(cluster, "cluster", "create", "later")
    cluster.down()
    assert "cluster later is being cloned" in cluster.up()
    stop_cluster(cluster.folder, "main")
    cluster.sextet("clone", "main", "later")
    assert cluster.query("SELECT text FROM t", of="later") == [("of main",)]
    start_cluster(cluster.folder, "main")

    # The control plane dies while it is asked, and a storage node with it.
    command = [sys.executable, "-m", "cluster.cli.app", "clone", "main", "copy", "--readers", "0"]
    environment = {**os.environ, "SEXTET_DATA": str(cluster.folder.data)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    cluster.until(lambda: _is_there(cluster, "copy"), "it has begun")
    for victim in ("control", "storage-2"):
        cluster.kill(victim)
    assert process.communicate(timeout=120)[0].startswith("cluster copy is a clone of main")
    assert cluster.query("SELECT text FROM t", of="copy") == [("of main",)]
    verify = ("storage", "verify", "--cluster", "copy")
    equal = "all copies are equal"
    cluster.until(lambda: equal in cluster.sextet(*verify, check=False).stdout, "six copies")


def _is_there(cluster: LocalCluster, name: str) -> bool:
    return any(spec.name == name for spec in cluster.layout.clusters)


@pytest.mark.long
def test_the_sixteenth_clone_is_a_full_copy(new_cluster: Callable[..., LocalCluster]) -> None:
    cluster = new_cluster("--readers", 0)
    cluster.query("CREATE TABLE t (text TEXT)")
    cluster.query("INSERT INTO t VALUES ('of main')")
    for number in range(CLONES_MAX):
        _forked(cluster, f"clone-{number}")
    said = refused(cluster, "clone", "main", "copy", "--at", "5 seconds ago")
    assert "15 clones share the pages of main already" in said
    assert "a full copy has the newest state only" in said
    assert not _is_there(cluster, "copy")

    done = cluster.sextet("clone", "main", "copy", "--readers", 0)
    assert "copy becomes a full copy" in done.stderr
    assert "cluster copy is a full copy of main" in done.stdout
    assert cluster.query("SELECT text FROM t", of="copy") == [("of main",)]
    shown = _volumes(cluster)["copy"]
    assert shown["clone_of"]["full_copy"]
    assert shown["shared_pages"] == 0

    for gone in ("clone-3", "clone-4"):
        delete_cluster(cluster.folder, gone)
    said = cluster.sextet("clone", "main", "shares", "--readers", 0).stdout
    assert "cluster shares is a clone of main" in said

    said = refused(cluster, "clone", "main", "no", "--at", "1")
    assert "storage nodes still have the states from LSN" in said
    assert not _is_there(cluster, "no")
