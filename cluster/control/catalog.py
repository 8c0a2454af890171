"""The control plane's memory: one SQLite file, every transition a transaction.

Invariants
- A transition that depends on what was read before compares and sets: it names the old value, and
  returns False instead of changing anything if somebody was faster. So nothing here relies on there
  being one control plane only.
- A volume's epoch and a group's membership epoch never fall.
- A volume's number is never used again. Of a deleted one its row stays, and its groups without members, at
  a membership epoch above all that any segment has heard of: by that whoever still keeps one drops it.
- A segment is created once in its life: a member row belongs to one incarnation of its node for
  ever (`''` until the node first registers), and `assignments` says "create" only to that
  incarnation and only until it has confirmed. A wiped node is another incarnation and is never told
  to create what it lost (four acks less one amnesiac are three, and the other three are a read quorum).
- `version` grows with every change that a `ClusterView` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cluster.control.forktable import FORK_COLUMNS, ForkTable, adopt_fork, fork_row
from cluster.control.rows import Assignment, ClusterRow, InstanceRow, StorageRow
from cluster.control.schema import FORMAT, MIGRATIONS, SCHEMA
from cluster.control.transactions import EVENTS_KEPT, bump, event, one_or_none, row, tombstone
from cluster.local.folder import socket_name
from cluster.local.layout import ClusterSpec, ClusterState, Layout, address
from cluster.local.sizes import format_size
from engine.errors import ConfigError
from engine.types import (
    PAGE_SIZE,
    Epoch,
    Member,
    Membership,
    NodeId,
    PgNo,
    Replacement,
    SegmentId,
    VolumeId,
)
from engine.volume.geometry import first_page
from engine.volume.membership import back, begin, forward

if TYPE_CHECKING:
    import aiosqlite

_KEPT = (
    "SELECT volume, pg, new_node AS node, new_incarnation AS incarnation, created, 1 AS joining"
    " FROM replacements"
    " UNION ALL SELECT volume, pg, node, incarnation, created, 0 FROM members WHERE NOT EXISTS"
    " (SELECT 1 FROM replacements r WHERE r.volume = members.volume AND r.pg = members.pg"
    " AND r.old_node = members.node AND r.new_node = members.node)"
)
"""Who keeps or is to keep what: of two lives of a disk, one of which replaces the other, the new one."""

_TO_CREATE = "m.created = 0 AND m.incarnation = n.incarnation"

Connect: TypeAlias = "Callable[[Path], Awaitable[aiosqlite.Connection]]"
"""Opens a database in autocommit mode."""


class Catalog(ForkTable):
    """Made by `open`. Every method is one transaction, durable when it returns."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db
        self._turn = asyncio.Lock()  # one connection: transactions must not mix
        self._memberships: dict[VolumeId, list[Membership]] = {}  # as they are on the disk
        self._writes = 0  # transactions begun and ended

    @classmethod
    async def open(cls, path: Path, *, connect: Connect | None = None) -> Catalog:
        """Open or create; an older format is brought up to date in one transaction.

        Raises ConfigError if the file is of a format this code does not know.

        `connect` opens the database some other way than through aiosqlite's thread.
        """
        db = await (connect or _connect)(path)
        try:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("PRAGMA synchronous = FULL")
            await db.execute("PRAGMA foreign_keys = ON")
            (found,) = await row(db, "PRAGMA user_version")
            if found == 0:
                await db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            elif found != FORMAT:
                await _migrate(db, found, path)
        except sqlite3.DatabaseError as error:
            await db.close()
            raise ConfigError(f"{path} cannot be used: {error}") from error
        except BaseException:
            await db.close()
            raise
        return cls(db)

    async def close(self) -> None:
        await self._db.close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._turn:
            self._forget()
            try:
                await self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                await self._db.commit()
            except GeneratorExit:
                raise  # dropped, not cancelled: this process is no more, and with it the connection
            except BaseException:
                # The caller may have been cancelled at any of these awaits, and may be again. What it
                # asked for is in the database's queue all the same: only a rollback behind it ends it.
                await _to_its_end(self._db.rollback())
                raise
            finally:
                self._forget()

    def _forget(self) -> None:
        """What has been read may have changed, and what is being read now, too."""
        self._writes += 1
        self._memberships.clear()

    async def _all(self, sql: str, *values: Any) -> list[aiosqlite.Row]:
        async with self._turn, self._db.execute(sql, values) as cursor:
            return list(await cursor.fetchall())

    # -- reading

    async def version(self) -> int:
        ((version,),) = await self._all("SELECT version FROM revision")
        return int(version)

    async def clusters(self) -> list[str]:
        """Their names, sorted."""
        return [row[0] for row in await self._all("SELECT name FROM clusters ORDER BY name")]

    async def cluster(self, name: str) -> ClusterRow:
        """Raises ConfigError if there is none of that name."""
        rows = await self._all(
            "SELECT name, volume, writer, epoch, max_pages, storage_full, stopped,"
            f" {FORK_COLUMNS} FROM clusters JOIN volumes USING (volume)"
            " LEFT JOIN forks f USING (volume) WHERE name = ?",
            name,
        )
        if not rows:
            raise ConfigError(f"there is no cluster {name}")
        _, volume, writer, epoch, max_pages, full, stopped, *fork = rows[0]
        return ClusterRow(
            name, volume, writer, epoch, max_pages, bool(full), bool(stopped), fork_row(fork)
        )

    async def instances(self, cluster: str) -> list[InstanceRow]:
        """By number."""
        rows = await self._all(
            "SELECT name, cluster, number, az, address, socket, tier, size FROM instances"
            " WHERE cluster = ? ORDER BY number",
            cluster,
        )
        return [InstanceRow(*row) for row in rows]

    async def storage_nodes(self) -> list[StorageRow]:
        """By name."""
        rows = await self._all(
            "SELECT n.name, n.az, n.address, n.incarnation, count(m.node),"
            " count(CASE WHEN m.incarnation NOT IN ('', n.incarnation) THEN 1 END)"
            " FROM storage_nodes n LEFT JOIN members m ON m.node = n.name"
            " GROUP BY n.name ORDER BY n.name"
        )
        return [StorageRow(*row) for row in rows]

    async def memberships(self, volume: VolumeId) -> list[Membership]:
        """Every protection group of the volume, by number."""
        known = self._memberships.get(volume)
        if known is not None:
            return list(known)  # everybody asks after every change, and a volume may have many
        writes = self._writes
        rows = await self._all(
            "SELECT pg, membership_epoch, node, n.az, n.address, m.incarnation,"
            " r.old_node, r.new_node, g.az, g.address, r.new_incarnation"
            " FROM groups JOIN members m USING (volume, pg) JOIN storage_nodes n ON n.name = m.node"
            " LEFT JOIN replacements r USING (volume, pg) LEFT JOIN storage_nodes g"
            " ON g.name = r.new_node WHERE volume = ? ORDER BY pg, node",
            volume,
        )
        found: dict[tuple[PgNo, int], list[Member]] = {}
        changes: dict[tuple[PgNo, int], Replacement] = {}
        for pg, epoch, *member, old, new, new_az, new_where, new_incarnation in rows:
            found.setdefault((pg, epoch), []).append(Member(*member))
            if old == member[0]:
                joining = Member(new, new_az, new_where, new_incarnation)
                changes[pg, epoch] = Replacement(Member(*member), joining)
        read = [
            Membership(pg, epoch, tuple(members), changes.get((pg, epoch)))
            for (pg, epoch), members in found.items()
        ]
        if writes == self._writes:
            self._memberships[volume] = read
        return list(read)

    async def volumes(self) -> dict[VolumeId, bool]:
        """Every volume there ever was, by number, and whether it is deleted."""
        rows = await self._all("SELECT volume, deleted FROM volumes ORDER BY volume")
        return {volume: bool(deleted) for volume, deleted in rows}

    async def deleted(self) -> dict[SegmentId, int]:
        """The groups of deleted volumes, and each one's last membership epoch, under which nobody
        keeps it."""
        rows = await self._all(
            "SELECT volume, pg, membership_epoch FROM groups JOIN volumes USING (volume) WHERE deleted"
        )
        return {SegmentId(volume, pg): epoch for volume, pg, epoch in rows}

    async def created(self, volume: VolumeId) -> dict[PgNo, set[NodeId]]:
        """Per group the nodes that have confirmed their segment."""
        rows = await self._all(
            "SELECT pg, node FROM members WHERE volume = ? AND created = 1", volume
        )
        found: dict[PgNo, set[NodeId]] = {}
        for pg, node in rows:
            found.setdefault(pg, set()).add(node)
        return found

    async def assignments(self, node: NodeId) -> list[Assignment]:
        """What the node is to keep. Segments of a lost incarnation are in it, never to be created,
        unless a segment of the node's new disk is to replace it."""
        return await self._assigned(node)

    async def unconfirmed(self, node: NodeId) -> list[Assignment]:
        """Of its assignments those that the node is to create and has not confirmed. Of many volumes with
        many groups these are few."""
        return await self._assigned(node, f" AND {_TO_CREATE}")

    async def _assigned(self, node: NodeId, which: str = "") -> list[Assignment]:
        rows = await self._all(
            f"SELECT m.volume, m.pg, m.incarnation, {_TO_CREATE}, m.joining"
            f" FROM ({_KEPT}) m JOIN storage_nodes n ON n.name = m.node"
            f" WHERE m.node = ?{which} ORDER BY m.volume, m.pg",
            node,
        )
        if not rows:
            return []
        groups = {
            (volume, membership.pg): membership
            for volume in sorted({row[0] for row in rows})
            for membership in await self.memberships(volume)
        }
        # Read last: of a clone's group that was there when its rows were read it is known now, too.
        forks = await self.forks()
        found = []
        for volume, pg, incarnation, create, joining in rows:
            # Its volume may have been deleted, or its members have changed, while we asked.
            membership = groups.get((volume, pg))
            if membership is not None and membership.voter(node) is not None:
                fork = None if joining else forks.get(SegmentId(volume, pg))
                found.append(Assignment(volume, membership, incarnation, bool(create), fork))
        return found

    async def unconfirmed_nodes(self) -> list[NodeId]:
        """Registered nodes with segments that they have not confirmed yet, by name."""
        rows = await self._all(
            f"SELECT DISTINCT n.name FROM ({_KEPT}) m JOIN storage_nodes n ON n.name = m.node"
            f" WHERE n.incarnation != '' AND {_TO_CREATE}"
            " ORDER BY n.name"
        )
        return [row[0] for row in rows]

    async def events(self, limit: int = EVENTS_KEPT) -> list[tuple[int, str, str]]:
        """(Unix microseconds, subject, what happened) of the newest `limit`, oldest first."""
        rows = await self._all(
            "SELECT time_us, subject, what FROM events ORDER BY id DESC LIMIT ?", limit
        )
        return [(row[0], row[1], row[2]) for row in reversed(rows)]

    # -- transitions

    async def record(self, subject: str, what: str, *, time_us: int) -> None:
        """An event that changes nothing in the catalog."""
        async with self._transaction() as db:
            await event(db, time_us, subject, what)

    async def adopt(self, layout: Layout, *, time_us: int = 0) -> bool:
        """Add what the layout has and the catalog has not; take over changed addresses and limits.

        Whatever the catalog knows better (writer, epochs, members) stays, and a volume's maximum is
        never less than the protection groups that it has. Instances that the layout
        has no longer are forgotten; if the writer is among them, the one of the lowest tier is named
        in its place. A cluster that the layout has not is left as it is; one that is being deleted goes,
        and its volume with it. Returns whether anything changed.
        """
        async with self._transaction() as db:
            before = db.total_changes
            await db.executemany(
                "INSERT INTO storage_nodes (name, az, address) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET address = excluded.address"
                " WHERE address != excluded.address",
                [(node.name, node.az, address(node.port)) for node in layout.storage],
            )
            for spec in layout.clusters:
                if spec.state is ClusterState.DELETING:
                    await _delete_cluster(db, spec.name, time_us)
                    continue
                await _adopt_cluster(db, spec, time_us)
                await _forget_instances(db, spec, time_us)
            changed = db.total_changes != before
            if changed:
                await bump(db)
            return changed

    async def register_storage(
        self, name: NodeId, *, address: str, pid: int, incarnation: str, time_us: int
    ) -> bool:
        """A storage node has started. Returns whether the view changed.

        Members that waited for its first incarnation get it. A second incarnation is recorded as an
        event: what the first one kept is lost until repaired. Raises ConfigError if it is unknown.
        """
        async with self._transaction() as db:
            row = await one_or_none(
                db, "SELECT incarnation, address FROM storage_nodes WHERE name = ?", name
            )
            if row is None:
                raise ConfigError(f"no storage node {name} belongs to this installation")
            await db.execute(
                "UPDATE storage_nodes SET incarnation = ?, address = ?, pid = ? WHERE name = ?",
                (incarnation, address, pid, name),
            )
            filled = await db.execute(
                "UPDATE members SET incarnation = ? WHERE node = ? AND incarnation = ''",
                (incarnation, name),
            )
            if row[0] not in ("", incarnation):
                what = f"came back with another disk: incarnation {incarnation}, was {row[0]}"
                await event(db, time_us, name, what)
            changed = tuple(row) != (incarnation, address) or filled.rowcount > 0
            if changed:
                await bump(db)
            return changed

    async def register_instance(self, name: str, *, address: str, pid: int, time_us: int) -> bool:
        """An instance is there. Returns whether the view changed. Raises ConfigError."""
        async with self._transaction() as db:
            row = await one_or_none(db, "SELECT address, pid FROM instances WHERE name = ?", name)
            if row is None:
                raise ConfigError(f"no instance {name} belongs to this installation")
            await db.execute(
                "UPDATE instances SET address = ?, pid = ? WHERE name = ?", (address, pid, name)
            )
            if row[1] != pid:  # it says so again whenever it has lost the control plane
                await event(db, time_us, name, f"registered at {address}, pid {pid}")
            if row[0] != address:
                await bump(db)
            return bool(row[0] != address)

    async def advance_epoch(self, cluster: ClusterRow, *, time_us: int) -> bool:
        """Let `cluster.writer` in under `cluster.epoch` + 1, if neither has changed meanwhile and the
        cluster is not stopped."""
        async with self._transaction() as db:
            done = await db.execute(
                "UPDATE volumes SET epoch = epoch + 1 WHERE volume = ? AND epoch = ?"
                " AND EXISTS (SELECT 1 FROM clusters WHERE name = ? AND writer = ? AND NOT stopped)",
                (cluster.volume, cluster.epoch, cluster.name, cluster.writer),
            )
            if done.rowcount != 1:
                return False
            what = f"{cluster.writer} opens the volume under epoch {cluster.epoch + 1}"
            await event(db, time_us, cluster.name, what)
            await bump(db)
            return True

    async def advance_epoch_at_rest(self, cluster: ClusterRow, *, time_us: int) -> bool:
        """Give this control plane `cluster.epoch` + 1, to see what is in the volume of a stopped cluster;
        if it still is stopped, and its epoch the same."""
        async with self._transaction() as db:
            done = await db.execute(
                "UPDATE volumes SET epoch = epoch + 1 WHERE volume = ? AND epoch = ?"
                " AND EXISTS (SELECT 1 FROM clusters WHERE name = ? AND volume = ? AND stopped)",
                (cluster.volume, cluster.epoch, cluster.name, cluster.volume),
            )
            if done.rowcount != 1:
                return False
            what = f"the volume is recovered to be cloned, under epoch {cluster.epoch + 1}"
            await event(db, time_us, cluster.name, what)
            await bump(db)
            return True

    async def name_writer(
        self, cluster: str, writer: str, *, instead_of: str, time_us: int, why: str = "asked for"
    ) -> bool:
        """Make `writer` the cluster's writer, if `instead_of` still is and the cluster is not stopped. It
        opens the volume later.

        Raises ConfigError if the cluster has no such instance.
        """
        async with self._transaction() as db:
            known = await one_or_none(
                db, "SELECT 1 FROM instances WHERE name = ? AND cluster = ?", writer, cluster
            )
            if known is None:
                raise ConfigError(f"{cluster} has no instance {writer}")
            done = await db.execute(
                "UPDATE clusters SET writer = ? WHERE name = ? AND writer = ? AND NOT stopped",
                (writer, cluster, instead_of),
            )
            if done.rowcount != 1:
                return False
            what = f"failover from {instead_of} to {writer} started: {why}"
            await event(db, time_us, cluster, what)
            await bump(db)
            return True

    async def add_group(
        self,
        volume: VolumeId,
        pg: PgNo,
        nodes: Sequence[NodeId],
        *,
        time_us: int,
        epoch: Epoch | None = None,
    ) -> bool:
        """Add group `pg`, if it is the next one and the volume's epoch is still `epoch` (None: any).

        A group that an old writer added after the next one has been told of all of them would take
        writes that the next one's recovery does not look for. Its segments are not created yet.
        """
        async with self._transaction() as db:
            (count,) = await row(db, "SELECT count(*) FROM groups WHERE volume = ?", volume)
            if count != pg:
                return False
            if epoch is not None:
                (now,) = await row(db, "SELECT epoch FROM volumes WHERE volume = ?", volume)
                if now != epoch:
                    return False
            await db.execute("INSERT INTO groups VALUES (?, ?, 1)", (volume, pg))
            await db.executemany(
                "INSERT INTO members SELECT ?, ?, name, incarnation, 0 FROM storage_nodes"
                " WHERE name = ?",
                [(volume, pg, node) for node in nodes],
            )
            (limit,) = await row(db, "SELECT max_pages FROM volumes WHERE volume = ?", volume)
            what = (
                f"protection group {pg} added: room for {_bytes(first_page(pg + 1))} now, "
                f"the limit is {_bytes(limit)}"
            )
            await event(db, time_us, f"volume {volume}", what)
            await bump(db)
            return True

    async def note_full(self, volume: VolumeId, *, full: bool, time_us: int) -> bool:
        """The writer meets the volume's maximum, or does so no more; whether that is news."""
        async with self._transaction() as db:
            done = await db.execute(
                "UPDATE volumes SET storage_full = ? WHERE volume = ? AND storage_full != ?",
                (full, volume, full),
            )
            if done.rowcount != 1:
                return False
            (limit,) = await row(db, "SELECT max_pages FROM volumes WHERE volume = ?", volume)
            what = f"storage-full is over, the limit is {_bytes(limit)}"
            if full:
                what = (
                    f"storage-full: a statement was refused at the limit of {_bytes(limit)}; delete "
                    "data or raise it with `sextet storage limit`"
                )
            await event(db, time_us, f"volume {volume}", what)
            return True

    async def confirm(
        self, node: NodeId, incarnation: str, segments: Iterable[tuple[VolumeId, PgNo]]
    ) -> None:
        """The node has said that it keeps these, under that incarnation."""
        kept = list(segments)
        async with self._transaction() as db:
            await db.executemany(
                "UPDATE members SET created = 1"
                " WHERE volume = ? AND pg = ? AND node = ? AND incarnation = ?",
                [(volume, pg, node, incarnation) for volume, pg in kept],
            )
            await db.executemany(
                "UPDATE replacements SET created = 1"
                " WHERE volume = ? AND pg = ? AND new_node = ? AND new_incarnation = ?",
                [(volume, pg, node, incarnation) for volume, pg in kept],
            )

    # -- changing a group's members (engine.volume.membership)

    async def begin_change(
        self, volume: VolumeId, known: Membership, *, old: Member, new: Member, time_us: int
    ) -> bool:
        """Have `new` replace `old`, if `known` are still the group's members and `new` is what the
        node's disk is. Raises ValueError for a change that is none."""
        begin(known, old=old, new=new)
        async with self._transaction() as db:
            (now,) = await row(db, "SELECT incarnation FROM storage_nodes WHERE name = ?", new.node)
            if now != new.incarnation or not await _advance(db, volume, known):
                return False
            await db.execute(
                "INSERT INTO replacements VALUES (?, ?, ?, ?, ?, 0, ?)",
                (volume, known.pg, old.node, new.node, new.incarnation, time_us),
            )
            what = f"group {known.pg}: {new.node} is to replace {old.node}"
            if new.node == old.node:
                what = f"group {known.pg}: the new disk of {old.node} is to replace the lost one"
            await event(db, time_us, f"volume {volume}", what)
            return True

    async def commit_change(self, volume: VolumeId, known: Membership, *, time_us: int) -> bool:
        """The new member has its place, if `known` are still the group's members."""
        forward(known)
        change = known.replacing
        assert change is not None
        async with self._transaction() as db:
            if not await _advance(db, volume, known):
                return False
            group = (volume, known.pg)
            await db.execute("DELETE FROM replacements WHERE volume = ? AND pg = ?", group)
            await db.execute(
                "UPDATE members SET node = ?, incarnation = ?, created = 1"
                " WHERE volume = ? AND pg = ? AND node = ?",
                (change.new.node, change.new.incarnation, *group, change.old.node),
            )
            what = f"group {known.pg}: {change.new.node} has replaced {change.old.node}"
            if change.new.node == change.old.node:
                what = f"group {known.pg}: {change.new.node} is whole on its new disk"
            await event(db, time_us, f"volume {volume}", what)
            return True

    async def cancel_change(self, volume: VolumeId, known: Membership, *, time_us: int) -> bool:
        """The old member stays, if `known` are still the group's members."""
        back(known)
        change = known.replacing
        assert change is not None
        async with self._transaction() as db:
            if not await _advance(db, volume, known):
                return False
            await db.execute(
                "DELETE FROM replacements WHERE volume = ? AND pg = ?", (volume, known.pg)
            )
            what = f"group {known.pg}: {change.new.node} does not replace {change.old.node}"
            await event(db, time_us, f"volume {volume}", what)
            return True

    async def drained(self) -> set[NodeId]:
        """Nodes that are to keep nothing."""
        return {row[0] for row in await self._all("SELECT node FROM drained")}

    async def drain(self, node: NodeId, *, wanted: bool, time_us: int) -> bool:
        """Have a node keep nothing, or something again; whether that is new. Raises ConfigError."""
        async with self._transaction() as db:
            known = await one_or_none(db, "SELECT 1 FROM storage_nodes WHERE name = ?", node)
            if known is None:
                raise ConfigError(f"there is no storage node {node}")
            sql = "INSERT OR IGNORE INTO drained VALUES (?)"
            if not wanted:
                sql = "DELETE FROM drained WHERE node = ?"
            done = await db.execute(sql, (node,))
            if done.rowcount == 1:
                what = "is to keep nothing any more" if wanted else "may keep segments again"
                await event(db, time_us, node, what)
            return bool(done.rowcount == 1)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` whole, even if the caller is cancelled meanwhile: it raises what it has anyway."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


# -- parts of transactions


async def _connect(path: Path) -> aiosqlite.Connection:
    import aiosqlite  # here, so that a simulator does without it

    return await aiosqlite.connect(path, isolation_level=None)


async def _migrate(db: aiosqlite.Connection, found: int, path: Path) -> None:
    """Step by step from format `found`; a crash leaves the old format, whole."""
    steps = range(found, FORMAT)
    if found > FORMAT or any(step not in MIGRATIONS for step in steps):
        raise ConfigError(f"{path} has format {found}, this Sextet knows {FORMAT}")
    script = "".join(MIGRATIONS[step] for step in steps)
    await db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {FORMAT}; COMMIT;")


async def _advance(db: aiosqlite.Connection, volume: VolumeId, known: Membership) -> bool:
    """The group's next membership epoch, if `known`'s is the one it has."""
    done = await db.execute(
        "UPDATE groups SET membership_epoch = membership_epoch + 1"
        " WHERE volume = ? AND pg = ? AND membership_epoch = ?",
        (volume, known.pg, known.epoch),
    )
    if done.rowcount == 1:
        await bump(db)
    return bool(done.rowcount == 1)


async def _adopt_cluster(db: aiosqlite.Connection, spec: ClusterSpec, time_us: int) -> None:
    known = await one_or_none(db, "SELECT volume, stopped FROM clusters WHERE name = ?", spec.name)
    if known is None:
        if not await _create_cluster(db, spec, time_us):
            return
    else:
        await _adopt_limit(db, known[0], spec.max_pages, time_us)
        if spec.runs is bool(known[1]):
            await db.execute(
                "UPDATE clusters SET stopped = ? WHERE name = ?", (not spec.runs, spec.name)
            )
            if spec.state is not ClusterState.CREATING:  # its volume has just been made
                await event(db, time_us, spec.name, "is started" if spec.runs else "is stopped")
    await db.executemany(
        "INSERT INTO instances (name, cluster, number, az, address, socket, tier, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET address = excluded.address, tier = excluded.tier, size = excluded.size"
        " WHERE (address, tier, size) != (excluded.address, excluded.tier, excluded.size)",
        [
            (
                i.name,
                spec.name,
                i.number,
                i.az,
                address(i.port),
                socket_name(i.name),
                i.tier,
                i.size,
            )
            for i in spec.instances
        ],
    )


async def _create_cluster(db: aiosqlite.Connection, spec: ClusterSpec, time_us: int) -> bool:
    """False if it is to be a clone of a cluster that is not there (any more): it will never be made."""
    parent = None
    cloning = spec.state is ClusterState.CLONING
    if cloning and spec.fork is not None:
        parent = await one_or_none(
            db, "SELECT volume FROM clusters WHERE name = ?", spec.fork.source
        )
        if parent is None:
            return False
    made = await db.execute(
        "INSERT INTO volumes (epoch, max_pages) VALUES (0, ?)", (spec.max_pages,)
    )
    assert made.lastrowid is not None
    await db.execute(
        "INSERT INTO clusters (name, volume, writer, stopped) VALUES (?, ?, ?, ?)",
        (spec.name, made.lastrowid, spec.writer_first, not spec.runs),
    )
    if parent is not None and spec.fork is not None:
        copy = await adopt_fork(db, made.lastrowid, parent[0], spec.fork)
        if copy:
            what = (
                f"is to be a full copy of {spec.fork.source}, with volume {made.lastrowid}: {copy}"
            )
            await event(db, time_us, spec.name, what)
    elif made.lastrowid > 1:  # the first one comes with the installation, which is no event
        await event(db, time_us, spec.name, f"is created, with volume {made.lastrowid}")
    return True


async def _delete_cluster(db: aiosqlite.Connection, name: str, time_us: int) -> None:
    known = await one_or_none(db, "SELECT volume FROM clusters WHERE name = ?", name)
    if known is None:
        return
    await db.execute("DELETE FROM instances WHERE cluster = ?", (name,))
    await db.execute("DELETE FROM clusters WHERE name = ?", (name,))
    await tombstone(db, known[0])
    await event(db, time_us, name, f"is deleted, and volume {known[0]} with it")


async def _adopt_limit(
    db: aiosqlite.Connection, volume: VolumeId, wanted: int, time_us: int
) -> None:
    """A group may have been added since the wish was checked: it stays, and so does its room."""
    (old,) = await row(db, "SELECT max_pages FROM volumes WHERE volume = ?", volume)
    (groups,) = await row(db, "SELECT count(*) FROM groups WHERE volume = ?", volume)
    limit = max(wanted, first_page(groups))
    if limit == old:
        return
    await db.execute("UPDATE volumes SET max_pages = ? WHERE volume = ?", (limit, volume))
    what = f"the limit is {_bytes(limit)} now, it was {_bytes(old)}"
    await event(db, time_us, f"volume {volume}", what)


def _bytes(pages: int) -> str:
    return format_size(pages * PAGE_SIZE)


async def _forget_instances(db: aiosqlite.Connection, spec: ClusterSpec, time_us: int) -> None:
    """Those that the layout has no longer. A writer among them is superseded, as by any other."""
    wanted = {i.name for i in spec.instances}
    async with db.execute("SELECT name FROM instances WHERE cluster = ?", (spec.name,)) as cursor:
        known = [row[0] for row in await cursor.fetchall()]
    gone = sorted(set(known) - wanted)
    if not gone:
        return
    (writer,) = await row(db, "SELECT writer FROM clusters WHERE name = ?", spec.name)
    if writer in gone:
        heir = min(spec.instances, key=lambda i: (i.tier, i.number)).name
        await db.execute("UPDATE clusters SET writer = ? WHERE name = ?", (heir, spec.name))
        what = f"{heir} is named writer instead of {writer}, which is removed"
        await event(db, time_us, spec.name, what)
    for name in gone:
        await db.execute("DELETE FROM instances WHERE name = ?", (name,))
        await event(db, time_us, name, "is removed")
