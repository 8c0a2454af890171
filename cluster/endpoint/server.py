"""A cluster's two endpoints: two listening ports that give every client to an instance.

Invariants
- A client is given to one instance or answered with an error, never dropped in silence while we live.
- Nobody waits longer than HOLD_S and no more than HELD_MAX wait: a failover is ridden out, an outage
  is reported (SQLSTATE 57P03).
- Roles are the catalog's; whether an instance lives and is fit is what its socket says. The control plane
  may be away for as long as it likes.
- Clients of a writer endpoint do not outlive the role of the instance they were given to: when the catalog
  names another writer, or an instance is removed, its clients' sockets are shut down here, whatever state
  its process is in. So connection pools notice at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from cluster.endpoint.balance import Kind, Load, choose
from cluster.endpoint.link import InstanceLink
from cluster.endpoint.refusal import CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS, refuse
from cluster.endpoint.view import WRITER, EndpointView, Target
from cluster.local.layout import DEFAULT_READER_LAG_MS, EndpointSpec
from engine.errors import ConfigError
from engine.tasks import Background

log = logging.getLogger(__name__)

HOLD_S = 10.0
HELD_MAX = 256
REFUSED_AT_ONCE_MAX = 256
BACKLOG = 1024
CLIENTS_MAX = 20_000
"""Clients of all instances together, each of which costs this process one descriptor."""

SPARE_DESCRIPTORS = HELD_MAX + REFUSED_AT_ONCE_MAX + 256
"""What else the process may have open."""

ACCEPT_PAUSE_S = 0.1
"""After the system had no descriptor left for another client."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass
class _Known:
    """An instance, our link to it and the task that keeps the link up."""

    target: Target
    link: InstanceLink
    task: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class _Door:
    """A listening port, and who may be given the clients that come to it."""

    name: str
    kind: Kind
    admits: Callable[[str], bool] = lambda _instance: True


class Endpoint:
    """All endpoints of one cluster. Start with `listen`, tell of changes with `update`."""

    def __init__(
        self,
        *,
        hold_s: float = HOLD_S,
        clients_max: int = CLIENTS_MAX,
        lag_ms_max: int = DEFAULT_READER_LAG_MS,
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.lag_ms_max = lag_ms_max
        self._hold_s = hold_s
        self._clients_max = clients_max
        self._background = Background(on_failure)
        self._known: dict[str, _Known] = {}
        self._accepting: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._choices = 0
        self._remembered = True
        self._held = 0
        self._refusing = 0

    # -- life

    def listen(self, kind: Kind, host: str, port: int) -> int:
        """Accept clients of `kind`; returns the port. Raises ConfigError if it is taken."""
        return self._open(_Door(kind.value, kind), host, port, option="`sextet up --port`")

    def listen_custom(self, spec: EndpointSpec, host: str) -> int:
        """The reader endpoint's rule, among the instances that `spec` admits. Raises ConfigError."""
        door = _Door(f"custom {spec.name}", Kind.READER, spec.admits)
        return self._open(door, host, spec.port, option="`sextet endpoint add --port`")

    def close_custom(self, name: str) -> None:
        """No new clients come by it, from the loop's next turn on; those who did go on."""
        self._accepting.pop(f"custom {name}").cancel()

    def _open(self, door: _Door, host: str, port: int, *, option: str) -> int:
        try:
            listener = socket.create_server((host, port), backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken by another program ({error.strerror}); choose another with "
                + option
            ) from error
        listener.setblocking(False)
        task = self._background.spawn(
            self._accept_all(door, listener), name=f"{door.name} endpoint"
        )
        task.add_done_callback(lambda _: listener.close())
        self._accepting[door.name] = task
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close the ports; whoever still waits is closed too. Handed-over clients go on."""
        await self._background.stop()

    def update(self, view: EndpointView, *, remembered: bool = False) -> None:
        """Take over the roles and the instances of `view`; `remembered`: it may be an old one."""
        self._remembered = remembered
        wanted = {target.name: target for target in view.targets}
        for name in sorted(self._known):
            known = self._known[name]
            if name not in wanted or wanted[name].socket != known.target.socket:
                self._cut(known.link, "it was removed", all_clients=True)
                known.task.cancel()
                del self._known[name]
        for name, target in sorted(wanted.items()):
            if name in self._known:
                known = self._known[name]
                if known.target.role == WRITER != target.role:
                    self._cut(known.link, "it is no longer the writer", all_clients=True)
                known.target = target
            else:
                link = InstanceLink(name, target.socket, on_change=self._link_changed)
                task = self._background.spawn(link.run(), name=f"link to {name}")
                self._known[name] = _Known(target, link, task)
        self._link_changed()

    def connections(self) -> dict[str, int]:
        """Clients per instance that we handed over and that have not closed yet."""
        return {name: known.link.connections for name, known in sorted(self._known.items())}

    def _cut(self, link: InstanceLink, why: str, *, all_clients: bool) -> None:
        count = link.cut(all_clients=all_clients)
        if count:
            log.info("! %d clients of %s are cut off: %s", count, link.name, why)

    def _link_changed(self) -> None:
        if not self._remembered:
            for known in self._known.values():
                if known.target.role != WRITER:  # handed back by it, or given to it meanwhile
                    self._cut(known.link, "it is not the writer", all_clients=False)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- clients

    async def _accept_all(self, door: _Door, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                # One client's bad luck (it has gone already), or ours (no descriptors).
                log.warning("! %s endpoint cannot accept: %s", door.name, error)
                if error.errno in _OUT_OF_RESOURCES:
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if (count := self._client_count()) >= self._clients_max:
                self._refuse(
                    client,
                    TOO_MANY_CONNECTIONS,
                    f"this endpoint has {count} clients already, as many as its limit of open files "
                    "allows (ulimit -n)",
                )
            elif self._hand_over(door, client):
                pass  # its link keeps the socket
            elif self._held < HELD_MAX:
                self._held += 1
                self._background.spawn(self._hold(door, client), name="held client")
            else:
                self._refuse(client, TOO_MANY_CONNECTIONS, f"{self._held} clients wait already")

    def _client_count(self) -> int:
        return sum(known.link.connections for known in self._known.values())

    def _hand_over(self, door: _Door, client: socket.socket) -> bool:
        """Give the client to the best instance, or to the next best if that one cannot take it."""
        loads = {
            name: Load(
                name,
                known.target.role,
                known.link.live,
                known.link.connections,
                known.link.last_chosen,
                known.link.state,
            )
            for name, known in self._known.items()
            if door.admits(name)
        }
        while (name := choose(door.kind, loads.values(), lag_ms_max=self.lag_ms_max)) is not None:
            link = self._known[name].link
            if link.hand_over(client, writer=door.kind is Kind.WRITER):
                self._choices += 1
                link.last_chosen = self._choices
                return True
            del loads[name]
        return False

    async def _hold(self, door: _Door, client: socket.socket) -> None:
        """Wait for an instance that can take the client; turn it away after HOLD_S."""
        try:
            async with asyncio.timeout(self._hold_s):
                while True:
                    changed = self._changed
                    if self._hand_over(door, client):
                        return
                    await changed.wait()
        except TimeoutError:
            who = "writer" if door.kind is Kind.WRITER else "instance"
            message = f"no {who} has been available for {self._hold_s:.0f} s; see `sextet status`"
            self._refuse(client, CANNOT_CONNECT_NOW, message)
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            self._held -= 1

    def _refuse(self, client: socket.socket, sqlstate: str, message: str) -> None:
        if self._refusing >= REFUSED_AT_ONCE_MAX:
            client.close()
            return
        self._refusing += 1
        client.setblocking(False)
        task = self._background.spawn(refuse(client, sqlstate, message), name="refused client")
        task.add_done_callback(self._refused)

    def _refused(self, _task: asyncio.Task[None]) -> None:
        self._refusing -= 1
