"""The writer dies for good, hangs, or is moved on purpose: another instance takes over, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from cluster.cli.client import channel_to, running_layout
from cluster.local.layout import address
from engine.log.frame import index_frame, split_frames
from engine.net.methods import FETCH_FRAMES
from engine.net.pb import storage_pb2 as pb
from tests.e2e.conftest import LocalCluster
from tests.e2e.test_under_load import Load, check_rows

pytestmark = pytest.mark.e2e

TABLE = "CREATE TABLE load (k INTEGER, part INTEGER, PRIMARY KEY (k, part))"


@contextmanager
def cannot_start(cluster: LocalCluster, name: str) -> Iterator[None]:
    """Whoever is killed stays dead until the end of the block: its log is no file."""
    path = cluster.folder.log(name)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        aside.rename(path)


def writer_of(cluster: LocalCluster) -> str:
    (name,) = (i["name"] for i in cluster.status()["instances"] if i["role"] == "writer")
    return str(name)


def until_moved(cluster: LocalCluster, old: str) -> str:
    """The name of the new writer, once it has taken a write."""

    def moved() -> bool:
        return any(f"failover from {old} to" in event for event in cluster.events())

    cluster.until(moved, f"somebody else than {old} is named")
    cluster.until_sql("SELECT 1", [(1,)])
    cluster.query("CREATE TABLE IF NOT EXISTS moved (a)")
    new = writer_of(cluster)
    assert new != old
    return new


def until_replica(cluster: LocalCluster, name: str) -> None:
    def follows() -> bool:
        (row,) = (i for i in cluster.status()["instances"] if i["name"] == name)
        return (row["role"], row["state"]) == ("replica", "available")

    cluster.until(follows, f"{name} follows")


def of_epoch(cluster: LocalCluster, epoch: int, start: int) -> dict[str, set[int]]:
    """Per storage node (one a zone) the LSNs of that epoch in its hot log, from `start` on.

    Not by three commands: whoever is stopped meanwhile is ended as hung after ten seconds.
    """

    async def of(node: str) -> set[int]:
        where = address(running_layout(cluster.folder).storage_node(node).port)
        found: set[int] = set()
        async with channel_to(where) as channel:
            request = pb.FetchFramesRequest(volume=1, pg=0, after=max(0, start - 1))
            stream = channel.stream(FETCH_FRAMES, request)
            while (chunk := await stream.recv()) is not None:
                for header, frame in split_frames(chunk.frames):
                    if header.epoch == epoch:
                        found |= {r.lsn for r in index_frame(frame) if r.lsn >= start}
            stream.close()
        return found

    async def of_all() -> dict[str, set[int]]:
        return {node: await of(node) for node in ("storage-1", "storage-3", "storage-5")}

    return asyncio.run(of_all())


def works(cluster: LocalCluster, name: str, epoch: int) -> bool:
    row = next(i for i in cluster.status()["instances"] if i["name"] == name)
    return (row["role"], row["state"], cluster.status()["volume"]["epoch"]) == (
        *("writer", "available"),
        epoch,
    )


def test_dead_writer_is_replaced_under_load_and_comes_back_as_a_replica(new_cluster):
    cluster = new_cluster()
    cluster.query(TABLE)
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(50)
        with cannot_start(cluster, "main-1"):
            cluster.kill("main-1")
            new = until_moved(cluster, "main-1")
            load.wait_for_more(50)
            assert cluster.status()["volume"]["epoch"] == 2, "one failover, not several"
        until_replica(cluster, "main-1")
        load.wait_for_more(50)
    assert writer_of(cluster) == new
    check_rows(cluster, load)
    said = cluster.events()
    assert any(e.startswith("main-1: the writer is not there") for e in said)
    assert any(e.startswith(f"main: failover to {new} finished after ") for e in said)


@pytest.mark.parametrize("epochs", [(1,), pytest.param((1, 2, 3), marks=pytest.mark.long)])
def test_hung_writer_is_replaced_under_load_and_persists_nothing_once_it_goes_on(
    new_cluster, epochs
):
    cluster = new_cluster()
    cluster.query(TABLE)
    with Load(cluster.url(), timeout_ms=5000) as load:
        for epoch in epochs:
            load.wait_for_more(50)
            old, start = writer_of(cluster), cluster.status()["volume"]["vdl"]
            hung = cluster.kill(old, signal.SIGSTOP)
            until_moved(cluster, old)
            before = of_epoch(cluster, epoch, start)
            assert hung.send(signal.SIGCONT)
            cluster.until_restarted(old, hung)
            until_replica(cluster, old)
            for node, lsns in of_epoch(cluster, epoch, start).items():
                assert lsns <= before[node], f"{node} took redo of an epoch that was over"
        load.wait_for_more(50)
    check_rows(cluster, load)


def test_failover_on_purpose_and_its_events(new_cluster):
    cluster = new_cluster()
    cluster.query(TABLE)
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(20)
        printed = cluster.sextet("failover", "--to", "main-3").stdout
        assert re.match(
            r"main-3 is the writer instead of main-[12]: open after .* s, epoch \d+$", printed
        )
        load.wait_for_more(20)
        printed = cluster.sextet("failover").stdout
        assert printed.startswith(f"{writer_of(cluster)} is the writer instead of main-")
        load.wait_for_more(20)
    check_rows(cluster, load)
    shown = cluster.sextet("events").stdout
    assert "failover from main-1 to main-3 started: on purpose" in shown
    assert "protection group 0 added" in shown
    assert "registered at 127.0.0.1" in shown
    assert len(json.loads(cluster.sextet("events", "--json", "--limit", 2).stdout)) == 2
    for arguments, said in (
        (("--to", "main-9"), "main has no instance main-9; it has main-1, main-2, main-3"),
        (("--to", writer_of(cluster)), "is the writer of main already"),
        (("--cluster", "other"), "other"),
    ):
        done = cluster.sextet("failover", *arguments, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_cut_off_writer_is_replaced_under_load_and_comes_back_as_a_replica(new_cluster):
    """Nothing passes between it and anybody else, its clients included."""
    cluster = new_cluster()
    cluster.query(TABLE)
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(50)
        start = cluster.status()["volume"]["vdl"]
        before = cluster.process("main-1")
        cluster.sextet("fault", "isolate", "main-1")
        until_moved(cluster, "main-1")
        load.wait_for_more(50)
        accepted = of_epoch(cluster, 1, start)
        cluster.sextet("fault", "heal")
        until_replica(cluster, "main-1")
        assert cluster.process("main-1") != before, "who is superseded starts again"
        for node, lsns in of_epoch(cluster, 1, start).items():
            assert lsns <= accepted[node], f"{node} took redo of an epoch that was over"
        load.wait_for_more(50)
    check_rows(cluster, load)


def test_without_a_replica_there_is_nobody_to_fail_over_to_and_who_hangs_is_restarted(new_cluster):
    cluster = new_cluster("--readers", 0)
    done = cluster.sextet("failover", check=False)
    assert done.returncode == 1
    assert "no replica of main can take over" in done.stderr
    cluster.query("CREATE TABLE kept AS SELECT 1 AS n")
    hung = cluster.kill("main-1", signal.SIGSTOP)
    cluster.until_restarted("main-1", hung)
    cluster.until_sql("SELECT n FROM kept", [(1,)])
    assert any(
        "nobody can take over; if it hangs, its supervisor ends it" in event
        for event in cluster.events()
    )


def test_control_plane_killed_during_a_failover_goes_on_with_it(new_cluster):
    cluster = new_cluster()
    cluster.query(TABLE)
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(20)
        with cannot_start(cluster, "main-1"):
            cluster.kill("main-1")
            control = cluster.kill("control")
            cluster.until_restarted("control", control)
            control = cluster.kill("control")
            cluster.until_restarted("control", control)
            cluster.until(
                lambda: cluster.sextet("status", check=False).returncode == 0, "control answers"
            )
            until_moved(cluster, "main-1")
            load.wait_for_more(20)
        until_replica(cluster, "main-1")
    check_rows(cluster, load)


@pytest.mark.long
def test_a_writer_that_commits_something_huge_is_not_taken_for_hung(new_cluster):
    """Nobody is answered for the seconds that 300 MB take."""
    cluster = new_cluster("--readers", 1)
    with psycopg.connect(cluster.url(), autocommit=True) as client:
        client.execute("SET statement_timeout = 0")
        client.execute("CREATE TABLE piece (n INTEGER PRIMARY KEY, body BLOB)")
        client.execute(
            "INSERT INTO piece WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c"
            " WHERE n < 5000) SELECT n, randomblob(4000) FROM c"
        )
        client.execute(
            "CREATE TABLE huge AS SELECT c.n, piece.body FROM piece, (WITH RECURSIVE c(n) AS"
            " (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 15) SELECT n FROM c) AS c"
        )
        assert client.execute("SELECT count(*) FROM huge").fetchall() == [(75_000,)]
    assert writer_of(cluster) == "main-1"
    assert not any("failover" in event for event in cluster.events())


@pytest.mark.long
def test_writer_that_is_killed_now_and_then_stays_the_writer(new_cluster):
    cluster = new_cluster()
    for epoch in (1, 2, 3):
        cluster.until(lambda e=epoch: works(cluster, "main-1", e), "it is seen working")
        old = cluster.kill("main-1")
        cluster.until_restarted("main-1", old)
        cluster.until_sql("SELECT 1", [(1,)])
    assert writer_of(cluster) == "main-1"
