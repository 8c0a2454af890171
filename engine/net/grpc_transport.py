"""The transport port over grpc.aio: generic handlers and channels, no generated stubs.

A channel connects by itself, within 50 ms to 1 s of the last failure, and never repeats a call by
itself: only the caller knows what may be sent twice. Who calls a peer that is not there learns it at
once. A peer that is there but silent is found out by the call's own timeout, or on open streams by
keepalive after about 15 s.

Caveats, all grpc.aio's:
- Cancelling a task inside `send` or `recv` drops the whole stream.
- A handler whose caller has gone is cancelled, or its `recv` raises Unavailable, whichever comes
  first; it is never told that the stream has ended well (`engine.net.grpc_wire`).
- Messages that a peer sent before an error may be lost with it.
"""

from __future__ import annotations

from typing import cast

from engine.errors import ConfigError
from engine.net.grpc_client import GrpcChannel
from engine.net.grpc_server import listen
from engine.ports import Channel, Handlers, Server


class GrpcTransport:
    """Transport port over TCP. With a `name` calls say who makes them (`engine.net.caller`)."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    async def serve(self, address: str, handlers: Handlers) -> Server:
        host, port = _split(address)
        return await listen(host, port, handlers, callers=bool(self._name))

    def connect(self, address: str) -> Channel:
        _split(address)
        return cast(Channel, GrpcChannel(address, self._name))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f'"{address}" is no address; write it as HOST:PORT, as in 127.0.0.1:25434'
        )
    return host, int(port)
