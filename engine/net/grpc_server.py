"""The serving half of the gRPC transport: our handlers as grpc.aio's, errors as statuses."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from engine.errors import ConfigError, ProtocolError, SextetError, Unavailable
from engine.net.caller import CALLER, caller_of
from engine.net.grpc_wire import END, OPTIONS, OVER, Junk, decoder, details_of
from engine.ports import Handler, Handlers, Method, Server

log = logging.getLogger(__name__)

CONCURRENT_RPCS_MAX = 2048
"""Per server; the next caller gets Overloaded."""

_SERVER = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # or a second server on the same port would steal half of the calls
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class _ServerStream:
    """Stream port on the serving side."""

    def __init__(self, context: Any, *, streamed: bool) -> None:
        self._context = context
        self._finished = not streamed  # the caller has nothing more to say

    async def send(self, message: Message) -> None:
        try:
            await self._context.write(message)
        except OVER as error:
            raise Unavailable(f"the caller went away: {error}") from error

    async def recv(self) -> Message | None:
        if self._finished:
            return None
        try:
            message = await self._context.read()
        except OVER as error:
            raise Unavailable(f"the caller went away: {error}") from error
        if message is grpc.aio.EOF:
            raise Unavailable("the caller went away without ending its stream")
        if isinstance(message, Junk):
            raise message.error
        if message is END:
            self._finished = True
            return None
        return cast(Message, message)

    async def done_sending(self) -> None:
        """A server is done when its handler returns."""

    def close(self) -> None:
        """A server's stream ends with its handler."""


def _implement(
    method: Method[Any, Any], handler: Handler, *, callers: bool
) -> grpc.RpcMethodHandler:
    """The grpc handler of one method: our handler with requests checked and errors mapped."""

    async def implementation(request: Any, context: Any) -> Any:
        if callers:
            CALLER.set(caller_of(context.invocation_metadata()))
        try:
            return await _run(method, handler, request, context)
        except SextetError as error:
            await _abort(context, error)
        except Exception as error:
            log.exception("%s failed", method.path)
            kind = type(error).__name__
            text = f"internal error in {method.path}: {kind}: {error}"
            await _abort(context, ProtocolError(text))

    factory = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return factory(
        implementation,
        request_deserializer=decoder(method.request, method.name),
        response_serializer=method.reply.SerializeToString,
    )


async def _run(method: Method[Any, Any], handler: Handler, request: Any, context: Any) -> Any:
    """Call the handler as its method's kind wants it. `request` means nothing on caller's streams."""
    if method.client_streaming:
        reply = await handler(_ServerStream(context, streamed=True))
    elif isinstance(request, Junk):
        raise request.error
    elif method.server_streaming:
        reply = await handler(request, _ServerStream(context, streamed=False))
    else:
        reply = await handler(request)
    if not method.server_streaming and not isinstance(reply, method.reply):
        raise TypeError(f"the handler returned {type(reply).__name__}")
    return reply


async def _abort(context: Any, error: SextetError) -> None:
    """End the call with `error`, if there is still anyone to tell."""
    with contextlib.suppress(*OVER):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, details_of(error))


class GrpcServer:
    def __init__(self, server: grpc.aio.Server, address: str) -> None:
        self._server = server
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def stop(self, grace: float = 0.5) -> None:
        await self._server.stop(grace)


async def listen(host: str, port: int, handlers: Handlers, *, callers: bool = False) -> Server:
    """Serve `handlers`; with `callers` they can ask `engine.net.caller` who calls.

    Raises ConfigError if the port cannot be had.
    """
    server = grpc.aio.server(options=_SERVER, maximum_concurrent_rpcs=CONCURRENT_RPCS_MAX)
    services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for method in sorted(handlers, key=lambda m: m.path):
        made = _implement(method, handlers[method], callers=callers)
        services.setdefault(method.service, {})[method.name] = made
    for service, methods in services.items():
        generic = grpc.method_handlers_generic_handler(service, methods)
        server.add_generic_rpc_handlers((generic,))
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        await server.stop(None)
        raise ConfigError(f"cannot listen on {host}:{port}: {_obstacle(host, port)}") from error
    await server.start()
    return GrpcServer(server, f"{host}:{bound}")


def _obstacle(host: str, port: int) -> str:
    """Why a port cannot be had, which gRPC does not say: try it, and ask the system."""
    try:
        with socket.create_server((host.strip("[]"), port)):
            return "gRPC could not bind it"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is taken by another program; stop that or choose another port"
        return (error.strerror or str(error)).partition(" (while")[0]
