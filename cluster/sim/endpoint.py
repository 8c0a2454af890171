"""The writer and the reader endpoint of a simulated cluster.

The real endpoint process hands over sockets; here a client gets a connection. Who it is to is decided by
the same rule (`cluster.endpoint.balance`) from the same view of the catalog, which travels the network, and
from what the instances say of themselves. As the real one does, it cuts off the clients of an instance that
is no longer the writer, even if that hangs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster.endpoint.balance import Kind, Load, choose
from cluster.endpoint.link import SILENT_S
from cluster.local.layout import DEFAULT_READER_LAG_MS
from cluster.sim.sqlwire import SqlClient
from cluster.sim.transport import SimTransport
from engine.errors import SextetError
from engine.net.methods import WATCH_CLUSTER
from engine.net.pb import control_pb2 as cpb
from engine.pgwire.handover import CUT_OFF

if TYPE_CHECKING:
    from cluster.sim.world import World


class SimEndpoint:
    """Both endpoints: who is asked next, by the real balancing rule, from the catalog's view."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._host = "endpoint"
        self._life = world.new_life("endpoint", 1)
        self.writer = ""
        self.epoch = 0
        self._names: tuple[str, ...] = ()
        self._clients: dict[SqlClient, None] = {}
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
        before, self._names = self.writer, tuple(sorted(i.name for i in view.instances))
        self.writer = next((i.name for i in view.instances if i.role == "writer"), "")
        self.epoch = view.volume_epoch
        self._world.trace.emit("view", "endpoint", writer=self.writer, epoch=self.epoch)
        if before not in ("", self.writer):
            for client in [c for c in self._clients if c.instance == before]:
                self._world.trace.emit("cut", "endpoint", instance=before)
                client.cut()

    def connect(self, kind: Kind, transport: SimTransport) -> SqlClient | None:
        """A connection to an instance, None if nobody can take it now."""
        loads = [
            Load(
                name,
                "writer" if name == self.writer else "replica",
                self._live(name),
                sum(client.instance == name for client in self._clients),
                self._chosen.get(name, 0),
                self._state(name),
            )
            for name in self._names
        ]
        name = choose(kind, loads, lag_ms_max=DEFAULT_READER_LAG_MS)
        if name is None:
            return None
        self._choices += 1
        self._chosen[name] = self._choices
        client = self.connect_to(name, transport, writer=kind is Kind.WRITER)
        self._clients[client] = None
        return client

    def connect_to(self, name: str, transport: SimTransport, *, writer: bool = False) -> SqlClient:
        """A connection to a certain instance, which is refused if `writer` and it is none."""
        return SqlClient(transport, name, writer=writer)

    def _live(self, name: str) -> bool:
        process = self._world.processes[name]
        if not process.up or process.node is None or not process.node.ready.is_set():
            return False
        life = process.life
        assert life is not None
        return life.runs or self._world.loop.time() - life.paused_at <= SILENT_S

    def _state(self, name: str) -> int:
        node = self._world.processes[name].node
        return CUT_OFF if node is None else int(node.serving_state())

    def disconnected(self, client: SqlClient) -> None:
        """One that `connect` has made is no longer used."""
        self._clients.pop(client, None)
