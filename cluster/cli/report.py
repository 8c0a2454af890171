"""What `sextet status --json` prints, made from what the control plane gathered. Pure.

The keys are an interface: add, but do not rename. Numbers that nobody reported are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.local.archiving import ArchiveState
from cluster.local.components import archiver_name
from cluster.local.layout import ClusterSpec, ClusterState
from cluster.local.state import SupervisorState
from engine.net.pb import control_pb2 as pb
from engine.net.pb import storage_pb2 as spb
from engine.types import PAGE_SIZE, CommitMark
from engine.volume.fencing import membership_from_pb
from engine.volume.quorum import read_quorum, write_quorum

OPEN = frozenset({"available", "importing", "committing"})
"""States of a writer that has opened the volume."""

REDO_COUNTERS = ("commits", "records", "redo_bytes", "dirty_page_bytes")


def status_report(
    spec: ClusterSpec,
    status: pb.ClusterStatusReply,
    supervisor: SupervisorState | None,
    *,
    left: bool = True,
    archive: ArchiveState | None = None,
    oldest: CommitMark | None = None,
    now_us: int = 0,
) -> dict[str, Any]:
    """Everything that is known about the cluster now. `left`: it has processes. `archive`: what its
    archiver said last, `oldest`: where its hot window begins, `now_us`: Unix microseconds."""
    volume = status.cluster.volume
    storage = [_storage(report, volume, supervisor) for report in status.storage]
    groups = _groups(status)
    return {
        "running": True,
        "cluster": spec.name,
        "state": cluster_state(spec, status, left=left),
        "endpoints": {"writer": spec.writer_url, "reader": spec.reader_url},
        "volume": _volume(status, len(groups)),
        "redo": _redo(status),
        "past": None if oldest is None else {"lsn": oldest.lsn, "time_us": oldest.time_us},
        "archive": _archive(spec, supervisor, archive, now_us),
        "backtrack_window_s": spec.backtrack_window_s or None,
        "instances": [
            _instance(report, supervisor, stopped=not (spec.runs or left))
            for report in status.instances
        ],
        "storage": storage,
        "groups": groups,
        "processes": _processes(supervisor),
    }


def cluster_state(spec: ClusterSpec, status: pb.ClusterStatusReply | None, *, left: bool) -> str:
    """One word for the cluster as a whole: what is wanted of it, or else how its writer is.

    "cloning", "creating", "restoring", "stopping", "stopped", "deleting", "available", "importing",
    "committing", or "unavailable".
    """
    if spec.state is ClusterState.STOPPED:
        return "stopping" if left else "stopped"
    if spec.restoring and spec.state is not ClusterState.DELETING:
        return "restoring"
    if spec.state is not ClusterState.RUNNING:
        return spec.state.value
    writer = _writer(status) if status is not None else None
    return (
        writer.status.state if writer is not None and writer.status.state in OPEN else "unavailable"
    )


def down_report(data: str, reason: str) -> dict[str, Any]:
    return {"running": False, "data": data, "error": reason}


def _writer(status: pb.ClusterStatusReply) -> pb.InstanceReport | None:
    """The writer's report, if it has opened the volume."""
    for report in status.instances:
        if report.view.role == "writer" and report.status.epoch:
            return report
    return None


def has_writer(status: pb.ClusterStatusReply) -> bool:
    """Whether the volume is open."""
    return _writer(status) is not None


def _volume(status: pb.ClusterStatusReply, groups: int) -> dict[str, Any]:
    view = status.cluster
    writer = _writer(status)
    seen = [r.status for r in status.instances if r.HasField("status")]
    newest = max(seen, key=lambda s: s.read_lsn, default=None)
    source = writer.status if writer is not None else newest
    pages = source.volume_pages if source is not None else None
    return {
        "id": view.volume,
        "epoch": view.volume_epoch,
        "vcl": writer.status.vcl if writer is not None else None,
        "vdl": source.vdl if source is not None else None,
        "pages": pages,
        "bytes": None if pages is None else pages * PAGE_SIZE,
        "max_bytes": view.max_pages * PAGE_SIZE,
        "state": _volume_state(writer),
        "groups": groups,
    }


def _volume_state(writer: pb.InstanceReport | None) -> str | None:
    """As the writer says; nobody else knows."""
    if writer is None:
        return None
    return "storage-full" if writer.status.storage_full else "available"


def _redo(status: pb.ClusterStatusReply) -> dict[str, int | None]:
    """The writer's counters since it opened the volume: shipped redo against dirtied pages."""
    writer = _writer(status)
    if writer is None:
        return dict.fromkeys(REDO_COUNTERS)
    return {name: writer.status.counters[name] for name in REDO_COUNTERS}


SILENT_S = 15.0
"""An archiver tells of itself every second; one that has not for so long is stuck."""


def _archive(
    spec: ClusterSpec, supervisor: SupervisorState | None, said: ArchiveState | None, now_us: int
) -> dict[str, Any]:
    """How far behind now the newest moment is to which the cluster could be restored, and why."""
    name = archiver_name(spec.name)
    child = supervisor.child(name) if supervisor is not None else None
    pid = _pid(supervisor, name)
    state, why = "stopped", ""
    if spec.runs and pid is None:
        ended = child is not None and child.exit_status is not None
        state, why = ("down", f"{name} has ended, see its log") if ended else ("starting", "")
    elif spec.runs and (said is None or said.pid != pid):
        state = "starting"
    elif spec.runs and said is not None:
        state, why = said.state, said.why
        if now_us - said.at_us > SILENT_S * 1e6:
            state, why = (
                "waiting",
                f"{name} has said nothing for {(now_us - said.at_us) // 10**6} s",
            )
    known = said is not None and said.known_us > 0
    return {
        "name": said.archive if said is not None else spec.archive,
        "state": state,
        "why": why,
        "upto": said.upto if said is not None else None,
        "restorable_us": said.known_us if said is not None and known else None,
        "behind_s": (max(0, now_us - said.known_us) / 1e6 if said is not None and known else None),
        "retention_days": spec.retention_days,
        "pid": pid,
    }


def _instance(
    report: pb.InstanceReport, supervisor: SupervisorState | None, *, stopped: bool
) -> dict[str, Any]:
    answered = report.HasField("status")
    status = report.status
    replica = report.view.role != "writer"
    return {
        "name": report.view.name,
        "role": report.view.role,
        "az": report.view.az,
        "tier": report.view.tier,
        "size": report.view.size,
        "pid": status.pid or _pid(supervisor, report.view.name),
        "port": _port(report.view.address),
        "state": status.state if answered else "stopped" if stopped else "down",
        "read_lsn": status.read_lsn if answered else None,
        "lag_ms": status.lag_us / 1000 if answered and replica else None,
        "connections": status.connections if answered else None,
        "recovery_ms": status.recovery_us / 1000 if answered and not replica else None,
        "error": "" if stopped else report.error,
        "counters": _sorted(status.counters),
    }


def _storage(
    report: pb.StorageReport, volume: int, supervisor: SupervisorState | None
) -> dict[str, Any]:
    answered = report.HasField("status")
    status = report.status
    state = status.state if answered else "down"
    return {
        "name": report.node,
        "az": report.az,
        "pid": status.pid or _pid(supervisor, report.node),
        "port": _port(report.address),
        "state": "wiped" if answered and report.error else state,
        "incarnation": status.incarnation if answered else None,
        "wal_bytes": status.wal_bytes if answered else None,
        "segments": [_segment(s) for s in status.segments if s.volume == volume],
        "error": report.error,
        "counters": _sorted(status.counters),
    }


def _segment(segment: spb.SegmentStatus) -> dict[str, Any]:
    return {
        "pg": segment.pg,
        "scl": segment.scl,
        "epoch": segment.epoch,
        "applied": segment.applied,
        "hot_from": segment.hot_from,
        "pages": segment.pages,
        "pending_frames": segment.pending_frames,
        "damaged": segment.damaged,
    }


def _groups(status: pb.ClusterStatusReply) -> list[dict[str, Any]]:
    """Per group whether its quorums hold: what storage answers now, and what the writer sees."""
    answering = {report.node: _held(report, status.cluster.volume) for report in status.storage}
    writer = _writer(status)
    quorums = {q.pg: q for q in writer.status.quorums} if writer is not None else {}
    found = []
    for message in sorted(status.cluster.memberships, key=lambda m: m.pg):
        membership = membership_from_pb(message)
        present = {
            m.node
            for m in membership.voters
            if (message.pg, m.incarnation) in answering.get(m.node, ())
        }
        seen = quorums.get(message.pg)
        change = membership.replacing
        write = write_quorum(membership).satisfied(present)
        read = read_quorum(membership).satisfied(present)
        found.append(
            {
                "pg": message.pg,
                "membership_epoch": message.epoch,
                "write_quorum": write and (seen is None or seen.write),
                "read_quorum": read and (seen is None or seen.read),
                "pgcl": None if seen is None else seen.pgcl,
                "members": [m.node for m in membership.members],
                "replacing": None if change is None else [change.old.node, change.new.node],
                "answering": sorted(present),
            }
        )
    return found


def _held(report: pb.StorageReport, volume: int) -> set[tuple[int, str]]:
    """(group, incarnation) of the undamaged segments that the node answers for."""
    status = report.status
    return {
        (s.pg, status.incarnation) for s in status.segments if s.volume == volume and not s.damaged
    }


def _processes(supervisor: SupervisorState | None) -> list[dict[str, Any]]:
    if supervisor is None:
        return []
    own = {"name": "supervisor", "pid": supervisor.process.pid, "restarts": 0, "exit_status": None}
    return [
        own,
        *(
            {
                "name": child.name,
                "pid": None if child.process is None else child.process.pid,
                "restarts": child.restarts,
                "exit_status": child.exit_status,
            }
            for child in supervisor.children
        ),
    ]


def _pid(supervisor: SupervisorState | None, name: str) -> int | None:
    child = supervisor.child(name) if supervisor is not None else None
    return child.process.pid if child is not None and child.process is not None else None


def _port(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() else None


def _sorted(counters: Mapping[str, int]) -> dict[str, int]:
    return {name: counters[name] for name in sorted(counters)}


def scl_range(segments: Sequence[Mapping[str, Any]]) -> str:
    """A node's SCLs in few characters: one group's, or the lowest and highest of several."""
    values = [segment["scl"] for segment in segments]
    if not values:
        return "–"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} … {high}"


def scl_against(scl: int | None, highest: int | None) -> str:
    """One segment's SCL against the highest of its group."""
    if scl is None or highest is None:
        return "–"
    return "=" if scl == highest else str(scl - highest)
