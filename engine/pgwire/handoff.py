"""Taking over client sockets from an endpoint process; the messages are `engine.pgwire.handover`'s.

Invariants
- The endpoint that connected last is told of every client it has handed over or was handed back, once,
  when that client has closed: it keeps a descriptor of each until then.
- A new endpoint process is handed back every client that is being served, so it counts them and can
  close them like its own.

Caveat: an instance that hangs hands nothing back. Clients that an endpoint process of before gave to it
stay connected until it goes on or dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.pgwire.handover import (
    CANCEL,
    CLIENT,
    CLOSED,
    CUT_OFF,
    HELLO,
    LAG_MS_MAX,
    OPEN_WRITER,
    RETURNED,
    SECRET,
    STATE,
    STATE_S,
    WRITER_CLIENT,
    Message,
    pack,
    receive,
)
from engine.pgwire.server import PgServer
from engine.tasks import end_all

log = logging.getLogger(__name__)

STATE_LOOK_S = 0.05
"""How often the state is looked at. Saying it is one small message, and only every STATE_S if it is
the same."""

QUEUE_MAX = 20_000
"""Messages that wait for an endpoint which does not read; then its connection is given up."""


@dataclass(eq=False)
class _Served:
    """A client and what the endpoint calls it."""

    client: socket.socket
    kind: bytes
    number: int


class _Endpoint:
    """The endpoint's connection. What does not fit into its socket waits in order."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self._queue: deque[tuple[bytes, socket.socket | None]] = deque()

    def tell(self, message: bytes, client: socket.socket | None = None) -> None:
        if self.peer.fileno() < 0:
            return  # it has gone
        self._queue.append((message, client))
        if len(self._queue) == 1:
            self._flush()
        elif len(self._queue) > QUEUE_MAX:
            log.warning("! the endpoint reads nothing any more; it may connect again")
            self._queue.clear()
            with contextlib.suppress(OSError):
                self.peer.shutdown(socket.SHUT_RDWR)  # whoever reads from it sees the end

    @property
    def idle(self) -> bool:
        return not self._queue

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            message, client = self._queue[0]
            try:
                if client is None:
                    self.peer.send(message)
                elif client.fileno() >= 0:  # else it has closed meanwhile
                    socket.send_fds(self.peer, [message], [client.fileno()])
            except BlockingIOError:
                loop.add_writer(self.peer, self._flush)
                return
            except OSError as error:
                log.debug("the endpoint went away: %s", error)
                self._queue.clear()
                break
            self._queue.popleft()
        loop.remove_writer(self.peer)

    def close(self) -> None:
        if self.peer.fileno() >= 0:
            asyncio.get_running_loop().remove_writer(self.peer)
        self._queue.clear()
        self.peer.close()


class HandoffServer:
    """Listens on `path` and gives what comes to a PgServer. `state` is what `S` says of this instance."""

    def __init__(
        self, path: Path, server: PgServer, *, state: Callable[[], int] = lambda: OPEN_WRITER
    ) -> None:
        self._path = path
        self._server = server
        self._state = state
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._endpoint: _Endpoint | None = None
        self._served: dict[int, _Served] = {}
        self._count = 0

    async def start(self) -> None:
        """Begin to listen; a socket file left by an earlier life is replaced."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(str(self._path))
        os.chmod(self._path, 0o600)
        listener.listen(64)
        self._listener = listener
        self._spawn(self._accept(listener), "handoff")
        self._spawn(self._say_state(), "handoff state")

    def _spawn(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def stop(self) -> None:
        await end_all(*self._tasks)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            peer, _ = await loop.sock_accept(listener)
            peer.setblocking(False)
            self._spawn(self._serve(peer), "handoff peer")

    async def _serve(self, peer: socket.socket) -> None:
        endpoint = _Endpoint(peer)
        try:
            while (message := await receive(peer)) is not None:
                match message:
                    case Message(kind, number, int(fd)):
                        if kind not in (CLIENT, WRITER_CLIENT) or self._endpoint is not endpoint:
                            os.close(fd)
                            return  # nobody we know
                        await self._take(socket.socket(fileno=fd), kind, number)
                    case Message(kind) if kind == HELLO:
                        self._welcome(endpoint)
                    case Message(kind, pid) if kind == CANCEL:
                        secret = await asyncio.get_running_loop().sock_recv(peer, SECRET.size)
                        if len(secret) == SECRET.size:
                            self._server.cancel(pid, *SECRET.unpack(secret))
                        return
                    case _:
                        return
        except OSError as error:
            log.debug("the endpoint went away: %s", error)
        finally:
            if self._endpoint is endpoint:
                self._endpoint = None
            endpoint.close()

    # -- the endpoint

    def _welcome(self, endpoint: _Endpoint) -> None:
        """From now on this one is told. It gets to know the clients that others have handed over."""
        self._endpoint = endpoint
        endpoint.tell(pack(STATE, self._state()))
        for own, served in self._served.items():
            served.number = RETURNED | own
            endpoint.tell(pack(served.kind, served.number), served.client)

    async def _take(self, client: socket.socket, kind: bytes, number: int) -> None:
        self._count = (self._count + 1) % RETURNED
        own = self._count
        self._served[own] = _Served(client, kind, number)
        await self._server.adopt(client, lambda: self._gone(own), writer=kind == WRITER_CLIENT)

    def _gone(self, own: int) -> None:
        served = self._served.pop(own)
        if self._endpoint is not None:
            self._endpoint.tell(pack(CLOSED, served.number))

    async def _say_state(self) -> None:
        """Over and over, so that an endpoint can tell a hanging instance from one with nothing to say."""
        loop = asyncio.get_running_loop()
        said, said_at = CUT_OFF, 0.0
        while True:
            state, now = self._state(), loop.time()
            news = max(state, LAG_MS_MAX) != max(said, LAG_MS_MAX)
            if news or now - said_at >= STATE_S:
                said, said_at = state, now
                if self._endpoint is not None and self._endpoint.idle:
                    self._endpoint.tell(pack(STATE, state))
            await asyncio.sleep(STATE_LOOK_S)


async def relay_cancel(path: Path, pid: int, secret: int) -> None:
    """Hand a cancel request to the instance behind `path`; if it is gone there is nothing to cancel."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError as error:
        log.debug("no instance at %s to cancel at: %s", path, error)
        return
    writer.write(pack(CANCEL, pid) + SECRET.pack(secret))
    await writer.drain()
    writer.close()
