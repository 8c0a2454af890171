"""The calling half of the gRPC transport: channels and streams, statuses as errors.

grpc.aio reports a call that was closed on this side by CancelledError, like a cancelled task, and a
cancelled task's call now and then by another error. `_closed_here` tells them apart, so that a task
sees a CancelledError exactly if somebody cancelled it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from engine.errors import ProtocolError, SextetError, Unavailable
from engine.net.caller import KEY
from engine.net.grpc_wire import END, OPTIONS, OVER, Junk, decoder, encode, error_of
from engine.ports import Method, Rep, Req, Stream

T = TypeVar("T")

_WRITE_FAILED: Final = (grpc.StatusCode.INTERNAL, "Internal error from Core")
_STATUS_LOOK_S = 0.005
_STATUS_LOOKS = 200
"""One second in all: where a write failed for another reason, no true status ever comes."""

_CLIENT = (
    *OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Despite its name this is how long one attempt to connect may take, not a pause after it.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@contextlib.contextmanager
def _closed_here(what: str) -> Iterator[None]:
    """CancelledError of a call that was closed on this side becomes Unavailable.

    And the other way round: a task that is cancelled while its call is still starting sees an error
    of the call instead, where that fails at the same moment, because grpc.aio's `_prepare_rpc`
    swallows the cancellation. Here it comes out as what it is.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        raise Unavailable(f"{what}: closed here") from error
    except Exception as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


class _ClientStream:
    """Stream port on the calling side.

    grpc.aio may say that a call ended with INTERNAL "Internal error from Core" when all that happened
    is that a write failed because the call was over. It overwrites the true status with this, or is
    overwritten by it a moment later (grpc issue 36066). So the first other status is noted here, and
    every error of the call is made from it.
    """

    def __init__(self, call: Any, what: str) -> None:
        self._call = call
        self._what = what
        self._status: tuple[grpc.StatusCode, str] | None = None
        call.add_done_callback(self._note_status)

    def _note_status(self, call: Any) -> None:
        """`call` has a status; keep it if it is a true one and the first."""
        status = _now(call.code()), _now(call.details()) or ""
        if self._status is None and status != _WRITE_FAILED:
            self._status = status

    async def send(self, message: Message) -> None:
        await self._do(lambda: self._call.write(message))

    async def recv(self) -> Message | None:
        try:
            message = await self._do(self._call.read)
        except Unavailable:
            if self._status is not None and self._status[0] is grpc.StatusCode.OK:
                return None  # the error is that of a write which came too late
            raise
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
            except (grpc.aio.AioRpcError, *OVER) as error:
                if not self._call.done():  # not over but misused
                    raise ProtocolError(f"{self._what}: {error}") from error
                raise await self._ended(error) from error

    async def _ended(self, error: Exception) -> SextetError:
        """How the call really ended. grpc.aio tells nobody when it corrects a status: look again."""
        for _ in range(_STATUS_LOOKS):
            self._note_status(self._call)
            if self._status is not None:
                break
            await asyncio.sleep(_STATUS_LOOK_S)
        if self._status is None:
            return Unavailable(f"{self._what}: {error}")
        code, details = self._status
        if code is grpc.StatusCode.OK:
            return Unavailable(f"{self._what}: the other side has ended the stream")
        return error_of(code, details, self._what)


def _now(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coro.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    raise AssertionError("a status that is set is there at once")


class GrpcChannel:
    """Channel port."""

    def __init__(self, address: str, caller: str = "") -> None:
        self._address = address
        self._metadata = ((KEY, caller),) if caller else None
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
            return made(*arguments, timeout=timeout, metadata=self._metadata)
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
                raise error_of(error.code(), error.details() or "", what) from error
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
