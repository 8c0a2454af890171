"""The transport port with a network that can be cut, slow or lossy.

What it imitates is TCP, as the simulator's network does: nothing is ever lost or out of order on a
stream, it is late, or held until the path is open again. So a cut looks like silence, never like a
refused connection: a request is not handed to its handler and its caller's timeout runs out, a
stream's messages stay unread until flow control stops the sender. A message that has to be sent
again arrives RESEND_S later, and what follows it on the stream waits behind it.

Everything is done where a message arrives (`engine.faults.table`). Callers say who they are in the
call's metadata (`engine.net.caller`); the command line says nothing and is OUTSIDE.

Caveat: gRPC's own keepalive pings pass below this, so a cut connection is found out by the silence
bounds of node code (10 s) and not by keepalive (15 s).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from engine.errors import DeadlineExceeded, SextetError
from engine.faults.file import ActiveFault
from engine.faults.table import DROP
from engine.faults.watch import FaultWatch
from engine.net.caller import CALLER
from engine.ports import Channel, Handler, Handlers, Method, Rep, Req, Server, Stream, Transport

RESEND_S = 0.2
AHEAD_MAX = 1024
"""Messages of one stream on their way at a time, where the path is slow; then the sender waits."""


class Path:
    """What arrives here from one peer."""

    def __init__(self, watch: FaultWatch, peer: str, address: str = "") -> None:
        self._watch = watch
        self._rng = watch.rng
        self._peer = peer
        self._address = address

    @property
    def source(self) -> str:
        return self._watch.node_at(self._address) if self._address else self._peer

    @property
    def clear(self) -> bool:
        """Nothing can happen to a message now."""
        return not self._watch.table.network

    def late(self) -> tuple[ActiveFault, ...]:
        return self._watch.table.late(self.source)

    def delay_s(self) -> float:
        """How much later the next message arrives; counts it."""
        delay = 0.0
        for fault in self.late():
            if fault.kind == DROP:
                while self._rng.random() < min(0.95, fault.param("share", 0.1)):
                    delay += RESEND_S
                    self._watch.count(fault)
            else:
                latency = fault.param("latency_s", 0.05)
                delay += latency * (1 + self._rng.random() / 2)
                self._watch.count(fault)
        return delay

    async def open(self) -> None:
        """Wait until the path is not cut, however long that is."""
        counted: set[int] = set()
        while (fault := self._watch.table.cut(self.source)) is not None:
            if fault.id not in counted:
                counted.add(fault.id)
                self._watch.count(fault)
            await self._watch.changed()

    async def arrive(self) -> None:
        """Wait until a single message that is here has arrived."""
        if self.clear:
            return
        delay = self.delay_s()
        if delay:
            await asyncio.sleep(delay)
        await self.open()


class FaultyStream:
    """Stream port over another one. Where the path is slow, a task reads ahead and notes when each
    message is due, so that latency does not cost throughput."""

    def __init__(self, inner: Stream[Any, Any], path: Path) -> None:
        self.inner = inner
        self._path = path
        self._ahead: asyncio.Queue[tuple[float, Any, SextetError | None]] | None = None
        self._pump: asyncio.Task[None] | None = None

    async def send(self, message: Any) -> None:
        await self.inner.send(message)

    async def done_sending(self) -> None:
        await self.inner.done_sending()

    def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        self.inner.close()

    async def recv(self) -> Any:
        if self._ahead is None and not (self._path.clear or not self._path.late()):
            self._ahead = asyncio.Queue(AHEAD_MAX)
            self._pump = asyncio.get_running_loop().create_task(self._read_ahead(self._ahead))
        try:
            if self._ahead is None:
                message, error = await self._next()
            else:
                due, message, error = await self._ahead.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                if message is None:  # nothing comes behind it: whoever asks again hears it again
                    self._ahead.put_nowait((due, message, error))
            if not self._path.clear:
                await self._path.open()
        except asyncio.CancelledError:
            self.close()  # as the port says: half of it would be lost
            raise
        if error is not None:
            raise error
        return message

    async def _next(self) -> tuple[Any, SextetError | None]:
        """A broken stream is news too, and travels like any other."""
        try:
            return await self.inner.recv(), None
        except SextetError as error:
            return None, error

    async def _read_ahead(
        self, ahead: asyncio.Queue[tuple[float, Any, SextetError | None]]
    ) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            message, error = await self._next()
            due = max(due, loop.time() + self._path.delay_s())
            await ahead.put((due, message, error))
            if message is None:
                return


class FaultyChannel:
    """Channel port over another one."""

    def __init__(self, inner: Channel, path: Path) -> None:
        self._inner = inner
        self._path = path

    async def call(self, method: Method[Req, Rep], request: Req, *, timeout: float) -> Rep:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        error: SextetError | None = None
        try:
            reply = await self._inner.call(method, request, timeout=timeout)
        except SextetError as found:
            error = found
        if not self._path.clear:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._path.arrive()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{method.name} at {self._path.source}: no answer in time"
                ) from error
        if error is not None:
            raise error
        return reply

    def stream(self, method: Method[Req, Rep], request: Req | None = None) -> Stream[Req, Rep]:
        inner = self._inner.stream(method, request)
        return cast("Stream[Req, Rep]", FaultyStream(inner, self._path))

    async def collect(self, method: Method[Req, Rep], stream: Stream[Req, Rep]) -> Rep:
        assert isinstance(stream, FaultyStream)
        error: SextetError | None = None
        try:
            reply = await self._inner.collect(method, stream.inner)
        except SextetError as found:
            error = found
        await self._path.arrive()
        if error is not None:
            raise error
        return cast("Rep", reply)

    async def close(self) -> None:
        await self._inner.close()


class FaultyTransport:
    """Transport port over another one, whose servers must tell who calls (`engine.net.caller`)."""

    def __init__(self, inner: Transport, watch: FaultWatch) -> None:
        self._inner = inner
        self.watch = watch

    async def serve(self, address: str, handlers: Handlers) -> Server:
        wrapped = {method: self._wrap(method, handler) for method, handler in handlers.items()}
        return await self._inner.serve(address, wrapped)

    def connect(self, address: str) -> Channel:
        path = Path(self.watch, "", address)
        return FaultyChannel(self._inner.connect(address), path)

    def _wrap(self, method: Method[Any, Any], handler: Handler) -> Handler:
        async def handle(*arguments: Any) -> Any:
            path = Path(self.watch, CALLER.get())
            await path.arrive()
            if not (method.client_streaming or method.server_streaming):
                return await handler(*arguments)
            stream = FaultyStream(arguments[-1], path)
            with contextlib.closing(stream):
                return await handler(*arguments[:-1], stream)

        return handle
