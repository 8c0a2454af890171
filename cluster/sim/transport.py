"""The transport port over the simulated network, with gRPC's manners (`tests/conformance` compares).

Messages cross as bytes, as they do for real: nobody shares an object with another process.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.message import DecodeError, Message

from cluster.sim.network import End, Network
from cluster.sim.process import Life, ProcessDied
from engine.errors import (
    BY_NAME,
    ConfigError,
    DeadlineExceeded,
    ProtocolError,
    SextetError,
    Unavailable,
)
from engine.ports import Channel, Handlers, Method, Rep, Req, Server, Stream
from engine.tasks import end_all

log = logging.getLogger(__name__)

RUNNING_MAX = 4096


@dataclass(frozen=True, slots=True)
class Opening:
    method: str
    request: bytes | None


@dataclass(frozen=True, slots=True)
class Data:
    body: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The caller sends nothing more."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the call ended: an error's class name ("" for none) and message."""

    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller has gone."""


def crc(item: Any) -> int:
    """CRC-32 of what an item on the wire says, so that a trace's hash covers contents too."""
    match item:
        case Opening(request=body):
            return zlib.crc32(body or b"")
        case Data(body=body):
            return zlib.crc32(body)
        case Status(error=error, message=message):
            return zlib.crc32(f"{error}\0{message}".encode())
    return 0


def _encode(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _decode(kind: type[Any], body: bytes, what: str) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise ProtocolError(f"{what}: {len(body)} bytes are no {kind.__name__}: {error}") from error


# -- the calling side


class _ClientStream:
    def __init__(self, end: End, method: Method[Any, Any], what: str) -> None:
        self._end = end
        self._method = method
        self._what = what
        self._status: Status | None = None
        self._closed = False
        self._finished = False  # this side has sent Done

    async def send(self, message: Message) -> None:
        self._raise_if_over()
        try:
            self._end.transmit(Data(body := _encode(message)), len(body))
            await self._end.wait_room()
            await asyncio.sleep(0)  # as a real write, it gives others a turn
        except asyncio.CancelledError:
            self.close()
            raise
        self._raise_if_over()

    def _raise_if_over(self) -> None:
        self._look_for_status()
        if self._status is not None and not self._status.error:
            raise Unavailable(f"{self._what}: the other side has ended the stream")
        self._raise_status()
        if self._finished:
            raise ProtocolError(f"{self._what}: sent after done_sending")

    def _look_for_status(self) -> None:
        """A status overtakes nothing for receivers, but a sender need not wait for it."""
        if self._status is None:
            for item, _ in self._end.inbox:
                if isinstance(item, Status):
                    self._status = item

    def _raise_status(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._what}: closed here")
        if self._status is not None and self._status.error:
            kind = BY_NAME.get(self._status.error, ProtocolError)
            raise kind(self._status.message)
        if self._status is None and self._end.broken:
            raise Unavailable(f"{self._what}: {self._end.broken}")

    async def recv(self) -> Any:
        body = await self._next()
        return None if body is None else _decode(self._method.reply, body, self._what)

    async def _next(self) -> bytes | None:
        try:
            while True:
                if self._closed:
                    self._raise_status()
                if self._end.inbox:
                    item = self._end.take()
                    if isinstance(item, Data):
                        return item.body
                    self._status = cast(Status, item)
                    self._end.reset("the call is over")
                if self._status is not None and not self._end.inbox:
                    self._raise_status()
                    return None
                self._raise_status()
                await self._end.wait()
        except asyncio.CancelledError:
            self.close()
            raise

    async def done_sending(self) -> None:
        self._finished = True
        if not self._closed:
            self._end.transmit(Done())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._end.broken and self._end.life_alive():
            self._end.transmit(Cancelled())
        self._end.reset("closed here")

    async def reply(self) -> Any:
        body = await self._next()
        if body is None:
            raise ProtocolError(f"{self._what}: it ended without a reply")
        return _decode(self._method.reply, body, self._what)


class SimChannel:
    """Channel port."""

    def __init__(self, transport: SimTransport, address: str) -> None:
        self._transport = transport
        self._address = address
        self._streams: dict[_ClientStream, None] = {}
        self._closed = False

    def _open(self, method: Method[Any, Any], request: Message | None) -> _ClientStream:
        transport = self._transport
        if transport.life is not None:
            transport.life.check()
        what = f"{method.name} at {self._address}"
        if self._closed:
            raise Unavailable(f"{what}: this channel is closed")
        body = None if request is None else _encode(request)
        end = transport.network.open(
            transport.life,
            transport.host,
            self._address,
            Opening(method.path, body),
            len(body or b""),
        )
        stream = _ClientStream(end, method, what)
        self._streams = {s: None for s in self._streams if not s._end.broken}
        self._streams[stream] = None
        return stream

    async def call(self, method: Method[Req, Rep], request: Req, *, timeout: float) -> Rep:
        stream = self._open(method, request)
        try:
            async with asyncio.timeout(timeout):
                return cast(Rep, await stream.reply())
        except TimeoutError:
            raise DeadlineExceeded(f"{method.name} at {self._address}: no answer in time") from None
        finally:
            if self._transport.life is None or self._transport.life.alive:
                stream.close()

    def stream(self, method: Method[Req, Rep], request: Req | None = None) -> Stream[Req, Rep]:
        if (request is None) is not method.client_streaming:
            raise TypeError(
                f"{method.name}: a request is given exactly for server-streaming methods"
            )
        return cast(Stream[Req, Rep], self._open(method, request))

    async def collect(self, method: Method[Req, Rep], stream: Stream[Req, Rep]) -> Rep:
        assert isinstance(stream, _ClientStream)
        return cast(Rep, await stream.reply())

    async def close(self) -> None:
        self._closed = True
        for stream in self._streams:
            stream.close()
        self._streams.clear()


# -- the serving side


class _ServerStream:
    def __init__(self, end: End, request: type[Any], what: str) -> None:
        self._end = end
        self._request = request
        self._what = what
        self._done = False
        self._gone = False

    async def send(self, message: Message) -> None:
        self._raise_if_gone()
        body = _encode(message)
        self._end.transmit(Data(body), len(body))
        await self._end.wait_room()
        await asyncio.sleep(0)
        self._raise_if_gone()

    def _raise_if_gone(self) -> None:
        if self._gone or self._end.broken:
            raise Unavailable(f"{self._what}: the caller has gone: {self._end.broken}")

    async def recv(self) -> Any:
        while True:
            if self._end.inbox:
                item = self._end.take()
                if isinstance(item, Data):
                    return _decode(self._request, item.body, self._what)
                if isinstance(item, Done):
                    self._done = True
                else:
                    self._gone = True
            if self._done:
                return None
            self._raise_if_gone()
            await self._end.wait()

    async def done_sending(self) -> None:
        """Only callers say so."""

    def close(self) -> None:
        self._end.abort(f"{self._what}: closed by the server")


class SimServer:
    """Server port; what `Network` calls an acceptor."""

    def __init__(self, transport: SimTransport, address: str, handlers: Handlers) -> None:
        self.address = address
        self.life = transport.life
        self._network = transport.network
        self._handlers = {method.path: (method, handler) for method, handler in handlers.items()}
        self._running: dict[asyncio.Task[None], End] = {}
        self._stopping = False

    def accept(self, end: End, opening: Opening) -> None:
        if self._stopping or len(self._running) >= RUNNING_MAX:
            end.abort(f"{self.address} takes no calls")
            return
        coro = self._serve(end, opening)
        if self.life is not None:
            task = self.life.spawn(coro, name=f"serve {opening.method}")
        else:
            task = asyncio.get_running_loop().create_task(coro)
        self._running[task] = end
        task.add_done_callback(self._forget)

        def look() -> None:
            """A caller that has gone cancels its handler, whatever that waits for."""
            gone = end.broken or any(isinstance(item, Cancelled) for item, _ in end.inbox)
            if gone and not task.done():
                end.on_arrival = lambda: None
                task.cancel()

        end.on_arrival = look

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled():
            task.exception()

    async def _serve(self, end: End, opening: Opening) -> None:
        what = f"{opening.method} from {end.peer.host}"
        try:
            status = await self._run(end, opening, what)
        except SextetError as error:
            status = Status(type(error).__name__, str(error))
        except asyncio.CancelledError:
            end.abort(f"{self.address} ended the call")
            raise
        except ProcessDied:
            raise
        except Exception as error:
            log.exception("internal error in %s", opening.method)
            if self.life is not None:
                self.life.raised(f"serving {opening.method}", error)
            status = Status(
                "ProtocolError",
                f"internal error in {opening.method}: {type(error).__name__}: {error}",
            )
        if not end.broken:
            end.on_arrival = lambda: None
            end.transmit(status)
            end.finish()

    async def _run(self, end: End, opening: Opening, what: str) -> Status:
        found = self._handlers.get(opening.method)
        if found is None:
            raise ProtocolError(f"{opening.method} is not served at {self.address}")
        method, handler = found
        stream = _ServerStream(end, method.request, what)
        arguments: list[Any] = []
        if opening.request is not None:
            arguments.append(_decode(method.request, opening.request, what))
        if method.client_streaming or method.server_streaming:
            arguments.append(stream)
        reply = await handler(*arguments)
        if not method.server_streaming:
            if not isinstance(reply, method.reply):
                raise TypeError(f"{opening.method} returned {type(reply).__name__}")
            body = _encode(reply)
            end.transmit(Data(body), len(body))
        return Status("", "")

    async def stop(self, grace: float = 0.5) -> None:
        self._stopping = True
        self._network.stop_listening(self.address, self)
        if self._running and grace > 0:
            await asyncio.wait(list(self._running), timeout=grace)
        running = list(self._running.items())
        for task, wire in running:
            task.cancel()
            wire.abort(f"{self.address} has stopped")
        await end_all(*(task for task, _ in running))


class SimTransport:
    """Transport port of one life of a process (or of nobody in particular)."""

    def __init__(self, network: Network, host: str, life: Life | None = None) -> None:
        self.network = network
        self.host = host
        self.life = life

    async def serve(self, address: str, handlers: Handlers) -> Server:
        host, port = _split(address)
        if port == 0:
            address = f"{host}:{self.network.free_port()}"
        self.network.place(address, self.host)
        server = SimServer(self, address, handlers)
        if not self.network.listen(address, server):
            raise ConfigError(
                f"port {port} is taken on {host}; stop what listens there or choose another port"
            )
        return server

    def connect(self, address: str) -> Channel:
        _split(address)
        return cast(Channel, SimChannel(self, address))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f'"{address}" is no address; write it as HOST:PORT, as in 127.0.0.1:25434'
        )
    return host, int(port)
