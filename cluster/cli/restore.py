"""`sextet restore SOURCE NEW` and `sextet snapshot restore`: a new cluster from objects.

The file is made first, from an archive or a snapshot alone, and checked; then a cluster is created, and the
file imported as one commit. So objects that are no good make no cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from cluster.cli.archives import find, opened
from cluster.cli.client import running_layout
from cluster.cli.clusters import announce
from cluster.cli.console import err, out
from cluster.cli.errors import CommandFailed
from cluster.cli.importing import import_file
from cluster.cli.options import DEFAULT_PAST, Past
from cluster.cli.progress import counting
from cluster.cli.room import room
from cluster.local import clusters
from cluster.local.create import with_new_cluster
from cluster.local.files import in_turn
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_MAX_STORAGE, ClusterSpec, load
from cluster.local.names import check_snapshot_name
from cluster.local.ready import Readiness
from engine.archive import snapshots
from engine.archive.catalogue import Target
from engine.archive.restore import Plan, shown
from engine.archive.snapshots import Snapshot
from engine.errors import ConfigError, SextetError
from engine.moments import parse_time


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """As given; None where the user did not say."""

    to_time: str | None
    to_lsn: int | None
    latest: bool
    store: str | None
    readers: int
    snapshot: str | None = None
    past: Past = DEFAULT_PAST


def target_of(options: RestoreOptions, *, now: datetime) -> Target:
    """Raises ConfigError unless exactly one moment was named, and no snapshot."""
    _one_of(options)
    if options.to_time is not None:
        return Target(time_us=parse_time(options.to_time, now=now))
    return Target(lsn=options.to_lsn)


def _one_of(options: RestoreOptions) -> None:
    given = [options.to_time, options.to_lsn, options.latest or None, options.snapshot]
    if sum(value is not None for value in given) != 1:
        raise ConfigError("say to when: one of --to-time, --to-lsn, --latest and --snapshot")


def restore_cluster(folder: Folder, source: str, name: str, options: RestoreOptions) -> None:
    """Raises ConfigError, CommandFailed, ObjectMissing, Corrupt, FormatError; then there is no new one."""
    _one_of(options)
    if options.snapshot is not None:
        restore_snapshot(
            folder,
            options.snapshot,
            name,
            store=options.store,
            readers=options.readers,
            source=source,
            past=options.past,
        )
        return
    target = target_of(options, now=datetime.now(UTC))

    def make(path: Path) -> str:
        plan = asyncio.run(make_file(folder, source, options.store, target, path))
        if not plan.commit.lsn:
            raise CommandFailed(f"at that time nothing was in {source} yet; nothing is restored")
        return f"{plan.archive} as of LSN {plan.commit.lsn}, committed {shown(plan.commit.time_us)}"

    _new_cluster(folder, name, make, options.readers, options.past)


def restore_snapshot(
    folder: Folder,
    snapshot: str,
    name: str,
    *,
    store: str | None,
    readers: int,
    source: str | None = None,
    past: Past = DEFAULT_PAST,
) -> None:
    """Raises as `restore_cluster` does, and ConfigError if the snapshot is not of `source`, a cluster or an
    archive."""
    check_snapshot_name(snapshot)

    def make(path: Path) -> str:
        made = asyncio.run(snapshot_file(folder, snapshot, store, path, source=source))
        return (
            f"snapshot {snapshot}: {made.cluster} as of LSN {made.commit.lsn}, committed "
            f"{shown(made.commit.time_us)}"
        )

    _new_cluster(folder, name, make, readers, past)


async def snapshot_file(
    folder: Folder, name: str, store: str | None, path: Path, *, source: str | None = None
) -> Snapshot:
    """Write a snapshot's database to a new file. Raises as `restore_snapshot`, FileExistsError."""
    async with opened(folder, store) as objects:
        snapshot = await snapshots.load(objects, name)
        if source not in (None, snapshot.cluster, snapshot.archive):
            raise ConfigError(f"snapshot {name} is of {snapshot.cluster}, not of {source}")
        with counting("reading objects") as progress:
            await snapshots.write_file(objects, snapshot, path, progress)
    return snapshot


def _new_cluster(
    folder: Folder, name: str, make: Callable[[Path], str], readers: int, past: Past
) -> None:
    """Of the file that `make` writes; it says what is in it. What an earlier command of that name has left
    that was killed goes first."""
    layout = running_layout(folder)
    if not clusters.is_restoring(layout, name):
        with_new_cluster(  # raises if it cannot be
            layout,
            name,
            readers=readers,
            retention_days=past.retention_days,
            backtrack_window_s=past.window_s,
        )
    lock, busy = folder.restore_lock(name), f"another command is restoring {name} now"
    with in_turn(lock, 0.0, busy), room(folder.run) as own:
        if clusters.is_restoring(running_layout(folder), name):
            out.print(f"an earlier command has not finished {name}: that is removed first")
            clusters.delete_cluster(folder, name)
        path = own / f"{name}.db"
        out.print(make(path))
        spec = _cluster_of(folder, name, path, readers=readers, past=past)
    announce(spec, "is restored")


def _cluster_of(
    folder: Folder, name: str, path: Path, *, readers: int, past: Past = DEFAULT_PAST
) -> ClusterSpec:
    """A new cluster with the contents of `path`. Raises ConfigError, CommandFailed; then there is none."""
    try:
        spec = clusters.create_cluster(
            folder,
            name,
            readers=readers,
            max_storage_bytes=max(DEFAULT_MAX_STORAGE, 2 * path.stat().st_size),
            retention_days=past.retention_days,
            backtrack_window_s=past.window_s,
            restoring=True,
        )
        import_file(folder, name, path)
        clusters.restored(folder, name)
    except Readiness as error:
        _take_back(folder, name)
        raise CommandFailed(f"{error}; see {folder.log(error.component)}") from error
    except BaseException:
        _take_back(folder, name)
        raise
    return spec


def _take_back(folder: Folder, name: str) -> None:
    """Delete what was made of a cluster that could not be restored; not one that others have made."""
    try:
        layout = load(folder.data)
        if layout is not None and clusters.is_restoring(layout, name):
            clusters.delete_cluster(folder, name)
    except SextetError as error:
        err.print(
            f"[red]![/red] {name} is there and has not what it should; `sextet cluster delete {name}` "
            f"removes it: {escape(str(error))}",
            soft_wrap=True,
        )


async def make_file(
    folder: Folder, source: str, store: str | None, target: Target, path: Path
) -> Plan:
    """Write the database as it was then, from an archive alone, to a new file.

    Raises as `restore_cluster`, FileExistsError; then there is no file, or it is somebody else's.
    """
    async with opened(folder, store) as objects:
        archive = await find(folder, objects, source)
        plan = await archive.plan(target)
        with counting("reading objects") as progress:
            await archive.restore(plan, path, progress)
    return plan
