"""What `sextet snapshot` does, but for `restore`, which is in `cluster.cli.restore`."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape

from cluster.cli.archived import PATIENCE_S, wait_archived
from cluster.cli.archives import find, opened, store_meant
from cluster.cli.console import err, narrow_table, out, print_json, size
from cluster.cli.errors import CommandFailed
from cluster.cli.exporting import written
from cluster.cli.progress import counting
from cluster.cli.restore import snapshot_file
from cluster.cli.room import room
from cluster.cli.sqlitefile import check_integrity, open_read_only
from cluster.local.folder import Folder
from cluster.local.layout import load
from cluster.local.names import check_snapshot_name
from cluster.local.state import running_state
from cluster.local.store import make_store, store_name
from engine.archive import snapshots
from engine.archive.catalogue import Target
from engine.archive.restore import Archive, Plan, shown
from engine.archive.snapshots import Snapshot
from engine.errors import ConfigError, ObjectMissing, SextetError
from engine.moments import parse_time
from engine.ports import ObjectStore
from engine.types import LSN

BASE_POLL_S = 0.5


def create_snapshot(
    folder: Folder,
    source: str,
    name: str,
    store: str | None,
    *,
    to_time: str | None,
    to_lsn: int | None,
) -> None:
    """Raises ConfigError, CommandFailed, NotRunning, Unavailable, ObjectMissing, Corrupt, FormatError; then
    there is none, unless an object store's last answer was lost."""
    check_snapshot_name(name)
    if to_time is not None and to_lsn is not None:
        raise ConfigError("say to when: --to-time or --to-lsn, or neither for now")
    time_us = None if to_time is None else parse_time(to_time, now=datetime.now(UTC))
    made = asyncio.run(_create(folder, source, name, store, Target(to_lsn, time_us)))
    out.print(
        f"snapshot {name} of {made.cluster} is made: as of LSN {made.commit.lsn}, committed "
        f"{shown(made.commit.time_us)}, {size(made.bytes)}",
        soft_wrap=True,
    )


async def _create(
    folder: Folder, source: str, name: str, store: str | None, target: Target
) -> Snapshot:
    async with opened(folder, store) as objects:
        await snapshots.require_free(objects, name)  # before anything is waited for
        wanted = 0
        if target == Target():
            wanted = await _reached(folder, source, store_meant(folder, store))
        archive, plan = await _planned(folder, objects, source, target, wanted)
        if not plan.commit.lsn:
            raise CommandFailed(f"at that time nothing was in {source} yet; there is no snapshot")
        snapshot = Snapshot(
            name=name,
            cluster=_cluster_of(archive.name),
            archive=archive.name,
            commit=plan.commit,
            taken_us=time.time_ns() // 1000,
        )
        with room(_room(folder)) as own:
            path = own / f"{name}.db"
            with counting("reading objects") as progress:
                await archive.restore(plan, path, progress)
            with closing(open_read_only(path)) as database:
                check_integrity(database, path)
            with counting("writing objects") as progress:
                return await snapshots.save(objects, snapshot, path, progress)


async def _reached(folder: Folder, source: str, store: str) -> LSN:
    """Wait until the archive has what a running cluster has committed by now, and say up to where that is;
    of others the archive is all there is: 0."""
    layout = load(folder.data)
    spec = next((c for c in layout.running if c.name == source), None) if layout else None
    if layout is None or spec is None or running_state(folder) is None:
        err.print(
            f"[yellow]![/yellow] {source} does not run here: the end of its archive is taken. What it "
            "committed in its last second may not be there",
            soft_wrap=True,
        )
        return 0
    if store != store_meant(folder, None):
        err.print(
            f"[yellow]![/yellow] {source} is archived elsewhere: the end of what is in {escape(store)} is "
            "taken",
            soft_wrap=True,
        )
        return 0
    return await wait_archived(folder, layout, spec)


async def _planned(
    folder: Folder, store: ObjectStore, source: str, target: Target, wanted: LSN
) -> tuple[Archive, Plan]:
    """Of an archive that reaches to `wanted` at least. One that has begun in the middle of the log, as a
    clone's does, can be restored once it has a base, which is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        archive = await find(folder, store, source)
        try:
            if wanted and (upto := (await archive.window()).upto) < wanted:
                raise CommandFailed(
                    f"archive {archive.name} ends at LSN {upto}, and its archiver has archived {wanted}: "
                    "objects are missing; see `sextet backup verify`"
                )
            return archive, await archive.plan(target)
        except ObjectMissing:
            if not wanted or archive.listing.bases or time.monotonic() > deadline:
                raise
        await asyncio.sleep(BASE_POLL_S)


def _cluster_of(archive: str) -> str:
    """Whose archive this is, by its name (`cluster.local.create.new_archive_name`)."""
    return re.sub(r"(-[0-9a-f]{8})?(\.\d+)?$", "", archive)


def _room(folder: Folder) -> Path | None:
    """Where a database may lie for a while: beside the installation, if there is one."""
    return folder.run if folder.run.is_dir() else None


# -- what there is


def list_snapshots(folder: Folder, store: str | None, *, as_json: bool) -> None:
    """Raises ConfigError, Unavailable."""
    rows, unfinished = asyncio.run(_rows(folder, store))
    if as_json:
        print_json(rows)
        return
    table = narrow_table(("snapshot", "cluster", "LSN", "committed", "size"), right=("LSN", "size"))
    for row in rows:
        if row["error"]:
            table.add_row(row["snapshot"], f"[red]{escape(row['error'])}[/red]", "", "", "")
        else:
            table.add_row(
                row["snapshot"],
                row["cluster"],
                str(row["lsn"]),
                row["committed"],
                size(row["bytes"]),
            )
    out.print(f"in {store_meant(folder, store)}", markup=False, soft_wrap=True)
    out.print(table)
    if unfinished:
        err.print(
            f"unfinished, or being made now: {', '.join(unfinished)}; `sextet snapshot delete NAME` "
            "removes what is left of one",
            style="dim",
            markup=False,
            soft_wrap=True,
        )


async def _rows(folder: Folder, store: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """(one for each snapshot, names of unfinished ones).

    The keys are an interface: add, but do not rename.
    """
    found = []
    async with opened(folder, store) as objects:
        whole, unfinished = snapshots.names_in(await objects.keys(snapshots.PREFIX))
        for name in whole:
            row: dict[str, Any] = {
                "snapshot": name,
                "error": "",
                "store": store_meant(folder, store),
            }
            try:
                snapshot = await snapshots.load(objects, name)
            except SextetError as error:
                row["error"] = str(error)
            else:
                row |= {
                    "cluster": snapshot.cluster,
                    "archive": snapshot.archive,
                    "lsn": snapshot.commit.lsn,
                    "committed": shown(snapshot.commit.time_us),
                    "taken": shown(snapshot.taken_us),
                    "bytes": snapshot.bytes,
                }
            found.append(row)
    return found, unfinished


def verify_snapshot(folder: Folder, name: str, store: str | None) -> None:
    """Raises CommandFailed naming what is wrong; ConfigError, Unavailable, Corrupt, FormatError."""
    check_snapshot_name(name)
    wrong, checked = asyncio.run(_verified(folder, name, store))
    for message in wrong:
        err.print(f"[red]![/red] {escape(message)}", soft_wrap=True)
    if wrong:
        raise CommandFailed(f"{len(wrong)} of {checked} objects of snapshot {name} are no good")
    out.print(f"{checked} objects of snapshot {name} are whole")


async def _verified(folder: Folder, name: str, store: str | None) -> tuple[list[str], int]:
    async with opened(folder, store) as objects:
        snapshot = await snapshots.load(objects, name)
        with counting("checking") as progress:
            return await snapshots.verify(objects, snapshot, progress), len(snapshot.parts) + 1


# -- what becomes of one


def export_snapshot(
    folder: Folder, name: str, store: str | None, path: Path, *, force: bool
) -> None:
    """Raises CommandFailed, ConfigError, Unavailable, ObjectMissing, Corrupt, FormatError; then there is no
    new file and an old one is untouched."""
    check_snapshot_name(name)
    with written(path, force=force) as temporary:
        snapshot = asyncio.run(snapshot_file(folder, name, store, temporary))
    out.print(
        f"{size(snapshot.bytes)} written to {path}: {snapshot.cluster} as of LSN {snapshot.commit.lsn}, "
        f"committed {shown(snapshot.commit.time_us)}",
        markup=False,
        soft_wrap=True,
    )


def copy_snapshot(folder: Folder, name: str, store: str | None, *, to_store: str, new: str) -> None:
    """Raises ConfigError, Unavailable, DiskFull, ObjectMissing, Corrupt, FormatError."""
    check_snapshot_name(name)
    check_snapshot_name(new)
    target = store_name(to_store)
    copied = asyncio.run(_copy(folder, name, store, target, new))
    out.print(
        f"{size(copied.bytes)} copied to snapshot {new} in {target}", markup=False, soft_wrap=True
    )


async def _copy(folder: Folder, name: str, store: str | None, target: str, new: str) -> Snapshot:
    async with opened(folder, store) as objects:
        snapshot = await snapshots.load(objects, name)
        _have(target)
        async with opened(folder, target) as others:
            with counting("copying") as progress:
                return await snapshots.copy(objects, snapshot, others, new, progress)


def _have(store: str) -> None:
    """A folder that is there is a store already, or else it may be the mount point of one that is away."""
    if "://" in store or not Path(store).exists():
        make_store(store)


def delete_snapshot(folder: Folder, name: str, store: str | None) -> None:
    """Raises ConfigError if there is nothing of that name, Unavailable."""
    check_snapshot_name(name)
    was_there, deleted = asyncio.run(_delete(folder, name, store))
    if was_there:
        out.print(f"snapshot {name} is deleted")
    else:
        out.print(
            f"there was no snapshot {name}; {deleted} objects of an unfinished one are deleted"
        )


async def _delete(folder: Folder, name: str, store: str | None) -> tuple[bool, int]:
    async with opened(folder, store) as objects:
        was_there, deleted = await snapshots.delete(objects, name)
        if not deleted:
            await snapshots.load(objects, name)  # raises, saying which ones there are
        return was_there, deleted
