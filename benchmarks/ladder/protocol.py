"""A server that speaks PostgreSQL's protocol and does nothing else: every answer is ready-made.

It understands what pgbench sends (and psycopg, with autocommit), through engine.pgwire's own codec, with
as little around it as asyncio allows: no session, no task, no SQL. Prints its port.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from benchmarks.ladder.process import HOST
from engine.errors import ProtocolError
from engine.net.process import run_node
from engine.pgwire import codec
from engine.pgwire.codec import Bind, Describe, Execute, Message, Parse, Startup, Sync, Terminate

INT4 = 23
WELCOME = b"".join(
    (
        codec.AUTHENTICATION_OK,
        codec.parameter_status("server_version", "15.0"),
        codec.parameter_status("client_encoding", "UTF8"),
        codec.key_data(1, 1),
        codec.READY["I"],
    )
)


@dataclass(frozen=True, slots=True)
class Answers:
    """To Describe and to Execute."""

    shape: bytes
    result: bytes


SELECT = Answers(
    codec.row_description([("abalance", INT4, 4, 0)]),
    codec.data_row([b"4711"]) + codec.command_complete("SELECT 1"),
)
UPDATE = Answers(codec.NO_DATA, codec.command_complete("UPDATE 1"))


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self._decoder = codec.Decoder()
        self._welcomed = False
        self._statements: dict[str, Answers] = {}
        self._bound = UPDATE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Whatever has arrived is answered in one write. Raises ProtocolError."""
        self._decoder.feed(data)
        out = []
        while not self._welcomed and (first := self._decoder.first()) is not None:
            self._welcomed = isinstance(first, Startup)
            out.append(WELCOME if self._welcomed else b"N")
        while self._welcomed and (message := self._decoder.next()) is not None:
            out.append(self._answer(message))
        self._transport.write(b"".join(out))

    def _answer(self, message: Message) -> bytes:
        match message:
            case Bind():
                self._bound = self._statements[message.statement]
                return codec.BIND_COMPLETE
            case Describe():
                return self._bound.shape
            case Execute():
                return self._bound.result
            case Sync():
                return codec.READY["I"]
            case Parse():
                selects = message.sql.upper().startswith("SELECT")
                self._statements[message.name] = SELECT if selects else UPDATE
                return codec.PARSE_COMPLETE
            case Terminate():
                self._transport.close()
                return b""
            case _:
                raise ProtocolError(f"pgbench sends no {type(message).__name__}")


async def serve(stop: asyncio.Event) -> None:
    server = await asyncio.get_running_loop().create_server(Client, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()


if __name__ == "__main__":
    run_node(serve, name="protocol")
