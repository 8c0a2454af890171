"""The endpoint's side of handing clients to one instance; the messages are `engine.pgwire.handover`'s.

One connection to the instance's Unix socket is kept open, so an instance that dies is known to be dead at
once, and one that hangs after SILENT_S. There is no proxy in the data path: the instance has the client's
socket and talks to the client itself. The endpoint only keeps a descriptor of it until the instance says
that this client has closed, so that it can shut the connection down when the instance cannot.

Caveat: a descriptor kept here keeps the connection of an instance that was killed open, until this process
has seen the death. So while an endpoint process hangs its clients do not learn of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

from engine.pgwire.handover import (
    CLIENT,
    CLOSED,
    CUT_OFF,
    HELLO,
    RETURNED,
    STATE,
    WRITER_CLIENT,
    Message,
    pack,
    receive,
)
from engine.tasks import backoff

log = logging.getLogger(__name__)

RECONNECT_FIRST_S, RECONNECT_LIMIT_S = 0.02, 0.25

SILENT_S = 3.0
"""An instance that has not said its state for this long hangs, and gets no clients."""


@dataclass(frozen=True, slots=True)
class _Client:
    socket: socket.socket
    writer: bool
    """It came for a writer."""


class InstanceLink:
    """Connects again and again while `run` runs; `on_change` is called when it may take clients again."""

    def __init__(self, name: str, path: str, *, on_change: Callable[[], None]) -> None:
        self.name = name
        self.path = path
        self.state = CUT_OFF
        self.last_chosen = 0
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._clients: dict[int, _Client] = {}
        self._count = 0
        self._heard_at: float | None = None  # None: nothing yet on this connection

    @property
    def live(self) -> bool:
        """Whether the instance takes clients now."""
        now = asyncio.get_running_loop().time()
        return self._heard_at is not None and now - self._heard_at <= SILENT_S

    @property
    def connections(self) -> int:
        """Clients that it has and that have not closed yet."""
        return len(self._clients)

    def hand_over(self, client: socket.socket, *, writer: bool) -> bool:
        """Give the instance a client and keep `client`; False if it cannot take it: nothing changes."""
        if self._socket is None:
            return False
        number = self._next_number()
        message = pack(WRITER_CLIENT if writer else CLIENT, number)
        try:
            socket.send_fds(self._socket, [message], [client.fileno()])
        except OSError as error:
            # A full socket buffer (it hangs) or a broken one (it died; `run` sees that as well).
            log.warning("! %s takes no client: %s", self.name, error)
            return False
        self._clients[number] = _Client(client, writer)
        return True

    def _next_number(self) -> int:
        while True:
            self._count = self._count % (RETURNED - 1) + 1
            if self._count not in self._clients:
                return self._count

    def cut(self, *, all_clients: bool) -> int:
        """Shut down those who came for a writer, or all; returns how many. The instance is not asked."""
        found = [n for n, client in self._clients.items() if all_clients or client.writer]
        for number in found:
            client = self._clients.pop(number)
            with contextlib.suppress(OSError):  # it has gone by itself
                client.socket.shutdown(socket.SHUT_RDWR)
            client.socket.close()
        return len(found)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        rng = random.Random()
        delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
        while True:
            if await self._connected():
                delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
            await asyncio.sleep(next(delays))

    async def _connected(self) -> bool:
        """One connection from its beginning to its end; False if nothing was heard on it."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, self.path)
            self._socket = connection
            await loop.sock_sendall(connection, pack(HELLO, 0))
            while (message := await receive(connection)) is not None:
                self._take(message)
        except OSError as error:
            log.debug("%s: %s", self.name, error)
        finally:
            heard = self._heard_at is not None
            self._socket = self._heard_at = None
            connection.close()
            for client in self._clients.values():
                client.socket.close()  # not shut down: if it lives it may still say goodbye
            self._clients.clear()
            if heard:
                log.info("< %s takes no more clients", self.name)
                self._on_change()
        return heard

    def _take(self, message: Message) -> None:
        match message:
            case Message(kind, number, int(fd)):
                if kind in (CLIENT, WRITER_CLIENT):
                    self._clients[number] = _Client(socket.socket(fileno=fd), kind == WRITER_CLIENT)
                    self._on_change()
                else:
                    os.close(fd)
            case Message(kind, state) if kind == STATE:
                if self._heard_at is None:
                    log.info("> %s takes clients", self.name)
                news = not self.live or state != self.state
                self.state = state
                self._heard_at = asyncio.get_running_loop().time()
                if news:
                    self._on_change()
            case Message(kind, number) if kind == CLOSED:
                client = self._clients.pop(number, None)
                if client is not None:
                    client.socket.close()
