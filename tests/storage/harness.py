"""A storage node in the test's own process, and a writer's log to feed it.

`Log` plays the writer: it allots LSNs, frames commits and remembers every page at every LSN, so that
any answer of a node can be compared. `Node` is a real node over real files; handlers are called
directly, or over gRPC in a `Group`.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google_crc32c import value as crc32c

from engine.errors import DiskFailed, DiskFull, Unavailable
from engine.log.diff import diff_page
from engine.log.frame import build_frame, encode_record, index_frame, record_bytes
from engine.log.header import read_header
from engine.net.clock import LoopClock
from engine.net.disk import OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import (
    APPEND,
    ASSIGN_SEGMENTS,
    COPY_PAGES,
    FENCE,
    FETCH_FRAMES,
    GOSSIP,
    READ_PAGES,
    STORAGE_STATUS,
    TRUNCATE,
)
from engine.net.pb import storage_pb2 as pb
from engine.ports import Disk, Runtime, Server
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore import PageStore
from engine.storage.pagestore_sqlite import SqlitePageStore
from engine.types import LAL, PAGE_SIZE, ZERO_PAGE, CommitMark
from engine.volume.geometry import pg_of

VOLUME = 1
QUIET = StorageConfig(gossip_s=3600, gossip_hurry_s=3600, coalesce_s=3600, scrub_s=3600)
"""Nothing happens in the background: the test drives every step."""

MEMBERS = tuple(f"storage-{n}" for n in range(1, 7))


OPEN: dict[int, Node] = {}
"""Every node that was opened: a test that fails in the middle must not leave one with its threads."""


class Log:
    """What one writer of one volume produces, and the truth about every page."""

    def __init__(self, seed: int = 1, *, epoch: int = 1, volume: int = VOLUME) -> None:
        self.volume = volume
        self.rng = random.Random(seed)
        self.epoch = epoch
        self.last = 0  # volume predecessor of the next record
        self.next = 1
        self.pg_last: dict[int, int] = {}
        self.pages: dict[int, bytes] = {}
        self.history: dict[int, list[tuple[int, bytes]]] = {}
        self.commits: list[int] = []
        self.marks: dict[int, CommitMark] = {}
        self.pg_records: dict[int, list[int]] = {}

    def commit(self, pages: Sequence[int] = (0,), *, whole: bool = False) -> dict[int, bytes]:
        """One MTR that changes `pages`; its frame per group. `whole` rewrites the pages."""
        mark = CommitMark(self.next + len(pages) - 1, 1_700_000_000_000_000 + self.next, 100)
        bodies: dict[int, list[tuple[int, int, bytes]]] = {}
        for page in pages:
            lsn, pg = self.next, pg_of(page)
            before = self.pages.get(page)
            after = self._changed(before, whole)
            full, moves, ranges = diff_page(None if whole else before, after)
            prev = self.pg_last.get(pg, 0)
            body = encode_record(
                lsn=lsn,
                prev_lsn=self.last,
                prev_pg_lsn=prev,
                page=page,
                full=full,
                moves=moves,
                ranges=ranges,
                commit=mark if lsn == mark.lsn else None,
            )
            bodies.setdefault(pg, []).append((lsn, prev, body))
            self.pages[page] = after
            self.history.setdefault(page, []).append((lsn, after))
            self.pg_records.setdefault(pg, []).append(lsn)
            self.pg_last[pg] = self.last = lsn
            self.next = lsn + 1
        self.commits.append(mark.lsn)
        self.marks[mark.lsn] = mark
        return {
            pg: build_frame(
                volume=self.volume,
                pg=pg,
                epoch=self.epoch,
                prev_pg_lsn=records[0][1],
                first_lsn=records[0][0],
                last_lsn=records[-1][0],
                records=[body for _, _, body in records],
            )
            for pg, records in bodies.items()
        }

    def frames(self, count: int, span: int = 6) -> list[bytes]:
        """`count` commits of one to three pages of group 0."""
        pages = range(span)
        return [self.commit(sorted(self.rng.sample(pages, 1 + n % 3)))[0] for n in range(count)]

    def _changed(self, before: bytes | None, whole: bool) -> bytes:
        image = bytearray(self.rng.randbytes(PAGE_SIZE) if whole else before or ZERO_PAGE)
        at = self.rng.randrange(PAGE_SIZE - 40)
        image[at : at + 40] = self.rng.randbytes(40)
        return bytes(image)

    def page_at(self, page: int, lsn: int) -> tuple[int, bytes]:
        """(LSN, image) of the newest version at or below `lsn`."""
        versions = [v for v in self.history.get(page, []) if v[0] <= lsn]
        return versions[-1] if versions else (0, b"")

    def tail(self, lsn: int, pg: int = 0) -> int:
        """The group's last LSN at or below `lsn`."""
        return max((r for r in self.pg_records.get(pg, []) if r <= lsn), default=0)

    def truncated(self, vdl: int, epoch: int) -> Log:
        """The log of the writer of `epoch`, whose recovery kept everything up to `vdl`."""
        log = self._kept(vdl, epoch=epoch, volume=self.volume)
        log.next = vdl + LAL + 1
        return log

    def cloned(self, lsn: int, volume: int) -> Log:
        """The log of a clone that forks from this one at `lsn`."""
        return self._kept(lsn, epoch=1, volume=volume)

    def mark(self, lsn: int) -> CommitMark:
        """Of the commit that ends at `lsn`."""
        return self.marks[lsn]

    def _kept(self, vdl: int, *, epoch: int, volume: int) -> Log:
        log = Log(self.rng.randrange(1 << 30), epoch=epoch, volume=volume)
        log.last, log.next = vdl, vdl + 1
        log.marks = {lsn: mark for lsn, mark in self.marks.items() if lsn <= vdl}
        for page, versions in self.history.items():
            kept = [v for v in versions if v[0] <= vdl]
            if kept:
                log.history[page] = kept
                log.pages[page] = kept[-1][1]
        log.pg_records = {pg: [r for r in lsns if r <= vdl] for pg, lsns in self.pg_records.items()}
        log.pg_last = {pg: lsns[-1] for pg, lsns in log.pg_records.items() if lsns}
        log.commits = [c for c in self.commits if c <= vdl]
        return log


class Pipe:
    """The serving end of a stream, fed and read by the test."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def recv(self) -> Any:
        request = await self.requests.get()
        if isinstance(request, Exception):
            raise request
        return request

    async def send(self, message: Any) -> None:
        await self.gate.wait()
        self.replies.put_nowait(message)

    async def done_sending(self) -> None: ...

    def close(self) -> None: ...


class Writer:
    """An open Append stream to one node, its handler called directly."""

    def __init__(self, node: Node, *, epoch: int = 1, volume: int = VOLUME) -> None:
        self.pipe = Pipe()
        self.volume = volume
        self.epoch = epoch
        self.task = asyncio.create_task(node.node.handlers[APPEND](self.pipe))  # type: ignore[arg-type]

    def send(
        self,
        *frames: bytes,
        vdl: int = 0,
        pgmrpl: int = 0,
        membership_epoch: int = 1,
        pg: int = 0,
        heard: bool = False,
    ) -> None:
        request = pb.AppendRequest(
            volume=self.volume, epoch=self.epoch, vdl=vdl, pgmrpl=pgmrpl, heard=heard
        )
        if frames:
            request.pgs.add(pg=pg, membership_epoch=membership_epoch, frames=b"".join(frames))
        self.pipe.requests.put_nowait(request)

    async def ack(self) -> pb.AppendAck:
        async with asyncio.timeout(10):
            ack: pb.AppendAck = await self.pipe.replies.get()
            return ack

    async def close(self) -> None:
        self.pipe.requests.put_nowait(None)
        async with asyncio.timeout(10):
            await self.task

    async def break_off(self) -> None:
        self.pipe.requests.put_nowait(Unavailable("the caller went away"))
        await asyncio.gather(self.task, return_exceptions=True)


@dataclass
class Node:
    """A storage node over `folder`; `crash_copy` gives another one as a crash would leave it."""

    folder: Path
    name: str = "storage-1"
    config: StorageConfig = QUIET
    disk: Disk | None = None
    store: PageStore | None = None
    transport: Any = None
    seed: str = ""
    ended: bool = False
    stopped: list[str] = field(default_factory=list)
    node: StorageNode = field(init=False)

    async def open(self) -> Node:
        self.ended = False
        disk = self.disk or OsDisk(self.folder)
        runtime = Runtime(
            clock=LoopClock(),
            disk=disk,
            transport=self.transport or GrpcTransport(),
            rng=random.Random(self.seed or self.name),
            stop_node=self.stopped.append,
        )
        store = self.store or SqlitePageStore(disk.local_path("node.db"))
        self.node = StorageNode(runtime, name=self.name, az="az1", store=store, config=self.config)
        OPEN[id(self)] = self
        await self.node.open()
        return self

    async def close(self) -> None:
        await self.node.stop()
        self.ended = True
        del OPEN[id(self)]

    async def kill(self) -> None:
        """End it without a last word to the disk. No harm if it has ended already."""
        if self.ended:
            return
        self.ended = True
        del OPEN[id(self)]
        await self.node._background.stop()
        self.state.wal.close()
        await self.state.channels.close()
        await self.state.store.close()

    async def crash_copy(self, folder: Path) -> Node:
        """A node over what the disk holds now, as after a kill; this one goes on."""
        shutil.copytree(self.folder, folder)
        return await Node(folder, self.name, self.config).open()

    @property
    def state(self) -> Any:
        return self.node.state

    def segment(self, pg: int = 0, *, volume: int = VOLUME) -> Any:
        return self.node.state.segment(volume, pg)

    async def call(self, method: Any, request: Any) -> Any:
        return await self.node.handlers[method](request)

    async def assign(
        self,
        *,
        pgs: Sequence[int] = (0,),
        epoch: int = 1,
        members: Mapping[str, tuple[str, str]] | None = None,
        create: bool = True,
        incarnation: str | None = None,
        volume: int = VOLUME,
        fork: pb.Fork | None = None,
    ) -> pb.AssignSegmentsReply:
        """`members`: name -> (address, incarnation); by default six of which only this one exists."""
        own = incarnation or self.state.incarnation
        members = members or dict.fromkeys(MEMBERS, ("127.0.0.1:1", "elsewhere"))
        request = pb.AssignSegmentsRequest()
        for pg in pgs:
            membership = pb.PgMembership(pg=pg, epoch=epoch)
            for name, (address, other) in sorted(members.items()):
                membership.members.add(
                    node=name,
                    az="az1",
                    address=address,
                    incarnation=own if name == self.name else other,
                )
            request.segments.add(
                volume=volume, membership=membership, incarnation=own, create=create, fork=fork
            )
        reply: pb.AssignSegmentsReply = await self.call(ASSIGN_SEGMENTS, request)
        return reply

    async def drop(self, *, pg: int = 0, volume: int = VOLUME) -> None:
        """Its volume is deleted."""
        request = pb.AssignSegmentsRequest()
        gone = pb.PgMembership(pg=pg, epoch=99)
        request.segments.add(volume=volume, membership=gone, drop=True)
        assert not (await self.call(ASSIGN_SEGMENTS, request)).refused

    async def fence(self, epoch: int, *, volume: int = VOLUME) -> pb.FenceReply:
        reply: pb.FenceReply = await self.call(FENCE, pb.FenceRequest(volume=volume, epoch=epoch))
        return reply

    async def truncate(self, epoch: int, *ranges: tuple[int, int, int]) -> pb.TruncateReply:
        request = pb.TruncateRequest(volume=VOLUME, epoch=epoch)
        for of, low, high in ranges:
            request.truncations.add(epoch=of, low=low, high=high)
        reply: pb.TruncateReply = await self.call(TRUNCATE, request)
        return reply

    async def hear(self, *, epoch: int = 1) -> None:
        """A writer greets this node, takes its answer in, and says so."""
        ack = await self.append(epoch=epoch, heard=True)
        assert ack.refusal == pb.REFUSAL_NONE

    async def append(
        self, *frames: bytes, epoch: int = 1, volume: int = VOLUME, **points: int
    ) -> pb.AppendAck:
        """Send frames on a stream of their own and return the last ack."""
        writer = Writer(self, epoch=epoch, volume=volume)
        writer.send(*frames, **points)
        ack = await writer.ack()
        await writer.close()
        return ack

    async def read(
        self,
        pages: Sequence[int],
        lsn: int,
        *,
        pg_lsn: int = 0,
        epoch: int = 1,
        pg: int = 0,
        volume: int = VOLUME,
    ) -> list[tuple[int, bytes]]:
        request = pb.ReadPagesRequest(
            volume=volume, epoch=epoch, pg=pg, pages=pages, read_lsn=lsn, pg_lsn=pg_lsn
        )
        reply = await self.call(READ_PAGES, request)
        return [(page.lsn, page.image) for page in reply.pages]

    async def gossip_with(self, other: Node) -> None:
        """One round with `other`, whose handlers are called directly."""
        await self.node.gossiper.round_with(other.name, Direct(other))  # type: ignore[arg-type]

    async def status(self) -> pb.StorageStatusReply:
        reply: pb.StorageStatusReply = await self.call(STORAGE_STATUS, pb.StorageStatusRequest())
        return reply

    async def coalesce(self, pg: int = 0, *, volume: int = VOLUME) -> int:
        segment = self.segment(pg, volume=volume)
        return await self.node.coalescer.coalesce(self.state.volume(volume), segment)

    async def fetched(self, after: int = 0, upto: int = 0, *, epoch: int = 1) -> bytes:
        """All that FetchFrames gives."""
        request = pb.FetchFramesRequest(volume=VOLUME, pg=0, after=after, upto=upto, epoch=epoch)
        pipe = Pipe()
        await self.node.handlers[FETCH_FRAMES](request, pipe)
        return b"".join(pipe.replies.get_nowait().frames for _ in range(pipe.replies.qsize()))

    async def collect(self, *, vdl: int, pgmrpl: int = 0, volume: int = VOLUME) -> None:
        """Everything up to `vdl` becomes page versions, what no reader from `pgmrpl` on needs goes."""
        self.state.volume(volume).learn_points(vdl=vdl, pgmrpl=pgmrpl or vdl)
        await self.coalesce(volume=volume)
        await self.node.collector.collect()

    async def scrub(self) -> None:
        """Check everything once."""
        while await self.node.scrubber.check_pages(7):
            pass
        while await self.node.scrubber.check_frames(7):
            pass

    def peer(self, name: str) -> Any:
        return self.state.peers(self.segment())[name]

    def versions(self, volume: int = VOLUME) -> list[tuple[int, int, int, bytes]]:
        """(page, LSN, checksum, image) of all that the page store's file holds of the volume."""
        with closing(sqlite3.connect(self.folder / "node.db")) as db:
            return db.execute(
                "SELECT page, lsn, checksum, image FROM page_version WHERE volume = ?"
                " ORDER BY page, lsn",
                (volume,),
            ).fetchall()

    def write_version(self, page: int, lsn: int, image: bytes, *, volume: int = VOLUME) -> None:
        """Put `image` where the version is, as a bad disk would: the checksum stays."""
        with closing(sqlite3.connect(self.folder / "node.db")) as db, db:
            changed = db.execute(
                "UPDATE page_version SET image = ? WHERE volume = ? AND page = ? AND lsn = ?",
                (image, volume, page, lsn),
            )
            assert changed.rowcount == 1

    def wal_path(self) -> Path:
        """The newest file of the log."""
        return sorted(self.folder.glob("wal/*.wal"))[-1]

    def wal_bytes(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("wal/*.wal")))


class Direct:
    """A channel whose other end is a node in this process."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def call(self, method: Any, request: Any, *, timeout: float) -> Any:
        return await self._node.call(method, request)

    def stream(self, method: Any, request: Any) -> Any:
        return _DirectStream(self._node.node.handlers[method], request)


class _DirectStream:
    def __init__(self, handler: Any, request: Any) -> None:
        self._pipe = Pipe()
        self._task = asyncio.create_task(self._run(handler, request))

    async def _run(self, handler: Any, request: Any) -> None:
        try:
            await handler(request, self._pipe)
            self._pipe.replies.put_nowait(None)
        except Exception as error:
            self._pipe.replies.put_nowait(error)

    async def recv(self) -> Any:
        reply = await self._pipe.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self._task.cancel()


@dataclass
class Group:
    """Several nodes over gRPC on loopback that are members of group 0."""

    root: Path
    count: int = 3
    config: StorageConfig = QUIET
    nodes: list[Node] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    async def start(self) -> Group:
        for name in MEMBERS[: self.count]:
            node = await Node(self.root / name, name, self.config).open()
            self.nodes.append(node)
            server = await node.state.runtime.transport.serve("127.0.0.1:0", node.node.handlers)
            self.servers.append(server)
        for node in self.nodes:
            await node.assign(members=self.members)
            await node.fence(1)
        return self

    @property
    def members(self) -> dict[str, tuple[str, str]]:
        """As `Node.assign` takes them: these nodes, and those of the six that are not there."""
        members = {
            node.name: (server.address, node.state.incarnation)
            for node, server in zip(self.nodes, self.servers, strict=True)
        }
        return members | dict.fromkeys(MEMBERS[self.count :], ("127.0.0.1:1", "elsewhere"))

    async def append(self, *frames: bytes, **points: int) -> None:
        """To all nodes."""
        for node in self.nodes:
            assert (await node.append(*frames, **points)).refusal == pb.REFUSAL_NONE

    async def gossip(self, index: int, *others: int) -> None:
        """Rounds of one node with others, over gRPC."""
        node = self.nodes[index]
        for other in others:
            name = self.nodes[other].name
            await node.node.gossiper.round_with(name, node.peer(name))

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop(0)
        for node in self.nodes:
            await node.kill()

    async def restart(self, index: int, meanwhile: Callable[[Node], None] | None = None) -> Node:
        """Kill the node; it again, at its old address, over what its disk holds."""
        old, server = self.nodes[index], self.servers[index]
        await server.stop(0)
        await old.kill()
        if meanwhile is not None:
            meanwhile(old)
        node = self.nodes[index] = await Node(old.folder, old.name, self.config).open()
        self.servers[index] = await node.state.runtime.transport.serve(
            server.address, node.node.handlers
        )
        return node


__all__ = [
    "COPY_PAGES",
    "GOSSIP",
    "MEMBERS",
    "OPEN",
    "QUIET",
    "VOLUME",
    "Direct",
    "FaultyDisk",
    "GatedStore",
    "Group",
    "Log",
    "Node",
    "Pipe",
    "Writer",
    "flip",
    "rot_frame",
]


def flip(path: Path, offset: int) -> None:
    """One bit of a file rots."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes((byte ^ 0x10,)))


def rot_frame(node: Node, frame: bytes, *, header: bool = False) -> tuple[Path, int]:
    """One bit of that frame, in the log on disk; where it was."""
    for path in sorted(node.folder.glob("wal/*.wal")):
        at = path.read_bytes().find(frame)
        if at >= 0:
            at += 10 if header else read_header(frame).size + 5
            flip(path, at)
            return path, at
    raise AssertionError("the frame is not in the log")


def joined(first: bytes, second: bytes) -> bytes:
    """One frame of two, as a writer sends two commits that gathered."""
    a, b = read_header(first), read_header(second)
    return build_frame(
        volume=a.volume,
        pg=a.pg,
        epoch=a.epoch,
        prev_pg_lsn=a.prev_pg_lsn,
        first_lsn=a.first_lsn,
        last_lsn=b.last_lsn,
        records=[record_bytes(f, r) for f in (first, second) for r in index_frame(f)],
    )


def as_before(frame: bytes) -> bytes:
    """The same frame as the program wrote it when headers had 64 bytes."""
    header = read_header(frame)
    body = frame[header.size :]
    moves = any(ref.moves for ref in index_frame(frame))
    start = struct.pack("<4sI", b"SXF2" if moves else b"SXF1", 64 + len(body))
    rest = struct.pack(
        "<IQIIQQQQ",
        *(header.body_crc, header.volume, header.pg, header.records, header.epoch),
        *(header.first_lsn, header.last_lsn, header.prev_pg_lsn),
    )
    return start + crc32c(start + rest).to_bytes(4, "little") + rest + body


class GatedStore:
    """A page store whose calls of one method can be held back before they take effect."""

    def __init__(self, store: PageStore) -> None:
        self._store = store
        self._held = ""
        self._when: Callable[..., bool] = lambda *_: True
        self.reached = asyncio.Event()
        self._go = asyncio.Event()

    def hold(self, method: str, when: Callable[..., bool] = lambda *_: True) -> None:
        self._held, self._when = method, when
        self.reached.clear()
        self._go.clear()

    def release(self) -> None:
        self._held = ""
        self._go.set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name != self._held:
            return real

        async def held(*given: Any, **named: Any) -> Any:
            if name == self._held and self._when(*given):
                self.reached.set()
                await self._go.wait()
            return await real(*given, **named)

        return held


class FaultyDisk:
    """OsDisk whose log can be full, whose fdatasync can be held back or fail."""

    def __init__(self, folder: Path) -> None:
        self._disk = OsDisk(folder)
        self.full = False
        self.no_new_files = False
        self.broken = False
        self.syncing = asyncio.Event()
        """Set when an fdatasync has begun while `gate` was closed."""
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def open_append(self, path: str) -> Any:
        if self.full or self.no_new_files:
            raise DiskFull("no room for a file")
        return _FaultyFile(self, self._disk.open_append(path))


class _FaultyFile:
    def __init__(self, disk: FaultyDisk, file: Any) -> None:
        self._disk = disk
        self._file = file

    @property
    def size(self) -> int:
        return int(self._file.size)

    def append(self, data: bytes) -> int:
        if self._disk.full:
            raise DiskFull("no room")
        return int(self._file.append(data))

    def rewrite(self, offset: int) -> None:
        self._file.rewrite(offset)

    async def sync(self) -> None:
        if not self._disk.gate.is_set():
            self._disk.syncing.set()
            await self._disk.gate.wait()
        if self._disk.broken:
            raise DiskFailed("the fdatasync failed")
        await self._file.sync()

    def close(self) -> None:
        self._file.close()
