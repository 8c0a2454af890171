"""The endpoint's side of handing clients to one instance.

One connection to the instance's Unix socket is kept open. Per client the byte b"C" (b"W" if it came to
the writer endpoint, so that an instance which is no writer can refuse it) travels with the client's file
descriptor (SCM_RIGHTS); the instance sends back b"-" for each of them that has closed.
So the count of an instance's clients is exact, and an instance that dies is known to be dead at once.
After that the endpoint has no part in the conversation: there is no proxy in the data path.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable

from engine.tasks import backoff

log = logging.getLogger(__name__)

RECONNECT_FIRST_S, RECONNECT_LIMIT_S = 0.02, 0.25
CLIENT = b"C"
WRITER_CLIENT = b"W"
CLOSED = b"-"


class InstanceLink:
    """Connects again and again while `run` runs; `on_change` is called when `live` changes."""

    def __init__(self, name: str, path: str, *, on_change: Callable[[], None]) -> None:
        self.name = name
        self.path = path
        self.connections = 0
        self.last_chosen = 0
        self._on_change = on_change
        self._socket: socket.socket | None = None

    @property
    def live(self) -> bool:
        """Whether the instance takes clients now."""
        return self._socket is not None

    def hand_over(self, client: socket.socket, *, writer: bool) -> bool:
        """Give the instance a client, who is its business from then on; False if it cannot take it.

        The caller closes its own `client` afterwards.
        """
        if self._socket is None:
            return False
        try:
            socket.send_fds(self._socket, [WRITER_CLIENT if writer else CLIENT], [client.fileno()])
        except OSError as error:
            # A full socket buffer (it hangs) or a broken one (it died; `run` sees that as well).
            log.warning("! %s takes no client: %s", self.name, error)
            return False
        self.connections += 1
        return True

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        rng = random.Random()
        delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
        while True:
            if await self._connected():
                delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
            await asyncio.sleep(next(delays))

    async def _connected(self) -> bool:
        """One connection from its beginning to its end; False if there was none."""
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, self.path)
            self._socket = connection
            log.info("> %s takes clients", self.name)
            self._on_change()
            while received := await loop.sock_recv(connection, 4096):
                self.connections -= received.count(CLOSED)
        except OSError as error:
            log.debug("%s: %s", self.name, error)
        finally:
            was_live, self._socket = self.live, None
            connection.close()
            if was_live:
                log.info("< %s takes no more clients", self.name)
                self.connections = 0
                self._on_change()
        return was_live
