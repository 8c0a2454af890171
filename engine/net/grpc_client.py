"""The calling half of the gRPC transport: channels and streams, statuses as errors.

grpc.aio reports a call that was closed on this side by CancelledError, like a cancelled task.
`_closed_here` tells the two apart, so that a task which nobody cancelled never sees one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from engine.errors import ProtocolError, SextetError, Unavailable
from engine.net.grpc_wire import END, OPTIONS, OVER, Junk, decoder, encode, ended, raised_by
from engine.ports import Method, Rep, Req, Stream

_CLIENT = (
    *OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name this is how long one attempt to connect may take, not a pause after it.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@contextlib.contextmanager
def _closed_here(what: str) -> Iterator[None]:
    """CancelledError of a call that was closed on this side becomes Unavailable."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable(f"{what}: closed here") from error


class _ClientStream:
    """Stream port on the calling side."""

    def __init__(self, call: Any, what: str) -> None:
        self._call = call
        self._what = what

    async def send(self, message: Message) -> None:
        await self._do(lambda: self._call.write(message))

    async def recv(self) -> Message | None:
        message = await self._do(self._call.read)
        if message is grpc.aio.EOF:
            return None
        if isinstance(message, Junk):
            self.close()
            raise message.error
        return cast(Message, message)

    async def done_sending(self) -> None:
        with contextlib.suppress(SextetError):  # if it is over, recv and collect say why
            await self._do(lambda: self._call.write(END))
            await self._do(self._call.done_writing)

    def close(self) -> None:
        self._call.cancel()

    async def reply(self) -> Message:
        """The single reply of a client-streaming method."""
        message = await self._do(lambda: self._call)
        if isinstance(message, Junk):
            raise message.error
        return cast(Message, message)

    async def _do(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """One use of the call, with whatever it raises mapped."""
        with _closed_here(self._what):
            try:
                return await step()
            except grpc.aio.AioRpcError as error:
                raise raised_by(error, self._what) from error
            except OVER as error:
                if not self._call.done():
                    raise ProtocolError(f"{self._what}: {error}") from error
                raise await ended(self._call, self._what) from error


class GrpcChannel:
    """Channel port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_CLIENT)
        self._callables: dict[str, Any] = {}

    def _start(self, method: Method[Any, Any], *arguments: Message, timeout: float | None) -> Any:
        """Begin one call. Raises Unavailable if this channel is closed."""
        made = self._callables.get(method.path)
        if made is None:
            factory = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, False): self._channel.stream_unary,
                (True, True): self._channel.stream_stream,
            }[method.client_streaming, method.server_streaming]
            made = self._callables[method.path] = factory(
                method.path,
                request_serializer=encode,
                response_deserializer=decoder(method.reply, method.name),
            )
        try:
            return made(*arguments, timeout=timeout)
        except grpc.aio.UsageError as error:
            raise Unavailable(f"{self._what(method)}: {error}") from error

    def _what(self, method: Method[Any, Any]) -> str:
        return f"{method.name} at {self._address}"

    async def call(self, method: Method[Req, Rep], request: Req, *, timeout: float) -> Rep:
        what = self._what(method)
        with _closed_here(what):
            try:
                reply = await self._start(method, request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise raised_by(error, what) from error
            except grpc.aio.UsageError as error:
                raise Unavailable(f"{what}: {error}") from error
        if isinstance(reply, Junk):
            raise reply.error
        return cast(Rep, reply)

    def stream(self, method: Method[Req, Rep], request: Req | None = None) -> Stream[Req, Rep]:
        if (request is None) is not method.client_streaming:
            raise TypeError(
                f"{method.name}: a request is given exactly for server-streaming methods"
            )
        call = self._start(method, *(() if request is None else (request,)), timeout=None)
        return cast(Stream[Req, Rep], _ClientStream(call, self._what(method)))

    async def collect(self, method: Method[Req, Rep], stream: Stream[Req, Rep]) -> Rep:
        assert isinstance(stream, _ClientStream)
        return cast(Rep, await stream.reply())

    async def close(self) -> None:
        await self._channel.close()
