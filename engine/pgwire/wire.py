"""One client socket: bytes in through the decoder, bytes out in few writes, flow control both ways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from engine.errors import ProtocolError, SextetError
from engine.pgwire.codec import Decoder, FirstMessage, Message

READ_AHEAD_BYTES = 1024 * 1024
"""Input that may gather while a statement runs; beyond it the client has to wait."""

WRITE_BYTES = 64 * 1024
"""Output is handed to the socket at the latest when this much has gathered."""


class Wire(asyncio.Protocol):
    """Give it to `loop.create_connection` or `connect_accepted_socket`.

    `on_lost` is called once, as soon as the client is gone: whoever runs its statement cancels it.

    Nothing that was written leaves before `settle` has returned, if `owes` says that it is needed. What
    was written while it did not say so may be told whatever comes: of transactions that are over.
    """

    def __init__(self, message_bytes_max: int) -> None:
        self.decoder = Decoder(message_bytes_max=message_bytes_max)
        self.on_lost: Callable[[], None] = lambda: None
        self.owes: Callable[[], bool] = _never
        self.settle: Callable[[], Awaitable[None]] | None = None
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._gathered = 0
        self._paused = False
        self._open = asyncio.Event()
        self._open.set()
        self._ended = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._sayable = 0  # how many of `_out`'s first may be told whatever comes

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._open.is_set():
            self._transport.pause_reading()

    def hold(self, held: bool) -> None:
        """Neither read nor write any more, or do so again: a host that is cut off from its clients.

        A client that goes away meanwhile is not noticed before the end of it.
        """
        if held and not self._ended:  # who waits to send the last words must not wait for ever
            self._open.clear()
            if self._transport is not None:
                self._transport.pause_reading()
        else:
            self._open.set()
            if self._transport is not None and not self._paused:
                self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.decoder.feed(data)
        self._gathered += len(data)
        if self._gathered > READ_AHEAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        # Closing our descriptor ends nothing while an endpoint has another one of this socket.
        end = self._transport.get_extra_info("socket") if self._transport is not None else None
        if end is not None:
            # uvloop's stand-in for the socket has no shutdown, only the descriptor. OSError: the client
            # has gone.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(end.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = self.lost = True
            self._wake()
            self._writable.set()
            self._open.set()
            self.on_lost()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- messages in

    async def first(self) -> FirstMessage | None:
        """The next message of the start-up phase, None if the client left. Raises ProtocolError."""
        while True:
            message = self.decoder.first()
            if message is not None or not await self._more():
                return message

    def take(self) -> Message | None:
        """The next message if there is one and nothing keeps it waiting, else `next` is to be asked.
        Raises ProtocolError."""
        return self.decoder.next() if self._out_bytes < WRITE_BYTES else None

    async def next(self) -> Message | None:
        """The next message, None if the client left. Raises ProtocolError."""
        await self.flush()
        while True:
            message = self.decoder.next()
            if message is not None or not await self._more():
                return message

    async def _more(self) -> bool:
        """Wait for more bytes; False if none will come."""
        self._gathered = 0
        if self._paused and self._transport is not None and not self._ended:
            self._paused = False
            if self._open.is_set():
                self._transport.resume_reading()
        if self._ended:
            return False
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived
        return True

    # -- bytes out

    def write(self, data: bytes) -> None:
        """Gather; `flush` sends."""
        self._out.append(data)
        self._out_bytes += len(data)
        if not self.owes():
            self._sayable = len(self._out)

    async def write_much(self, data: bytes) -> None:
        """Gather, and wait while the client does not read what was sent."""
        self.write(data)
        if self._out_bytes >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Send what has been gathered. Raises AnswersLost if it may never be sent."""
        if self._out and self.owes() and self.settle is not None:
            try:
                await self.settle()
            except SextetError as error:
                raise AnswersLost(error) from error
        if not self._open.is_set():
            await self._open.wait()
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = self._sayable = 0
            if not self._ended:
                self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    def write_last(self, data: bytes) -> None:
        """Gather what ends the conversation, in place of answers that cannot be given any more."""
        if self.owes():
            del self._out[self._sayable :]
        self.owes = _never
        self.write(data)

    def close(self) -> None:
        """Send what has been flushed, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class AnswersLost(ProtocolError):
    """Answers were kept back until what they rest on is durable, and will not be given: the connection
    ends. Of an open transaction nothing is there; a commit of unknown outcome is `OutcomeLost`."""

    def __init__(self, cause: SextetError) -> None:
        super().__init__(
            f"terminating connection: before what its answers rest on was durable: {cause}"
        )
        self.sqlstate = "57P01" if cause.sqlstate != "57014" else "57014"


class OutcomeLost(ProtocolError):
    """The outcome of a commit is unknown, and answers before it in the same transaction cannot be given."""

    sqlstate = "08007"


def _never() -> bool:
    return False
