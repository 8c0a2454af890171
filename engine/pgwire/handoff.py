"""Taking over client sockets from an endpoint process (SCM_RIGHTS over a Unix socket).

The endpoint keeps one connection open. For each client it sends the byte `C`, or `W` for one that came
to the writer endpoint, with one file descriptor; for each of those that has closed a `-` goes back, so it
can count. A connection that begins with `K` instead carries one cancel request from a sibling instance:
pid and secret, four bytes each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from pathlib import Path

from engine.pgwire.server import PgServer

log = logging.getLogger(__name__)

CLIENT = b"C"
WRITER_CLIENT = b"W"
CLOSED = b"-"
CANCEL = b"K"
_KEY = struct.Struct("!II")


class HandoffServer:
    """Listens on `path` and gives what comes to a PgServer."""

    def __init__(self, path: Path, server: PgServer) -> None:
        self._path = path
        self._server = server
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

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

    def _spawn(self, coro: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coro, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
        loop = asyncio.get_running_loop()
        try:
            while True:
                await _readable(peer)
                try:
                    data, fds, _, _ = socket.recv_fds(peer, 1, 4)
                except BlockingIOError:
                    continue
                if data in (CLIENT, WRITER_CLIENT) and fds:
                    for fd in fds:
                        await self._server.adopt(
                            socket.socket(fileno=fd),
                            lambda: _tell_closed(peer),
                            writer=data == WRITER_CLIENT,
                        )
                elif data == CANCEL:
                    key = await loop.sock_recv(peer, _KEY.size)
                    if len(key) == _KEY.size:
                        self._server.cancel(*_KEY.unpack(key))
                    return
                else:
                    return  # gone, or nobody we know
        except ConnectionError as error:
            log.debug("the endpoint went away: %s", error)
        finally:
            peer.close()


def _tell_closed(peer: socket.socket) -> None:
    if peer.fileno() >= 0:
        try:
            peer.send(CLOSED)
        except OSError as error:
            log.debug("the endpoint no longer counts: %s", error)


async def _readable(peer: socket.socket) -> None:
    """Wait until `peer` has something to read, without reading it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(peer, wake)
    try:
        await ready
    finally:
        loop.remove_reader(peer)


async def relay_cancel(path: Path, pid: int, secret: int) -> None:
    """Hand a cancel request to the instance behind `path`; if it is gone there is nothing to cancel."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError as error:
        log.debug("no instance at %s to cancel at: %s", path, error)
        return
    writer.write(CANCEL + _KEY.pack(pid, secret))
    await writer.drain()
    writer.close()
