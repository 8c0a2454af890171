"""The transport port over grpc.aio.

Generic handlers and channels over the message classes of `engine.net.pb`; no generated stubs. Our
errors cross the wire by class name and message in the status details, so a `StaleEpoch` raised by a
storage node is a `StaleEpoch` at the writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from engine.errors import (
    BY_NAME,
    ConfigError,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    SextetError,
    Unavailable,
)
from engine.ports import Channel, Handler, Handlers, Method, Rep, Req, Server, Stream

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
CONCURRENT_RPCS_MAX = 2048

_COMMON = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
_CLIENT = (
    *_COMMON,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_SERVER = (
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


# -- errors


def _details(error: SextetError) -> str:
    return f"{type(error).__name__}: {error}"


def _raised(error: grpc.aio.AioRpcError, what: str) -> SextetError:
    """The exception to raise here for a failed call."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.FAILED_PRECONDITION:
            name, _, message = details.partition(": ")
            return BY_NAME.get(name, ProtocolError)(message or details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{what}: no answer in time")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(f"{what}: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(f"{what}: {details}")
        case code:
            return ProtocolError(f"{what}: {code.name}: {details}")


# -- server


class _ServerStream:
    """Stream port on the serving side."""

    def __init__(self, requests: AsyncIterator[Message] | None, context: Any) -> None:
        self._requests = requests
        self._context = context

    async def send(self, message: Message) -> None:
        try:
            await self._context.write(message)
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise Unavailable(f"the caller went away: {error}") from error

    async def recv(self) -> Message | None:
        if self._requests is None:
            return None
        try:
            message = await self._context.read()
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise Unavailable(f"the caller went away: {error}") from error
        return None if message is grpc.aio.EOF else cast(Message, message)

    async def done_sending(self) -> None:
        """A server is done when its handler returns."""

    def close(self) -> None:
        """A server's stream ends with its handler."""


def _implement(method: Method[Any, Any], handler: Handler) -> grpc.RpcMethodHandler:
    """The grpc handler of one method: our handler with errors mapped."""

    async def guarded(context: Any, run: Callable[[], Any]) -> Any:
        try:
            return await run()
        except SextetError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, _details(error))
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s failed", method.path)
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"ProtocolError: internal error in {method.path}: {type(error).__name__}: {error}",
            )

    async def unary_unary(request: Message, context: Any) -> Any:
        return await guarded(context, lambda: handler(request))

    async def unary_stream(request: Message, context: Any) -> None:
        stream = _ServerStream(None, context)
        await guarded(context, lambda: handler(request, stream))

    async def stream_unary(requests: AsyncIterator[Message], context: Any) -> Any:
        stream = _ServerStream(requests, context)
        return await guarded(context, lambda: handler(stream))

    async def stream_stream(requests: AsyncIterator[Message], context: Any) -> None:
        stream = _ServerStream(requests, context)
        await guarded(context, lambda: handler(stream))

    factory, implementation = {
        (False, False): (grpc.unary_unary_rpc_method_handler, unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, stream_stream),
    }[method.client_streaming, method.server_streaming]
    return factory(
        implementation,
        request_deserializer=method.request.FromString,
        response_serializer=method.reply.SerializeToString,
    )


class _GrpcServer:
    def __init__(self, server: grpc.aio.Server, address: str) -> None:
        self._server = server
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def stop(self, grace: float = 0.5) -> None:
        await self._server.stop(grace)


# -- client


class _ClientStream:
    """Stream port on the calling side."""

    def __init__(self, call: Any, what: str) -> None:
        self._call = call
        self._what = what

    async def send(self, message: Message) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise _raised(error, self._what) from error
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise await self._ended(error) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise

    async def recv(self) -> Message | None:
        try:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                await self._raise_unless_ok()
                return None
        except grpc.aio.AioRpcError as error:
            raise _raised(error, self._what) from error
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise await self._ended(error) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        return cast(Message, message)

    async def done_sending(self) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # it has ended already
            await self._call.done_writing()

    def close(self) -> None:
        self._call.cancel()

    def _raise_if_closed(self) -> None:
        """grpc.aio reports a cancelled call as CancelledError, like a cancelled task."""
        task = asyncio.current_task()
        if self._call.cancelled() and not (task is not None and task.cancelling()):
            raise Unavailable(f"{self._what}: closed here")

    async def _raise_unless_ok(self) -> None:
        if await self._call.code() is not grpc.StatusCode.OK:
            raise await self._ended(None)

    async def _ended(self, cause: BaseException | None) -> SextetError:
        if not self._call.done():
            return ProtocolError(f"{self._what}: {cause}")
        error = grpc.aio.AioRpcError(
            await self._call.code(),
            None,
            None,
            details=await self._call.details(),
        )
        return _raised(error, self._what)


class _GrpcChannel:
    """Channel port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_CLIENT)
        self._unary: dict[str, Any] = {}

    def _callable(self, method: Method[Any, Any]) -> Any:
        made = self._unary.get(method.path)
        if made is None:
            factory = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, False): self._channel.stream_unary,
                (True, True): self._channel.stream_stream,
            }[method.client_streaming, method.server_streaming]
            made = self._unary[method.path] = factory(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
        return made

    async def call(self, method: Method[Req, Rep], request: Req, *, timeout: float) -> Rep:
        try:
            return cast(Rep, await self._callable(method)(request, timeout=timeout))
        except grpc.aio.AioRpcError as error:
            raise _raised(error, f"{method.name} at {self._address}") from error
        except grpc.aio.UsageError as error:
            raise Unavailable(f"{method.name} at {self._address}: {error}") from error

    def stream(self, method: Method[Req, Rep], request: Req | None = None) -> Stream[Req, Rep]:
        call = self._callable(method)
        started = call() if method.client_streaming else call(request)
        stream = _ClientStream(started, f"{method.name} at {self._address}")
        return cast(Stream[Req, Rep], stream)

    async def collect(self, method: Method[Req, Rep], stream: Stream[Req, Rep]) -> Rep:
        assert isinstance(stream, _ClientStream)
        try:
            return cast(Rep, await stream._call)
        except grpc.aio.AioRpcError as error:
            raise _raised(error, f"{method.name} at {self._address}") from error

    async def close(self) -> None:
        await self._channel.close()


class GrpcTransport:
    """Transport port over TCP."""

    async def serve(self, address: str, handlers: Handlers) -> Server:
        server = grpc.aio.server(options=_SERVER, maximum_concurrent_rpcs=CONCURRENT_RPCS_MAX)
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for method in sorted(handlers, key=lambda m: m.path):
            services.setdefault(method.service, {})[method.name] = _implement(
                method, handlers[method]
            )
        for service, methods in services.items():
            generic = grpc.method_handlers_generic_handler(service, methods)
            server.add_generic_rpc_handlers((generic,))
        host, _, port = address.rpartition(":")
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError as error:
            raise _taken(port) from error
        if bound == 0:
            raise _taken(port)
        await server.start()
        return _GrpcServer(server, f"{host}:{bound}")

    def connect(self, address: str) -> Channel:
        return cast(Channel, _GrpcChannel(address))


def _taken(port: str) -> ConfigError:
    return ConfigError(f"port {port} is taken by another program; stop it or choose another port")
