"""How simulated clients talk SQL to an instance: sessions of the real engine behind a small protocol.

PostgreSQL's protocol is bytes on a TCP socket and has tests of its own; here what matters is what a
client learns when the instance, the path or the client dies at any moment. So the protocol is one
statement, one answer, over a wire of the simulated network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.sim.transport import SimTransport
from engine.errors import SqlError, Unavailable
from engine.pgwire.utility import Settings
from engine.pgwire.utility import answer as answer_set
from engine.ports import Channel, Handlers, Method, Stream
from engine.sql.engine import SqlEngine
from engine.sql.errors import SessionClosed
from engine.sql.session import Session


class Packet:
    """A JSON value that looks like a message to the transport."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def SerializeToString(self, deterministic: bool = True) -> bytes:  # noqa: N802
        return json.dumps(self.value, separators=(",", ":")).encode()

    @classmethod
    def FromString(cls, data: bytes) -> Packet:  # noqa: N802
        return cls(json.loads(data))


SQL: Method[Any, Any] = Method("sextet.sim.Sql", "Connect", Packet, Packet, True, True)


def sql_address(instance: str, *, writer: bool = False) -> str:
    """Where it takes clients; with `writer` those who came for a writer and for nothing less."""
    return f"{instance}.sql:{5433 if writer else 5432}"


def sql_handlers(
    engine: Callable[[], SqlEngine | None], epoch: Callable[[], int], *, writer: bool
) -> Handlers:
    """What an instance serves its clients with; `epoch` of its open volume, 0 on a replica.

    With `writer`, those who came for a writer.
    """

    async def connect(stream: Stream[Any, Any]) -> None:
        serving = engine()
        if serving is None or (writer and not epoch()):
            raise Unavailable("this instance is not open for clients")
        session, under = serving.session(), epoch()
        settings = _settings(session)
        try:
            while (packet := await stream.recv()) is not None:
                sql, params = packet.value
                try:
                    answer: dict[str, Any] = {"rows": await _rows(session, settings, sql, params)}
                except SqlError as error:
                    answer = {"sqlstate": error.sqlstate, "error": str(error)}
                await stream.send(Packet({**answer, **_lsns(session, under)}))
                if session.closed:
                    return  # this instance has become the writer
        finally:
            await session.close()

    return {SQL: connect}


async def _rows(
    session: Session, settings: Settings, sql: str, params: Sequence[Any]
) -> list[list[Any]]:
    if session.closed:
        raise SessionClosed("the session is closed")
    if sql.startswith("SET "):
        answer_set(sql, settings)
        return []
    cursor = await session.execute(await session.prepare(sql), params)
    return [list(row) for row in await cursor.fetch()]


def _settings(session: Session) -> Settings:
    return Settings(
        sql=session.settings,
        in_recovery=False,
        database=session.database,
        user=session.user,
        defaults=replace(session.settings),
    )


def _lsns(session: Session, epoch: int) -> dict[str, int]:
    """What checkers would like to know of a session; a client of PostgreSQL's protocol is not told."""
    read, commit = session.read_point, session.last_commit
    return {"read": read.lsn if read else 0, "commit": commit.lsn if commit else 0, "epoch": epoch}


@dataclass
class Failed(Exception):
    """An answer that is an error. `sqlstate` "" means that the connection was lost."""

    sqlstate: str
    message: str

    @property
    def lost(self) -> bool:
        return not self.sqlstate

    @property
    def unknown(self) -> bool:
        return self.sqlstate == "08007"


class SqlClient:
    """One connection. After a lost one make another."""

    def __init__(self, transport: SimTransport, instance: str, *, writer: bool) -> None:
        self.instance = instance
        self._channel: Channel = transport.connect(sql_address(instance, writer=writer))
        self._stream = self._channel.stream(SQL)
        self.strong = False
        """Its reads are strong."""
        self.read_lsn = 0
        """Read point of the open transaction, 0 if it has none."""
        self.commit_lsn = 0
        """Of the session's newest commit."""
        self.epoch = 0
        """The volume epoch that the writer behind it had at its last answer."""

    async def run(self, sql: str, params: Sequence[Any] = ()) -> list[list[Any]]:
        """The rows. Raises Failed."""
        try:
            await self._stream.send(Packet([sql, list(params)]))
            packet = await self._stream.recv()
        except Exception as error:
            raise Failed("", f"{type(error).__name__}: {error}") from error
        if packet is None:
            raise Failed("", "the connection was closed")
        answer = packet.value
        self.read_lsn, self.commit_lsn = answer["read"], answer["commit"]
        self.epoch = answer["epoch"]
        if "sqlstate" in answer:
            raise Failed(answer["sqlstate"], answer["error"])
        rows: list[list[Any]] = answer["rows"]
        return rows

    def cut(self) -> None:
        """Somebody between here and the instance shuts it down: who waits for an answer is told at once."""
        self._stream.close()

    async def close(self) -> None:
        self._stream.close()
        await self._channel.close()
