"""The fault kit on real processes: each fault takes effect, what must hold holds, and healing mends it.

One cluster for most of them: a test heals what it broke and waits until all six copies are level again.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import psycopg
import pytest

from cluster.faults.catalogue import Fault, Kind
from cluster.faults.kit import FaultKit
from cluster.local.layout import address
from engine.errors import ConfigError
from engine.faults.bells import SUFFIX
from engine.faults.file import ActiveFault, changing
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import STORAGE_STATUS
from engine.net.pb import storage_pb2 as pb
from engine.steps import Step

pytestmark = pytest.mark.e2e


class Writer:
    """A client that inserts one row after the other and notes every error; ours are none to expect."""

    def __init__(self, cluster, table: str) -> None:
        self._url = cluster.url()
        self._table = table
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.done = 0
        self.errors: list[str] = []
        self.progress = threading.Condition()

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                try:
                    connection.execute(f"INSERT INTO {self._table} VALUES (%s)", (self.done,))
                except psycopg.Error as error:
                    self.errors.append(f"{error.sqlstate}: {error}")
                    break
                finally:
                    with self.progress:
                        self.done += 1
                        self.progress.notify_all()

    def more(self, count: int) -> None:
        """`count` more rows; every one without an error."""
        with self.progress:
            wanted = self.done + count
            assert self.progress.wait_for(lambda: self.done >= wanted or self.errors, timeout=60)
        assert not self.errors


@pytest.fixture
def kit(cluster) -> Iterator[FaultKit]:
    kit = FaultKit(cluster.folder)
    yield kit
    kit.heal()
    level(cluster)


@pytest.fixture
def writer(cluster, request) -> Iterator[Writer]:
    """A load that runs during the test; not one of its writes may fail."""
    table = "load_" + re.sub(r"\W", "_", request.node.name)
    cluster.query(f"CREATE TABLE IF NOT EXISTS {table} (n INTEGER)")
    with Writer(cluster, table) as load:
        load.more(5)
        yield load
    assert not load.errors
    assert cluster.query(f"SELECT count(*) FROM {table}") == [(load.done,)]


def storage(cluster, name: str) -> pb.StorageStatusReply:
    """What a storage node says of itself; we are no node, so partitions do not concern us."""

    async def ask() -> pb.StorageStatusReply:
        channel = GrpcTransport().connect(address(cluster.layout.storage_node(name).port))
        try:
            return await channel.call(STORAGE_STATUS, pb.StorageStatusRequest(), timeout=10)
        finally:
            await channel.close()

    return asyncio.run(ask())


def scl(cluster, name: str) -> int:
    return max((s.scl for s in storage(cluster, name).segments), default=0)


def level(cluster) -> None:
    """All six copies reach what the writer has written."""
    names = [node.name for node in cluster.layout.storage]

    def same() -> bool:
        report = cluster.status()
        rows = report["storage"]
        scls = {s["scl"] for row in rows for s in row["segments"]}
        # Who has just come up may not have been told yet that it keeps a segment.
        return len(scls) == 1 and all(row["segments"] and row["state"] == "up" for row in rows)

    cluster.until(same, f"{names} are level")


def running(cluster, name: str) -> bool:
    return cluster._process(name) is not None


# -- processes


def test_killed_for_a_time_it_stays_down_and_comes_back_by_itself(cluster, kit, writer):
    before = cluster.process("storage-1")
    done = cluster.sextet("fault", "kill", "storage-1", "--for", "4s")
    assert "kill storage-1 for 4 s" in done.stdout
    assert not before.alive
    for fault in kit.active():  # none if this machine is very slow
        assert (fault.kind, fault.names) == ("kill", ("storage-1",))
    while True:
        seen = running(cluster, "storage-1")
        if not kit.active():
            break
        assert not seen, "it was started while it is held"
        writer.more(1)
    cluster.until_restarted("storage-1", before)


def test_killed_without_a_time_it_comes_back_at_once(cluster, kit):
    before = cluster.process("control")
    kit.kill("control")
    assert not before.alive
    assert kit.active() == []
    cluster.until_restarted("control", before)


def test_held_down_until_it_is_healed(cluster, kit, writer):
    before = cluster.process("main-3")
    kit.kill("main-3", hold=True)
    writer.more(20)
    assert not running(cluster, "main-3")
    (ended,) = kit.heal("main-3")
    assert ended.names == ("main-3",)
    cluster.until_restarted("main-3", before)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_paused_it_hangs_and_goes_on_where_it_was(cluster, kit, writer):
    process = cluster.process("storage-2")
    cluster.sextet("fault", "pause", "storage-2")
    assert _stopped(process.pid)
    writer.more(20)
    assert "pause" in cluster.sextet("fault", "list").stdout
    (row,) = json.loads(cluster.sextet("fault", "list", "--json").stdout)
    assert (row["kind"], row["nodes"], row["left_s"]) == ("pause", ["storage-2"], None)
    cluster.sextet("fault", "resume", "storage-2")
    cluster.until(lambda: not _stopped(process.pid), "it goes on")
    assert process.alive
    assert cluster.sextet("fault", "resume", "storage-2", check=False).returncode == 1


def test_a_fault_is_ended_by_the_name_it_was_begun_by_whoever_has_the_role_now(cluster, kit):
    (name,) = kit.resolve("writer")
    other = next(n for n in kit.resolve("replica") if n != name)
    with changing(cluster.folder.faults) as change:  # as after a failover from `other` to `name`
        fault = ActiveFault(change.file.next_id, "pause", "writer", (other,), 0.0)
        change.file = change.file.adding(fault)
    assert kit.resume("writer") == [fault]
    assert kit.active() == []


def test_a_pause_ends_by_itself(cluster, kit, writer):
    process = cluster.process("storage-2")
    kit.pause("storage-2", for_s=2)
    assert _stopped(process.pid)
    cluster.until(lambda: not _stopped(process.pid), "the supervisor wakes it")
    for _ in range(10):  # over before the supervisor has looked, or just then
        kit.pause("storage-2", for_s=0.005)
        cluster.until(lambda: not _stopped(process.pid), "it is not left stopped")
    assert process.alive


def test_a_zone_down_not_one_write_fails(cluster, kit, writer):
    names = kit.resolve("az2")
    assert set(names) == {"storage-3", "storage-4", "main-2"}
    cluster.sextet("fault", "az", "az2", "down")
    writer.more(200)
    assert not any(running(cluster, name) for name in names)
    cluster.sextet("fault", "az", "az2", "up")
    for name in names:
        cluster.process(name)


def test_a_process_kills_itself_at_a_step_once(cluster, kit, writer):
    before = cluster.process("storage-5")
    done = cluster.sextet("fault", "crash-at", "persist", "storage-5", "--nth", "3", "--for", "1s")
    assert "before persist, time 3" in done.stdout
    cluster.until(lambda: not before.alive, "it dies at the step")
    cluster.until_restarted("storage-5", before)
    after = cluster.process("storage-5")
    writer.more(50)
    assert after.alive, "it died of the same fault again"
    assert kit.active() == []


def test_a_writer_that_dies_before_it_answers_loses_nothing(cluster, kit):
    cluster.query("CREATE TABLE crash (n INTEGER)")
    (name,) = kit.resolve("writer")
    before = cluster.process(name)
    kit.crash_at(name, Step.DURABLE)
    with pytest.raises(psycopg.Error), cluster.connect() as connection:
        connection.execute("INSERT INTO crash VALUES (1)")
    cluster.until(lambda: not before.alive, f"{name} is dead")  # its sockets close a moment earlier
    cluster.until(lambda: _answers(cluster), "a writer is there again")
    assert cluster.query("SELECT count(*) FROM crash") in ([(0,)], [(1,)])


def _answers(cluster) -> bool:
    try:
        return bool(cluster.query("CREATE TABLE IF NOT EXISTS answers (n INTEGER)") == [])
    except psycopg.Error:
        return False


def test_a_wiped_node_comes_back_as_another_incarnation(new_cluster):
    cluster = new_cluster("--readers", 0)
    kit = FaultKit(cluster.folder)
    cluster.query("CREATE TABLE w (n INTEGER)")
    old, before = storage(cluster, "storage-6").incarnation, cluster.process("storage-6")
    assert old
    kit.wipe("storage-6")
    assert kit.active() == []
    cluster.until_restarted("storage-6", before)
    cluster.until(lambda: _incarnation(cluster, "storage-6") not in ("", old), "another one")
    cluster.query("INSERT INTO w VALUES (1)")
    assert cluster.query("SELECT count(*) FROM w") == [(1,)]


def _incarnation(cluster, name: str) -> str:
    return next(row["incarnation"] for row in cluster.status()["storage"] if row["name"] == name)


# -- the network


@pytest.mark.parametrize("one_way", [False, True])
def test_a_storage_node_cut_off_falls_behind_in_silence_and_catches_up(
    cluster, kit, writer, one_way
):
    if one_way:
        fault = kit.partition("all", "storage-1", one_way=True)
    else:
        fault = kit.partition("storage-1", "all")
    behind = scl(cluster, "storage-1")
    writer.more(100)
    assert scl(cluster, "storage-1") == behind
    assert scl(cluster, "storage-2") > behind
    assert kit.effects(fault).keys() >= {"storage-1"}
    log = cluster.folder.log(kit.resolve("writer")[0]).read_text()
    assert "refused" not in log.rpartition(f"fault {fault.id}:")[2], "a partition is silent"
    kit.heal(fault.id)
    level(cluster)


def test_an_isolated_replica_says_nothing_to_its_clients_until_it_is_healed(cluster, kit):
    names = kit.resolve("replica")
    with cluster.connect(reader=True) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
        fault = kit.isolate("replica")
        answered = threading.Event()

        def ask() -> None:
            connection.execute("SELECT 2").fetchall()
            answered.set()

        asking = threading.Thread(target=ask)
        asking.start()
        assert not answered.wait(1.0), "it answered although it is isolated"
        assert fault.names == names
        kit.heal()
        assert answered.wait(30)
        asking.join()


def test_a_slow_and_lossy_network_is_only_slow(cluster, kit, writer):
    slow, lossy = kit.slow_net("storage", latency_s=0.02), kit.drop("az3", share=0.3)
    writer.more(20)
    assert sum(kit.effects(slow).values()) > 20
    cluster.until(lambda: sum(kit.effects(lossy).values()) > 0, "a message was sent again")


# -- disks and clocks


def test_slow_disks_of_two_nodes_are_masked_by_the_quorum(cluster, kit, writer):
    fault = kit.slow_disk("storage-1", factor=500)
    kit.slow_disk("storage-4", factor=500)
    writer.more(100)
    cluster.until(lambda: kit.effects(fault).get("storage-1"), "its disk was slow")


def test_a_full_disk_takes_nothing_and_writes_go_on(cluster, kit, writer):
    kit.fill_disk("storage-3")
    behind = scl(cluster, "storage-3")
    writer.more(50)
    assert scl(cluster, "storage-3") == behind
    cluster.until(lambda: storage(cluster, "storage-3").state == "disk full", "it says so")
    kit.heal("storage-3")
    level(cluster)


def test_a_failed_fsync_ends_the_node_once(cluster, kit, writer):
    before = cluster.process("storage-4")
    kit.fail_fsync("storage-4")
    cluster.until(lambda: not before.alive, "it fences itself")
    after = cluster.until_restarted("storage-4", before)
    writer.more(50)
    assert after.alive
    assert kit.active() == []
    assert "Input/output error" in cluster.folder.log("storage-4").read_text()


def test_a_wrong_clock_is_seen_in_sql_and_nothing_else(cluster, kit, writer):
    with cluster.connect(reader=True) as connection:
        now = "SELECT CAST(strftime('%s', 'now') AS INTEGER)"
        (before,) = connection.execute(now).fetchone()
        kit.clock_skew("replica", seconds=7200)
        (after,) = connection.execute(now).fetchone()
        assert 7200 <= after - before < 7300
    kit.clock_skew("all", seconds=-86400)
    writer.more(20)


def versions(cluster, name: str) -> dict[tuple[int, int], bytes]:
    """Every page version that the node stores, by page and LSN."""
    path = cluster.folder.storage(name) / "node.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT page, lsn, image FROM page_version").fetchall()
    return {(page, lsn): image for page, lsn, image in rows}


def rows_of_a_page(cluster, table: str, count: int) -> None:
    cluster.query(f"CREATE TABLE {table} (n INTEGER PRIMARY KEY, body BLOB)")
    cluster.query(
        f"INSERT INTO {table} WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c"
        f" WHERE n < {count}) SELECT n, randomblob(4000) FROM c"
    )


def fill(cluster, table: str) -> int:
    """A table whose redo is enough to be made into page versions soon; its root page's number."""
    rows_of_a_page(cluster, table, 1200)
    ((root,),) = cluster.query(f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'")
    page = int(root) - 1
    level(cluster)
    for node in cluster.layout.storage:
        cluster.until(lambda name=node.name: _all_pages(cluster, name), f"{node.name} has pages")
    return page


def forget(cluster, upto: int) -> None:
    """Write so much else that no hot log has redo up to `upto` any more: it would be a copy of its own."""

    def oldest(name: str) -> int:
        shown = cluster.sextet("log", name, "--json", "--limit", 1).stdout
        return min((record["lsn"] for record in json.loads(shown)), default=0)

    def forgotten() -> bool:
        cluster.query("UPDATE other SET body = randomblob(4000)")
        return all(oldest(node.name) > upto for node in cluster.layout.storage)

    rows_of_a_page(cluster, "other", 600)
    cluster.until(forgotten, f"redo up to {upto} is in no hot log", seconds=120)


def _all_pages(cluster, name: str) -> bool:
    """Has all redo of the first group become page versions on the node?"""
    (segment,) = (s for s in storage(cluster, name).segments if s.pg == 0)
    path = cluster.folder.storage(name) / "node.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT applied_lsn FROM segment WHERE pg = 0").fetchall()
    return rows == [(segment.scl,)]


def test_a_page_rotten_in_one_copy_and_in_two_is_found_and_repaired(new_cluster):
    cluster = new_cluster("--readers", 0)
    page = fill(cluster, "rot_page")
    for targets in (["storage-1"], ["storage-2", "storage-5"]):
        good = versions(cluster, "storage-6")
        found = [storage(cluster, t).counters["scrub_found"] for t in targets]
        cluster.sextet("fault", "corrupt", *targets, "--page", page)
        for target, before in zip(targets, found, strict=True):

            def repaired(target: str, before: int, good: dict[tuple[int, int], bytes]) -> bool:
                now = versions(cluster, target)
                same = all(now[key] == good[key] for key in now.keys() & good.keys())
                return same and storage(cluster, target).counters["scrub_found"] > before

            cluster.until(
                partial(repaired, target, before, good), f"{target} is repaired", seconds=60
            )
    assert cluster.query("PRAGMA integrity_check") == [("ok",)]


def test_a_log_rotten_in_some_copies_and_in_all_is_found_and_repaired_without_a_control_plane(
    new_cluster,
):
    """In all copies while the nodes live on, which have what they wrote last in memory."""
    cluster = new_cluster("--readers", 0)
    kit = FaultKit(cluster.folder)
    cluster.query("CREATE TABLE rot_log (n INTEGER)")
    everybody = [node.name for node in cluster.layout.storage]
    for number, targets in enumerate((["storage-1"], ["storage-2", "storage-5"], everybody)):
        cluster.query(f"INSERT INTO rot_log VALUES ({number})")
        level(cluster)
        before = {t: storage(cluster, t).counters["scrub_repaired"] for t in targets}
        control = cluster.kill("control")
        kit.corrupt(*targets, what="log")
        for target in targets:
            cluster.until(
                lambda t=target, n=before[target]: (
                    storage(cluster, t).counters["scrub_repaired"] > n
                ),
                f"{target} is repaired",
                seconds=60,
            )
        cluster.until_restarted("control", control)
        assert {node["state"] for node in cluster.status()["storage"]} == {"up"}
    assert cluster.query("SELECT count(*) FROM rot_log") == [(3,)]


def test_a_log_rotten_in_all_copies_that_nobody_remembers_is_an_error_that_names_it(new_cluster):
    """Who has lost what was acknowledged must say so: no answer without it, and no writer."""
    cluster = new_cluster("--readers", 0)
    kit = FaultKit(cluster.folder)
    cluster.query("CREATE TABLE lost (n INTEGER)")
    cluster.query("INSERT INTO lost VALUES (1)")
    level(cluster)
    down = kit.kill("storage", hold=True)
    rotten = kit.corrupt("storage", what="log")
    kit.kill("main-1")
    kit.heal(down.id)
    page, lsn = int(rotten.param("page", -1)), int(rotten.param("lsn", -1))

    def told() -> bool:
        return all(n["state"].startswith("lost redo ") for n in cluster.status()["storage"])

    cluster.until(told, "all six say what they have lost")
    state = storage(cluster, "storage-1").state
    found = re.fullmatch(r"lost redo (\d+)\.\.(\d+) of group 0 \(pages? (.+)\)", state)
    assert found, state
    assert int(found[1]) <= lsn <= int(found[2])
    assert str(page) in found[3].split(", ")
    with pytest.raises(psycopg.OperationalError, match="no writer has been available"):
        cluster.query("SELECT n FROM lost")
    assert f"lost redo {found[1]}..{found[2]}" in cluster.sextet("status").stdout
    assert f"storage-1: {state}: it rotted in too many copies" in " ".join(cluster.events())
    assert "import the last `sextet export`" in cluster.folder.log("storage-1").read_text()
    # What may have been acknowledged is never taken for something that never was.
    _, _, since = cluster.folder.log("main-1").read_text().partition("RecoveryBlocked")
    assert since, "recovery was not stopped"
    assert "volume open" not in since


@pytest.mark.long
def test_a_page_rotten_in_all_copies_is_an_error_that_names_it_never_a_wrong_answer(new_cluster):
    cluster = new_cluster("--readers", 0)
    page = fill(cluster, "gone")
    forget(cluster, cluster.status()["volume"]["vdl"])
    done = cluster.sextet("fault", "corrupt", "storage", "--page", page)
    lsn = done.stdout.split("lsn ")[1].split()[0]
    before = cluster.process("main-1")
    FaultKit(cluster.folder).kill("main-1")  # whose buffer pool still has the page
    cluster.until_restarted("main-1", before)

    def error() -> str:
        try:
            return f"answered: {cluster.query('SELECT sum(n) FROM gone')}"
        except psycopg.errors.DataCorrupted as found:
            return str(found)
        except psycopg.Error:
            return ""  # not up yet

    text = cluster.until(error, "an answer of some kind", seconds=90)
    assert f"page {page} at LSN {lsn}" in text
    assert cluster.query("SELECT count(*) FROM other") == [(600,)], "what is whole is served"


# -- in SQL


def test_faults_in_sql_are_the_same_faults(cluster, kit, writer):
    rows = cluster.query("SHOW VOLUME STATUS")
    assert [row[:3] for row in rows][::5] == [("0", "storage-1", "az1"), ("5", "storage-6", "az3")]
    with cluster.connect() as connection:
        connection.execute(
            'ALTER SYSTEM SIMULATE 100 PERCENT READ REPLICA FAILURE TO "main-2" '
            "FOR INTERVAL 5 MINUTE"
        )
        connection.execute("ALTER SYSTEM SIMULATE 17 PERCENT DISK FAILURE FOR INTERVAL 300 SECOND")
        connection.execute(
            "ALTER SYSTEM SIMULATE 50 PERCENT DISK CONGESTION BETWEEN 1 AND 40 MILLISECONDS "
            "IN DISK 5 FOR INTERVAL 300 SECOND"
        )
    replica, disk, congestion = kit.active()
    (name,) = kit.resolve("writer")
    assert (replica.kind, replica.names, replica.peers) == ("partition", ("main-2",), (name,))
    assert (disk.kind, disk.names) == ("isolate", ("storage-1",))
    assert (congestion.kind, congestion.names) == ("slow-disk", ("storage-6",))
    cluster.until(lambda: all(map(kit.effects, kit.active())), "all three took effect")
    writer.more(20)
    assert [row[3] for row in cluster.query("SHOW VOLUME STATUS")][::5] == ["isolate", "slow-disk"]


def test_crash_in_sql_ends_the_instance_that_is_told_so(cluster, kit):
    (name,) = kit.resolve("writer")
    before = cluster.process(name)
    with pytest.raises(psycopg.OperationalError), cluster.connect() as connection:
        connection.execute("ALTER SYSTEM CRASH INSTANCE")
    cluster.until(lambda: not before.alive, f"{name} is dead")  # its sockets close a moment earlier
    cluster.until(lambda: _answers(cluster), "a writer is there again")


# -- who may, and what cannot be


def test_what_cannot_be_is_refused_by_name(cluster, kit):
    with pytest.raises(ConfigError, match=r"there is no storage-7; a target is one of storage-1, "):
        kit.kill("storage-7")
    with pytest.raises(ConfigError, match=r"main-1 has none; there is: storage-1, storage-2"):
        kit.fill_disk("main-1")
    with pytest.raises(ConfigError, match="lose-writes needs the simulator"):
        kit.begin(Fault(Kind.LOSE_WRITES, "storage-1"))
    with pytest.raises(ConfigError, match="there is no active fault 999; there is: none"):
        kit.heal(999)
    for arguments, text in [
        (("kill", "nobody"), "there is no nobody"),
        (("crash-at", "lunch", "storage-1"), "there is no step lunch; there is: receive, persist"),
        (("pause", "storage-1", "--for", "soon"), "'soon' is no time; write it like 30s"),
        (("az", "az9", "down"), "there is no az9"),
    ]:
        done = cluster.sextet("fault", *arguments, check=False)
        assert done.returncode == 1
        assert text in done.stderr
    assert kit.active() == []


def test_an_installation_that_does_not_allow_faults_has_none(new_cluster):
    cluster = new_cluster("--readers", 0, "--no-faults")
    done = cluster.sextet("fault", "kill", "storage-1", check=False)
    assert done.returncode == 1
    assert "sextet up --faults" in done.stderr
    listening = list((cluster.folder.data / "faults").glob(f"*{SUFFIX}"))
    assert not listening, "somebody listens for faults"
    for statement in ("ALTER SYSTEM CRASH", "SHOW VOLUME STATUS"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="sextet up --faults"):
            cluster.query(statement)
    assert cluster.process("main-1").alive
