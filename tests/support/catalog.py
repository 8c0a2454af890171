"""The control plane's part in an instance's life, over gRPC, with the fleet's memberships.

The real control plane is tested in tests/cluster and tests/e2e; here a test decides who the writer is.
"""

from __future__ import annotations

import asyncio

from engine.errors import ConfigError
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import GROW_VOLUME, OPEN_VOLUME, REGISTER, WATCH_CLUSTER
from engine.net.pb import control_pb2 as cpb
from engine.ports import Server, Stream
from engine.volume.fencing import membership_to_pb
from tests.support.fleet import VOLUME, Fleet


class Catalog:
    """`await start()`, then `name_writer`; instances register and watch as in a real cluster."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.writer = ""
        self.addresses: dict[str, str] = {}
        self.changed = asyncio.Condition()
        self.server: Server | None = None

    @property
    def address(self) -> str:
        assert self.server is not None
        return self.server.address

    async def start(self) -> None:
        handlers = {
            REGISTER: self._register,
            WATCH_CLUSTER: self._watch,
            OPEN_VOLUME: self._open,
            GROW_VOLUME: self._grow,
        }
        self.server = await GrpcTransport().serve("127.0.0.1:0", handlers)

    async def stop(self) -> None:
        assert self.server is not None
        await self.server.stop(0)

    async def name_writer(self, name: str) -> None:
        async with self.changed:
            self.writer = name
            self.changed.notify_all()

    async def _register(self, request: cpb.RegisterRequest) -> cpb.RegisterReply:
        async with self.changed:
            self.addresses[request.name] = request.address
            self.changed.notify_all()
        return cpb.RegisterReply()

    def _view(self) -> cpb.ClusterView:
        return cpb.ClusterView(
            cluster="main",
            volume=VOLUME,
            max_pages=self.fleet.max_pages,
            instances=[
                cpb.InstanceView(
                    name=name,
                    address=self.addresses[name],
                    role="writer" if name == self.writer else "replica",
                )
                for name in sorted(self.addresses)
            ],
        )

    async def _watch(
        self, _request: cpb.WatchClusterRequest, stream: Stream[cpb.ClusterView, object]
    ) -> None:
        while True:
            async with self.changed:
                view = self._view()
                await stream.send(view)
                await self.changed.wait_for(lambda seen=view: self._view() != seen)

    async def _open(self, request: cpb.OpenVolumeRequest) -> cpb.OpenVolumeReply:
        if request.instance != self.writer:
            raise ConfigError(f"{request.instance} is not the writer")
        self.fleet.epoch += 1
        return cpb.OpenVolumeReply(
            volume=VOLUME,
            epoch=self.fleet.epoch,
            max_pages=self.fleet.max_pages,
            memberships=[membership_to_pb(m) for m in self.fleet.memberships],
        )

    async def _grow(self, request: cpb.GrowVolumeRequest) -> cpb.GrowVolumeReply:
        while len(self.fleet.memberships) <= request.pg:
            await self.fleet.add_group()
        return cpb.GrowVolumeReply(
            memberships=[membership_to_pb(m) for m in self.fleet.memberships]
        )
