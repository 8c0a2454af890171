"""A client by hand: builds frontend messages byte by byte and takes backend messages apart.

Written from the protocol's documentation and sharing no code with `engine.pgwire.codec`, so that a
mistake there is not mirrored here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

CANCEL, SSL, GSS = 80877102, 80877103, 80877104


class Reply(NamedTuple):
    """One backend message."""

    kind: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse."""
        return {part[:1].decode(): part[1:].decode() for part in self.body.split(b"\0") if part}

    @property
    def row(self) -> list[bytes | None]:
        """Of a DataRow."""
        (count,) = struct.unpack_from("!H", self.body)
        at, values = 2, list[bytes | None]()
        for _ in range(count):
            (size,) = struct.unpack_from("!i", self.body, at)
            at += 4
            if size < 0:
                values.append(None)
            else:
                values.append(self.body[at : at + size])
                at += size
        assert at == len(self.body)
        return values

    @property
    def columns(self) -> list[tuple[str, int, int]]:
        """Of a RowDescription: name, type oid, format."""
        (count,) = struct.unpack_from("!H", self.body)
        at, found = 2, []
        for _ in range(count):
            end = self.body.index(0, at)
            name = self.body[at:end].decode()
            _, _, oid, _, _, code = struct.unpack_from("!IHIhih", self.body, end + 1)
            found.append((name, oid, code))
            at = end + 1 + 18
        assert at == len(self.body)
        return found

    @property
    def oids(self) -> list[int]:
        """Of a ParameterDescription."""
        (count,) = struct.unpack_from("!H", self.body)
        return list(struct.unpack_from(f"!{count}I", self.body, 2))


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def shorts(values: Sequence[int]) -> bytes:
    return struct.pack(f"!H{len(values)}h", len(values), *values)


def startup(version: int = 196608, **parameters: str) -> bytes:
    body = b"".join(text(k) + text(v) for k, v in parameters.items()) + b"\0"
    return struct.pack("!ii", len(body) + 8, version) + body


def request(code: int) -> bytes:
    """SSLRequest or GSSENCRequest."""
    return struct.pack("!ii", 8, code)


def cancel(pid: int, secret: int) -> bytes:
    return struct.pack("!iiII", 16, CANCEL, pid, secret)


def query(sql: str) -> bytes:
    return frame(b"Q", text(sql))


def parse(sql: str, name: str = "", oids: Sequence[int] = ()) -> bytes:
    listed = struct.pack(f"!H{len(oids)}I", len(oids), *oids)
    return frame(b"P", text(name) + text(sql) + listed)


def bind(
    values: Sequence[bytes | None] = (),
    *,
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> bytes:
    parts = [text(portal), text(statement), shorts(formats), struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(struct.pack("!i", -1))
        else:
            parts.append(struct.pack("!i", len(value)) + value)
    return frame(b"B", b"".join(parts) + shorts(results))


def describe(kind: str, name: str = "") -> bytes:
    return frame(b"D", kind.encode() + text(name))


def execute(portal: str = "", rows_max: int = 0) -> bytes:
    return frame(b"E", text(portal) + struct.pack("!i", rows_max))


def close(kind: str, name: str = "") -> bytes:
    return frame(b"C", kind.encode() + text(name))


SYNC = frame(b"S")
FLUSH = frame(b"H")
TERMINATE = frame(b"X")


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pid = 0
        self.secret = 0
        self.parameters: dict[str, str] = {}

    @classmethod
    async def connect(cls, port: int) -> Raw:
        """A TCP connection on which nothing has been said yet."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def start(cls, port: int, **parameters: str) -> Raw:
        """A session that is ready for its first query."""
        raw = await cls.connect(port)
        raw.send(startup(**({"user": "postgres", "database": "main"} | parameters)))
        for reply in await raw.until_ready():
            if reply.kind == "S":
                name, value, _ = reply.body.split(b"\0")
                raw.parameters[name.decode()] = value.decode()
            elif reply.kind == "K":
                raw.pid, raw.secret = struct.unpack("!II", reply.body)
        return raw

    def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(messages))

    async def reply(self) -> Reply:
        """The next message. Raises asyncio.IncompleteReadError at the end of the connection."""
        async with asyncio.timeout(20):
            kind, length = struct.unpack("!ci", await self.reader.readexactly(5))
            return Reply(kind.decode(), await self.reader.readexactly(length - 4))

    async def until(self, kind: str) -> list[Reply]:
        replies = [await self.reply()]
        while replies[-1].kind != kind:
            replies.append(await self.reply())
        return replies

    async def until_ready(self) -> list[Reply]:
        return await self.until("Z")

    async def until_closed(self) -> list[Reply]:
        """Everything up to the server's closing the connection."""
        replies = []
        try:
            while True:
                replies.append(await self.reply())
        except (asyncio.IncompleteReadError, ConnectionError):
            return replies

    async def query(self, sql: str) -> list[Reply]:
        self.send(query(sql))
        return await self.until_ready()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the server was first
            await self.writer.wait_closed()


def kinds(replies: Sequence[Reply]) -> str:
    """The messages' type bytes, such as "1 2 D C Z" without the blanks."""
    return "".join(reply.kind for reply in replies)


def failure(replies: Sequence[Reply]) -> str:
    """The SQLSTATE of the only ErrorResponse."""
    (error,) = [reply for reply in replies if reply.kind == "E"]
    return error.fields["C"]


def rows(replies: Sequence[Reply]) -> list[tuple[str | None, ...]]:
    """All rows, as text."""
    return [
        tuple(None if v is None else v.decode() for v in reply.row)
        for reply in replies
        if reply.kind == "D"
    ]
