"""What an endpoint process and an instance say to each other over the instance's Unix socket.

A message is one byte and a 32-bit number; one that hands a client over has the client's descriptor with
it (SCM_RIGHTS). Both sides keep a descriptor of the client's socket: the instance serves it, and the
endpoint can shut it down although the instance hangs.

    endpoint to instance   E 0         an endpoint is here; an earlier connection's has gone
                           C n         take client n
                           W n         take client n, who came for a writer and for nothing less
    instance to endpoint   S state     how fit I am to serve, at once after E and then again and again
                           C n, W n    I have this client since before you came; n has the top bit set
                           - n         client n has closed
    sibling to instance    K pid        a cancel request; four bytes follow, the secret

The endpoint counts n up from 1 and never gets to the top bit, so its own numbers and the returned
clients' never meet.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass

HELLO = b"E"
CLIENT = b"C"
WRITER_CLIENT = b"W"
STATE = b"S"
CLOSED = b"-"
CANCEL = b"K"

MESSAGE = struct.Struct("!cI")
SECRET = struct.Struct("!I")

RETURNED = 1 << 31
"""Set in the number of a client that an instance hands back to a new endpoint process."""

OPEN_WRITER = 2**32 - 1
CUT_OFF = 2**32 - 2
"""A replica that follows no writer now."""

LAG_MS_MAX = CUT_OFF - 1
"""Any other state is a replica's lag in milliseconds."""

STATE_S = 0.5
"""An instance says its state at least this often; a change of it at once, or nearly so."""


@dataclass(frozen=True, slots=True)
class Message:
    """`fd` belongs to whoever received it."""

    kind: bytes
    number: int
    fd: int | None = None


def pack(kind: bytes, number: int) -> bytes:
    return MESSAGE.pack(kind, number)


async def receive(peer: socket.socket) -> Message | None:
    """The next message; None when the other side has gone or speaks something else. Raises OSError."""
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(peer, MESSAGE.size, 1)
        except BlockingIOError:
            await _readable(peer)
            continue
        fd = fds[0] if fds else None
        if len(data) != MESSAGE.size:
            if fd is not None:
                os.close(fd)
            return None
        kind, number = MESSAGE.unpack(data)
        return Message(kind, number, fd)


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
