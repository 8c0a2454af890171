"""Six real storage nodes in one process: gRPC on loopback, real files, no control plane."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import VolumeConfig
from engine.errors import Unavailable
from engine.net.clock import LoopClock
from engine.net.disk import OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.ports import AppendFile, Channel, Disk, Runtime, Server
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore_sqlite import SqlitePageStore
from engine.tasks import Background
from engine.types import Membership, PgNo
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb, membership_to_pb, open_volume
from engine.volume.quorum import WRITE
from engine.volume.reader import PageReader
from engine.volume.writer import VolumeWriter

VOLUME = 1
NODES = [f"storage-{n}" for n in range(1, 7)]
AZ = {name: f"az{(n // 2) + 1}" for n, name in enumerate(NODES)}

FAST = StorageConfig(
    gossip_s=0.05, coalesce_s=0.05, scrub_s=0.05, scrub_pass_s=0.05, coalesce_bytes=64 * 1024
)


class PowerCutDisk(OsDisk):
    """Real files that remember how much of each was synced, so that `cut` can lose the rest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._synced: dict[str, int] = {}
        self.flowing = asyncio.Event()
        """Cleared: every sync waits, so nothing is acknowledged."""
        self.flowing.set()

    def open_append(self, path: str) -> AppendFile:  # type: ignore[override]
        self._synced.setdefault(path, 0)
        return _WatchedFile(super().open_append(path), path, self)

    def cut(self, rng: random.Random) -> None:
        """What a power failure does to the newest log file: any part of what no sync covered is gone."""
        names = self.list("wal")
        if names:
            path = f"wal/{names[-1]}"
            self.truncate(path, rng.randint(self._synced.get(path, 0), self.size(path)))
        self.flowing.set()

    def synced(self, path: str, size: int) -> None:
        self._synced[path] = size


class _WatchedFile:
    def __init__(self, file: AppendFile, path: str, disk: PowerCutDisk) -> None:
        self._file = file
        self._path = path
        self._disk = disk

    @property
    def size(self) -> int:
        return self._file.size

    def append(self, data: bytes) -> int:
        return self._file.append(data)

    async def sync(self) -> None:
        await self._disk.flowing.wait()
        covered = self._file.size
        await self._file.sync()
        self._disk.synced(self._path, covered)

    def rewrite(self, offset: int) -> None:
        self._file.rewrite(offset)

    def close(self) -> None:
        self._file.close()


@dataclass
class FleetNode:
    name: str
    folder: Path
    runtime: Runtime
    node: StorageNode | None = None
    server: Server | None = None
    address: str = "127.0.0.1:0"
    stopped: list[str] = field(default_factory=list)


@dataclass
class OpenedWriter:
    volume: VolumeWriter
    reader: PageReader
    background: Background
    channels: Channels
    fenced: list[str]

    async def close(self) -> None:
        await self.background.stop()
        await self.channels.close()


class Fleet:
    """`await start()`; `open_writer()` recovers and opens under the next epoch."""

    def __init__(
        self,
        root: Path,
        config: StorageConfig = FAST,
        *,
        seed: int = 7,
        disk: Callable[[Path], Disk] = OsDisk,
    ) -> None:
        self.root = root
        self.config = config
        self.rng = random.Random(seed)
        self._disk = disk
        self._incarnations: dict[str, str] = {}
        self._unconfirmed: set[tuple[PgNo, str]] = set()
        self.nodes = {name: self._fresh(name) for name in NODES}
        self.memberships: list[Membership] = []
        self.epoch = 0
        self.max_pages = 64 * 2560

    def _fresh(self, name: str) -> FleetNode:
        folder = self.root / name
        stopped: list[str] = []
        runtime = Runtime(
            clock=LoopClock(),
            disk=self._disk(folder),
            transport=GrpcTransport(),
            rng=random.Random(self.rng.getrandbits(32)),
            stop_node=stopped.append,
        )
        return FleetNode(name, folder, runtime, stopped=stopped)

    async def start(self, *names: str) -> None:
        """Start the named nodes (default all), as after a crash or for the first time."""
        for name in names or NODES:
            slot = self.nodes[name]
            store = SqlitePageStore(slot.runtime.disk.local_path("node.db"))
            node = StorageNode(
                slot.runtime, name=name, az=AZ[name], store=store, config=self.config
            )
            await node.open()
            slot.server = await slot.runtime.transport.serve(slot.address, node.handlers)
            slot.address = slot.server.address
            node.start()
            slot.node = node  # up from here on, for who adds a group meanwhile
            self._incarnations.setdefault(name, slot.node.state.incarnation)
            await self._assign_missing(name)
        if not self.memberships:
            await self.add_group()

    async def stop(self, *names: str) -> None:
        """Stop nodes without any goodbye to disk beyond what they have synced already."""
        for name in names or NODES:
            slot = self.nodes[name]
            if slot.node is not None and slot.server is not None:
                await slot.server.stop(0)
                await slot.node.stop()
                slot.node = slot.server = None

    async def kill(self, *names: str) -> None:
        """As kill -9: no last word to disk; on a `PowerCutDisk` what no sync covered may be gone."""
        for name in names:
            slot = self.nodes[name]
            if slot.node is not None and slot.server is not None:
                node, slot.node = slot.node, None
                await slot.server.stop(0)
                await node._background.stop()
                await node.state.channels.close()
                await node.state.store.close()
                node.state.wal.close()
                if isinstance(slot.runtime.disk, PowerCutDisk):
                    slot.runtime.disk.cut(self.rng)

    @property
    def up(self) -> list[str]:
        return [name for name in NODES if self.nodes[name].node is not None]

    async def wipe(self, name: str) -> None:
        await self.stop(name)
        shutil.rmtree(self.nodes[name].folder)
        address = self.nodes[name].address
        self.nodes[name] = self._fresh(name)
        self.nodes[name].address = address

    def node(self, name: str) -> StorageNode:
        found = self.nodes[name].node
        assert found is not None
        return found

    async def add_group(self, *_args: object) -> list[Membership]:
        """One more group, created on a write quorum; who is away gets its segment at its start."""
        if len(self.up) < WRITE:
            raise Unavailable("too few storage nodes for a new group")
        pg = len(self.memberships)
        members = [
            pb.MemberInfo(
                node=name,
                az=AZ[name],
                address=self.nodes[name].address,
                incarnation=self._incarnations[name],
            )
            for name in NODES
        ]
        membership = pb.PgMembership(pg=pg, epoch=1, members=members)
        self.memberships.append(membership_from_pb(membership))
        self._unconfirmed |= {(pg, name) for name in NODES}
        await self._assign_missing(*self.up)
        return self.memberships

    async def _assign_missing(self, *names: str) -> None:
        """Have segments created that the catalog knows and these nodes have not confirmed."""
        for pg, name in sorted(self._unconfirmed):
            node = self.nodes[name].node
            if name in names and node is not None:
                assignment = pb.SegmentAssignment(
                    volume=VOLUME,
                    membership=membership_to_pb(self.memberships[pg]),
                    incarnation=self._incarnations[name],
                    create=True,
                )
                assert not await node.assign([assignment])
                self._unconfirmed.discard((pg, name))

    async def open_writer(
        self,
        config: VolumeConfig | None = None,
        *,
        through: Callable[[Channel], Channel] = lambda channel: channel,
        memberships: Sequence[Membership] | None = None,
    ) -> OpenedWriter:
        """Recover and open; its links go `through` what a test puts between them and the nodes.

        `memberships`: what the catalog says, if that is not all.
        """
        config = config or VolumeConfig()
        await self._assign_missing(*self.up)
        self.epoch += 1
        fenced: list[str] = []
        runtime = self._fresh("writer").runtime
        channels = Channels(runtime.transport)
        background = Background()
        reply = cpb.OpenVolumeReply(
            volume=VOLUME,
            epoch=self.epoch,
            max_pages=self.max_pages,
            memberships=[membership_to_pb(m) for m in memberships or self.memberships],
        )
        try:
            opened = await open_volume(runtime, config, reply, connect=channels.to)
        except BaseException:
            await channels.close()
            raise
        volume = VolumeWriter(
            runtime,
            config,
            opened,
            connect=lambda address: through(channels.to(address)),
            background=background,
            grow=self.add_group,
            on_fenced=fenced.append,
        )
        volume.start()
        reader = PageReader(
            runtime,
            config,
            volume=VOLUME,
            epoch=self.epoch,
            az="az1",
            memberships=volume.memberships,
            tails=volume.tails,
            scls=volume.scls,
            connect=channels.to,
        )
        return OpenedWriter(volume, reader, background, channels, fenced)
