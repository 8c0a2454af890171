"""A TCP relay between two ends of a connection, to cut it, freeze it and mend it."""

from __future__ import annotations

import asyncio
import socket
import struct


class Relay:
    """`address` leads to `target` until `cut`, which resets connections and refuses new ones."""

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def mend(self) -> None:
        """Accept connections, on the same port every time."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Nothing is lost and nothing arrives, until `mend`."""
        self._flowing.clear()

    async def cut(self) -> None:
        """What kill -9 of the peer's machine's network does: RST, and connection refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            back, forth = await asyncio.open_connection(*self._target)
            ends.append(forth)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, forth))
                group.create_task(self._pump(back, writer))
        except (OSError, ExceptionGroup):
            pass  # one end is gone, so is the other
        finally:
            for end in ends:
                _reset(end)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(64 * 1024):
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError("end of one direction ends both")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
