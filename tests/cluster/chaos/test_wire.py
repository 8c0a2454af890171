"""A chaos client's connection against a server that answers the greeting and then nothing, or goes away."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from cluster.chaos import wire as wires
from cluster.chaos.wire import Failed, Wire
from engine.pgwire import codec

HELLO = b"".join(
    (
        codec.message(b"R", struct.pack("!I", 0)),
        codec.message(b"S", b"client_encoding\0UTF8\0"),
        codec.key_data(3 << 16 | 5, 77),
        codec.message(b"Z", b"I"),
    )
)


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The URL of a server that lets clients in, and closes on "bye" but answers nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if data[4:8] == struct.pack("!I", 196608):
                writer.write(HELLO)
            elif data[4:8] == struct.pack("!I", 80877103):
                writer.write(b"N")  # no TLS
            elif b"bye" in data:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"postgresql://postgres@127.0.0.1:{port}/main?gssencmode=disable"


async def test_a_statement_without_an_answer_ends_as_a_lost_connection(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "STATEMENT_S", 0.1)
    wire = await Wire.open(silent, "c1-1")
    async with asyncio.timeout(30):
        with pytest.raises(Failed) as failed:
            await wire.run("SELECT 1")
    assert (failed.value.sqlstate, failed.value.lost) == ("", True)
    await wire.close()


async def test_it_still_knows_its_instance_when_the_connection_is_gone(silent: str) -> None:
    wire = await Wire.open(silent, "c1-1")
    with pytest.raises(Failed) as failed:
        await wire.run("SELECT 'bye'")
    assert failed.value.lost
    await wire.close()
    assert wire.instance_number == 3
    with pytest.raises(Failed):
        await wire.run("SELECT 1")


async def test_nobody_there_is_a_failure_too() -> None:
    with pytest.raises(Failed) as failed:
        await Wire.open("postgresql://postgres@127.0.0.1:1/main", "c1-1")
    assert failed.value.lost
