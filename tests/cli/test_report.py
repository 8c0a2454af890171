"""The status report: stable keys, honest quorums, null for what nobody said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.cli.clusters import keepers
from cluster.cli.report import cluster_state, scl_against, scl_range, status_report
from cluster.local.archiving import ArchiveState
from cluster.local.layout import ClusterState
from cluster.local.processes import ProcessId
from cluster.local.state import ChildState, SupervisorState
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as spb
from tests.cluster.control.test_catalog import NODES, make_layout

SPEC = make_layout().cluster("main")


def _membership(pg: int) -> spb.PgMembership:
    members = [
        spb.MemberInfo(node=n, az="az1", address=f"127.0.0.1:{i}", incarnation=f"life-{n}")
        for i, n in enumerate(NODES, start=1)
    ]
    return spb.PgMembership(pg=pg, epoch=1, members=members)


def _storage(name: str, number: int, *, pgs: int = 2) -> pb.StorageReport:
    status = spb.StorageStatusReply(
        node=name, az="az1", pid=100 + number, state="up", incarnation=f"life-{name}", wal_bytes=10
    )
    for pg in range(pgs):
        status.segments.add(volume=1, pg=pg, scl=50 + pg, epoch=2)
    status.segments.add(volume=2, pg=0, scl=999)  # another cluster's
    return pb.StorageReport(node=name, az="az1", address=f"127.0.0.1:{number}", status=status)


def _status() -> pb.ClusterStatusReply:
    view = pb.ClusterView(
        cluster="main",
        volume=1,
        max_pages=7680,
        memberships=[_membership(0), _membership(1)],
        volume_epoch=2,
    )
    writer = ipb.InstanceStatusReply(
        instance="main-1",
        role="writer",
        state="available",
        pid=7,
        epoch=2,
        vcl=52,
        vdl=51,
        read_lsn=51,
        volume_pages=10,
        recovery_us=1500,
        counters={"redo_bytes": 370, "dirty_page_bytes": 8192, "commits": 1, "records": 2},
        quorums=[ipb.PgQuorum(pg=pg, write=True, read=True, pgcl=50 + pg) for pg in (0, 1)],
    )
    replica = ipb.InstanceStatusReply(
        instance="main-2",
        role="replica",
        state="available",
        pid=8,
        epoch=2,
        read_lsn=49,
        lag_us=2500,
    )
    reply = pb.ClusterStatusReply(cluster=view)
    for status, role in ((writer, "writer"), (replica, "replica")):
        reply.instances.add(
            view=pb.InstanceView(
                name=status.instance,
                az="az1",
                address="127.0.0.1:9",
                role=role,
                tier=3,
                size="small",
            ),
            status=status,
        )
    reply.storage.extend(_storage(name, n) for n, name in enumerate(NODES, start=1))
    return reply


def _report(status: pb.ClusterStatusReply):
    return status_report(SPEC, status, None)


def test_everything_an_operator_wants_is_there():
    report = _report(_status())
    assert report["running"] is True
    assert report["endpoints"] == {"writer": SPEC.writer_url, "reader": SPEC.reader_url}
    assert report["volume"] == {
        "id": 1,
        "epoch": 2,
        "vcl": 52,
        "vdl": 51,
        "pages": 10,
        "bytes": 40960,
        "max_bytes": 7680 * 4096,
        "state": "available",
        "groups": 2,
    }
    assert report["redo"] == {
        "commits": 1,
        "records": 2,
        "redo_bytes": 370,
        "dirty_page_bytes": 8192,
    }
    writer, replica = report["instances"]
    assert (writer["tier"], writer["size"]) == (3, "small")
    assert (writer["role"], writer["pid"], writer["port"], writer["state"]) == (
        "writer",
        7,
        9,
        "available",
    )
    assert (writer["lag_ms"], writer["recovery_ms"]) == (None, 1.5)
    assert (replica["lag_ms"], replica["read_lsn"]) == (2.5, 49)
    first = report["storage"][0]
    assert (first["name"], first["pid"], first["port"], first["state"]) == (
        "storage-1",
        101,
        1,
        "up",
    )
    assert [(s["pg"], s["scl"]) for s in first["segments"]] == [(0, 50), (1, 51)]
    assert [g["pgcl"] for g in report["groups"]] == [50, 51]


@pytest.mark.parametrize(
    ("dead", "write", "read"),
    [(0, True, True), (2, True, True), (3, False, True), (4, False, False)],
)
def test_quorums_count_who_answers(dead, write, read):
    status = _status()
    for report in status.storage[:dead]:
        report.ClearField("status")
        report.error = "no answer"
    group = _report(status)["groups"][0]
    assert (group["write_quorum"], group["read_quorum"]) == (write, read)
    assert len(group["answering"]) == 6 - dead


def test_wiped_damaged_and_missing_segments_do_not_count():
    status = _status()
    status.storage[0].status.incarnation = "another life"
    status.storage[0].error = "wiped: ..."
    status.storage[1].status.segments[0].damaged = True
    del status.storage[2].status.segments[:]
    report = _report(status)
    assert report["groups"][0]["answering"] == NODES[3:]
    assert not report["groups"][0]["write_quorum"]
    assert report["storage"][0]["state"] == "wiped"


def test_writer_that_cannot_reach_a_quorum_is_believed():
    status = _status()
    status.instances[0].status.quorums[0].write = False
    assert not _report(status)["groups"][0]["write_quorum"]


def test_storage_full_is_what_the_writer_says():
    status = _status()
    status.instances[0].status.storage_full = True
    assert _report(status)["volume"]["state"] == "storage-full"
    status.instances[0].ClearField("status")
    assert _report(status)["volume"]["state"] is None


def test_nulls_while_nobody_answers():
    status = _status()
    for report in [*status.instances, *status.storage]:
        report.ClearField("status")
        report.error = "no answer"
    report = _report(status)
    assert report["volume"]["epoch"] == 2, "the catalog's"
    assert report["volume"]["vdl"] is None
    assert report["redo"]["redo_bytes"] is None
    assert {i["state"] for i in report["instances"]} == {"down"}
    assert {s["state"] for s in report["storage"]} == {"down"}
    assert not any(g["read_quorum"] for g in report["groups"])


def test_points_come_from_a_replica_while_the_writer_is_away():
    status = _status()
    status.instances[0].ClearField("status")
    status.instances[1].status.vdl = 49
    report = _report(status)
    assert (report["volume"]["vcl"], report["volume"]["vdl"]) == (None, 49)


def test_processes_are_the_supervisors():
    child = ChildState("main-1", ProcessId(42, 1, "boot"), restarts=3, exit_status=-9)
    supervisor = SupervisorState(ProcessId(41, 1, "boot"), stopping=False, children=(child,))
    status = _status()
    status.instances[0].ClearField("status")
    report = status_report(SPEC, status, supervisor)
    assert [(p["name"], p["pid"], p["restarts"]) for p in report["processes"]] == [
        ("supervisor", 41, 0),
        ("main-1", 42, 3),
    ]
    assert report["instances"][0]["pid"] == 42


@pytest.mark.parametrize(
    ("scls", "text"), [([], "–"), ([7], "7"), ([7, 7], "7"), ([9, 7, 8], "7 … 9")]
)
def test_scl_range(scls, text):
    assert scl_range([{"scl": scl} for scl in scls]) == text


@pytest.mark.parametrize(
    ("scl", "highest", "text"), [(7, 7, "="), (5, 7, "-2"), (None, 7, "–"), (None, None, "–")]
)
def test_scl_against_the_highest(scl, highest, text):
    assert scl_against(scl, highest) == text


@pytest.mark.parametrize(
    ("wanted", "left", "word"),
    [
        (ClusterState.RUNNING, True, "available"),
        (ClusterState.CREATING, True, "creating"),
        (ClusterState.STOPPED, True, "stopping"),
        (ClusterState.STOPPED, False, "stopped"),
        (ClusterState.DELETING, False, "deleting"),
    ],
)
def test_state_of_a_cluster_is_what_is_wanted_or_how_its_writer_is(wanted, left, word):
    assert cluster_state(replace(SPEC, state=wanted), _status(), left=left) == word


def test_running_cluster_without_an_open_writer_is_unavailable():
    status = _status()
    status.instances[0].status.state = "recovering"
    assert cluster_state(SPEC, status, left=True) == "unavailable"
    del status.instances[:]
    assert cluster_state(SPEC, status, left=True) == "unavailable"
    assert cluster_state(SPEC, None, left=True) == "unavailable"


def test_instances_of_a_stopped_cluster_are_no_trouble():
    status = _status()
    for report in status.instances:
        report.ClearField("status")
        report.error = "connection refused"
    stopped = replace(SPEC, state=ClusterState.STOPPED)
    rows = status_report(stopped, status, None, left=False)["instances"]
    assert [(row["state"], row["error"]) for row in rows] == [("stopped", "")] * 2
    rows = status_report(SPEC, status, None, left=True)["instances"]
    assert [(row["state"], row["error"]) for row in rows] == [("down", "connection refused")] * 2


def test_who_still_has_segments_of_a_deleted_volume():
    status = _status()
    status.storage[3].ClearField("status")
    assert keepers(status, 1) == ([n for n in NODES if n != "storage-4"], ["storage-4"])
    assert keepers(status, 9) == ([], ["storage-4"])


def test_the_backtrack_window_is_named_if_there_is_one():
    for window, told in ((0, None), (5400, 5400)):
        report = status_report(replace(SPEC, backtrack_window_s=window), _status(), None)
        assert report["backtrack_window_s"] == told


# -- the archive


NOW_US = 1_796_049_126_000_000
SAID = ArchiveState(9, NOW_US - 200_000, "main-1", "archiving", "", 51, NOW_US - 1_500_000)


def _archive(said: ArchiveState | None, *, pid: int | None = 9, exit_status: int | None = None):
    process = None if pid is None else ProcessId(pid, 1, "boot")
    child = ChildState("archive-main", process, 0, exit_status)
    supervisor = SupervisorState(ProcessId(1, 1, "boot"), False, (child,))
    spec = replace(SPEC, archive="main-1", retention_days=7)
    return status_report(spec, _status(), supervisor, archive=said, now_us=NOW_US)["archive"]


def test_how_far_behind_the_archive_is():
    assert _archive(SAID) == {
        "name": "main-1",
        "state": "archiving",
        "why": "",
        "upto": 51,
        "restorable_us": NOW_US - 1_500_000,
        "behind_s": 1.5,
        "retention_days": 7,
        "pid": 9,
    }
    ahead = replace(SAID, known_us=NOW_US + 5)  # a writer's clock
    assert _archive(ahead)["behind_s"] == 0


@pytest.mark.parametrize(
    ("said", "process", "state", "why"),
    [
        (None, {"pid": None}, "starting", ""),
        (None, {}, "starting", ""),
        (SAID, {"pid": 10}, "starting", ""),
        (SAID, {"pid": None, "exit_status": 1}, "down", "archive-main has ended, see its log"),
        (replace(SAID, state="waiting", why="full"), {}, "waiting", "full"),
        (replace(SAID, at_us=NOW_US - 20_000_000), {}, "waiting", "has said nothing for 20 s"),
    ],
)
def test_what_keeps_the_archive_is_said(said, process, state, why):
    found = _archive(said, **process)
    assert found["state"] == state
    assert why in found["why"]
    assert bool(found["why"]) == bool(why)
    assert found["behind_s"] == (None if said is None else 1.5)


def test_nothing_that_is_known_is_no_number():
    found = _archive(replace(SAID, known_us=0))
    assert (found["behind_s"], found["restorable_us"]) == (None, None)


def test_a_stopped_cluster_archives_nothing():
    spec = replace(SPEC, state=ClusterState.STOPPED)
    found = status_report(spec, _status(), None, left=False, archive=SAID, now_us=NOW_US)["archive"]
    assert (found["state"], found["why"], found["behind_s"]) == ("stopped", "", 1.5)
