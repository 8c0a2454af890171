"""The writer and the reader endpoint of a simulated cluster.

The real endpoint process hands over sockets; here a client gets a connection. Who it is to is decided by
the same rule (`cluster.endpoint.balance`) from the same view of the catalog, which travels the network.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster.endpoint.balance import Kind, Load, choose
from cluster.sim.process import Life
from cluster.sim.sqlwire import SqlClient
from cluster.sim.transport import SimTransport
from engine.errors import SextetError
from engine.net.methods import WATCH_CLUSTER
from engine.net.pb import control_pb2 as cpb

if TYPE_CHECKING:
    from cluster.sim.world import World


class SimEndpoint:
    """Both endpoints: who is asked next, by the real balancing rule, from the catalog's view."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._host = "endpoint"
        self._life = Life(world.loop, "endpoint", 1)
        world.lives.append(self._life)
        self.writer = ""
        self.epoch = 0
        self._names: tuple[str, ...] = ()
        self._connections: dict[str, int] = {}
        self._chosen: dict[str, int] = {}
        self._choices = 0

    def start(self) -> None:
        self._life.spawn(self._watch(), name="endpoint's view")

    async def _watch(self) -> None:
        world = self._world
        transport = SimTransport(world.network, self._host, self._life)
        channel = transport.connect(world.layout.control_address)
        while True:
            try:
                stream = channel.stream(
                    WATCH_CLUSTER, cpb.WatchClusterRequest(cluster=world.cluster)
                )
                while (view := await stream.recv()) is not None:
                    self._take(view)
            except SextetError:
                pass  # the last view stays valid
            await asyncio.sleep(0.1)

    def _take(self, view: cpb.ClusterView) -> None:
        self._names = tuple(sorted(i.name for i in view.instances))
        self.writer = next((i.name for i in view.instances if i.role == "writer"), "")
        self.epoch = view.volume_epoch
        self._world.trace.emit("view", "endpoint", writer=self.writer, epoch=self.epoch)

    def connect(self, kind: Kind, transport: SimTransport) -> SqlClient | None:
        """A connection to an instance, None if nobody can take it now."""
        loads = [
            Load(
                name,
                "writer" if name == self.writer else "replica",
                self._open(name),
                self._connections.get(name, 0),
                self._chosen.get(name, 0),
            )
            for name in self._names
        ]
        name = choose(kind, loads)
        if name is None:
            return None
        return self.connect_to(name, transport, writer=kind is Kind.WRITER)

    def connect_to(self, name: str, transport: SimTransport, *, writer: bool = False) -> SqlClient:
        """A connection to a certain instance, which is refused if `writer` and it is none."""
        self._choices += 1
        self._chosen[name] = self._choices
        self._connections[name] = self._connections.get(name, 0) + 1
        return SqlClient(transport, name, writer=writer)

    def _open(self, name: str) -> bool:
        process = self._world.processes[name]
        return process.up and process.node is not None and process.node.ready.is_set()

    def disconnected(self, name: str) -> None:
        self._connections[name] -= 1
