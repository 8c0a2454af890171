"""A cluster's two endpoints: two listening ports that give every client to an instance.

Invariants
- A client is given to one instance or answered with an error, never dropped in silence while we live.
- Nobody waits longer than HOLD_S and no more than HELD_MAX wait: a failover is ridden out, an outage
  is reported (SQLSTATE 57P03).
- Roles are the catalog's; whether an instance lives is what its socket says. The control plane may be
  away for as long as it likes.

Caveat: clients handed over before this process was restarted are not counted.
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
from cluster.endpoint.view import EndpointView, Target
from engine.errors import ConfigError
from engine.tasks import Background

log = logging.getLogger(__name__)

HOLD_S = 10.0
HELD_MAX = 256
REFUSED_AT_ONCE_MAX = 256
BACKLOG = 1024
ACCEPT_PAUSE_S = 0.1
"""After the system had no descriptor left for another client."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass
class _Known:
    """An instance, our link to it and the task that keeps the link up."""

    target: Target
    link: InstanceLink
    task: asyncio.Task[None]


class Endpoint:
    """Both endpoints of one cluster. Start with `listen`, tell of changes with `update`."""

    def __init__(
        self,
        *,
        hold_s: float = HOLD_S,
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self._hold_s = hold_s
        self._background = Background(on_failure)
        self._known: dict[str, _Known] = {}
        self._listeners: list[socket.socket] = []
        self._changed = asyncio.Event()
        self._choices = 0
        self._held = 0
        self._refusing = 0

    # -- life

    def listen(self, kind: Kind, host: str, port: int) -> int:
        """Accept clients of `kind`; returns the port. Raises ConfigError if it is taken."""
        try:
            listener = socket.create_server((host, port), backlog=BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken by another program ({error.strerror}); choose another with "
                "`sextet up --port`"
            ) from error
        listener.setblocking(False)
        self._listeners.append(listener)
        self._background.spawn(self._accept_all(kind, listener), name=f"{kind.value} endpoint")
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close the ports; whoever still waits is closed too. Handed-over clients go on."""
        await self._background.stop()
        for listener in self._listeners:
            listener.close()

    def update(self, view: EndpointView) -> None:
        """Take over the roles and the instances of `view`."""
        wanted = {target.name: target for target in view.targets}
        for name in sorted(self._known):
            known = self._known[name]
            if name not in wanted or wanted[name].socket != known.target.socket:
                known.task.cancel()
                del self._known[name]
        for name, target in sorted(wanted.items()):
            if name in self._known:
                self._known[name].target = target
            else:
                link = InstanceLink(name, target.socket, on_change=self._notify)
                task = self._background.spawn(link.run(), name=f"link to {name}")
                self._known[name] = _Known(target, link, task)
        self._notify()

    def connections(self) -> dict[str, int]:
        """Clients per instance that we handed over and that have not closed yet."""
        return {name: known.link.connections for name, known in sorted(self._known.items())}

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- clients

    async def _accept_all(self, kind: Kind, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                # One client's bad luck (it has gone already), or ours (no descriptors).
                log.warning("! %s endpoint cannot accept: %s", kind.value, error)
                if error.errno in _OUT_OF_RESOURCES:
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if self._hand_over(kind, client):
                client.close()
            elif self._held < HELD_MAX:
                self._held += 1
                self._background.spawn(self._hold(kind, client), name="held client")
            else:
                self._refuse(client, TOO_MANY_CONNECTIONS, f"{self._held} clients wait already")

    def _hand_over(self, kind: Kind, client: socket.socket) -> bool:
        """Give the client to the best instance, or to the next best if that one cannot take it."""
        loads = {
            name: Load(
                name,
                known.target.role,
                known.link.live,
                known.link.connections,
                known.link.last_chosen,
            )
            for name, known in self._known.items()
        }
        while (name := choose(kind, loads.values())) is not None:
            link = self._known[name].link
            if link.hand_over(client, writer=kind is Kind.WRITER):
                self._choices += 1
                link.last_chosen = self._choices
                return True
            del loads[name]
        return False

    async def _hold(self, kind: Kind, client: socket.socket) -> None:
        """Wait for an instance that can take the client; turn it away after HOLD_S."""
        try:
            async with asyncio.timeout(self._hold_s):
                while True:
                    changed = self._changed
                    if self._hand_over(kind, client):
                        client.close()
                        return
                    await changed.wait()
        except TimeoutError:
            who = "writer" if kind is Kind.WRITER else "instance"
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
