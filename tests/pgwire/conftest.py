"""A PostgreSQL server in this process, over the real SQL engine on a volume in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from engine.pgwire.server import PgServer, ServerConfig
from engine.sql.engine import SqlEngine
from tests.pgwire.raw import Raw
from tests.sql.local_volume import LocalVolume

HOST = "127.0.0.1"
NUMBER = 3
"""The instance's number, the upper half of its sessions' process ids."""


@dataclass
class Served:
    """A running server and where it is."""

    server: PgServer
    engine: SqlEngine
    volume: LocalVolume
    port: int
    relayed: list[tuple[int, int, int]]
    """Cancel requests that were for other instances."""

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/main"

    async def sql(self, *statements: str) -> None:
        """Run statements that must succeed."""
        raw = await Raw.start(self.port)
        for statement in statements:
            replies = await raw.query(statement)
            errors = [reply.fields for reply in replies if reply.kind == "E"]
            assert not errors, (statement, errors)
        await raw.close()


async def serve(
    volume: LocalVolume, engine: SqlEngine, *, in_recovery: bool = False, **config: int
) -> Served:
    relayed: list[tuple[int, int, int]] = []

    async def relay(number: int, pid: int, secret: int) -> None:
        relayed.append((number, pid, secret))

    server = PgServer(
        ServerConfig("main", NUMBER, **config),
        lambda: engine,
        in_recovery=lambda: in_recovery,
        relay_cancel=relay,
    )
    port = await server.listen(HOST, 0)
    return Served(server, engine, volume, port, relayed)


@pytest.fixture
def volume() -> LocalVolume:
    return LocalVolume()


@pytest.fixture
async def pg(volume: LocalVolume) -> AsyncIterator[Served]:
    served = await serve(volume, volume.writer())
    yield served
    await served.server.stop()
    await served.engine.close()


Connect = Callable[..., Awaitable[Raw]]


@pytest.fixture
async def connect(pg: Served) -> AsyncIterator[Connect]:
    """Opens raw sessions that are closed at the end."""
    opened: list[Raw] = []

    async def connect(**parameters: str) -> Raw:
        opened.append(await Raw.start(pg.port, **parameters))
        return opened[-1]

    yield connect
    for raw in opened:
        await raw.close()


@pytest.fixture
async def raw(connect: Connect) -> Raw:
    return await connect()
