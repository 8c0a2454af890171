"""Turning a client away in its own protocol: PostgreSQL's start-up, just enough of it.

An ErrorResponse is only understood where one is expected, so requests for encryption are declined
first and the start-up message is read (it says nothing that matters here). All of it is bounded in
bytes and time, since whoever connects may send anything or nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct

HANDSHAKE_S = 2.0
STARTUP_BYTES_MAX = 10_000
"""As in PostgreSQL."""

ENCRYPTION_REQUESTS_MAX = 2  # TLS and GSSAPI, once each

CANNOT_CONNECT_NOW = "57P03"
TOO_MANY_CONNECTIONS = "53300"

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_HEAD = struct.Struct(">II")


def error_response(sqlstate: str, message: str) -> bytes:
    """A FATAL ErrorResponse (protocol 3.0)."""
    fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", message))
    body = b"".join(f"{code}{value}".encode() + b"\0" for code, value in fields) + b"\0"
    return b"E" + struct.pack(">I", len(body) + 4) + body


async def refuse(client: socket.socket, sqlstate: str, message: str) -> None:
    """Answer the client's start-up with an error and close; close only, if it does not start up."""
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            if await _startup_read(client):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, error_response(sqlstate, message))
    except (OSError, EOFError, TimeoutError):
        pass  # it is gone, or speaks something else
    finally:
        client.close()


async def _startup_read(client: socket.socket) -> bool:
    """Read up to and including the start-up message; False if this is none."""
    for _ in range(ENCRYPTION_REQUESTS_MAX + 1):
        length, code = _HEAD.unpack(await _exactly(client, _HEAD.size))
        if code in (_SSL_REQUEST, _GSS_REQUEST) and length == _HEAD.size:
            await asyncio.get_running_loop().sock_sendall(client, b"N")
            continue
        if code == _CANCEL_REQUEST or not _HEAD.size <= length <= STARTUP_BYTES_MAX:
            return False
        await _exactly(client, length - _HEAD.size)
        return True
    return False


async def _exactly(client: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(client, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
