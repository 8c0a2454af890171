"""Sockets handed over by an endpoint: who came for a writer gets one, or is told to come again."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from engine.pgwire.handoff import CLIENT, CLOSED, WRITER_CLIENT, HandoffServer
from tests.pgwire.conftest import serve
from tests.pgwire.raw import startup
from tests.sql.local_volume import LocalVolume


@pytest.mark.parametrize(
    ("how", "in_recovery", "refused"),
    [
        (WRITER_CLIENT, True, True),
        (WRITER_CLIENT, False, False),
        (CLIENT, True, False),
        (CLIENT, False, False),
    ],
    ids=["writer at replica", "writer at writer", "reader at replica", "reader at writer"],
)
async def test_only_an_open_writer_serves_clients_of_the_writer_endpoint(
    tmp_path: Path, volume: LocalVolume, how: bytes, in_recovery: bool, refused: bool
) -> None:
    """Found by the simulator (seed 1001): a replica that the catalog had just named writer, and that did
    not know yet, served the writer endpoint's clients from the past."""
    served = await serve(volume, volume.writer(), in_recovery=in_recovery)
    handoff = HandoffServer(tmp_path / "main-1.sock", served.server)
    await handoff.start()
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    endpoint.setblocking(False)
    await asyncio.get_running_loop().sock_connect(endpoint, str(tmp_path / "main-1.sock"))
    socket.send_fds(endpoint, [how], [theirs.fileno()])
    theirs.close()
    writer.write(startup(user="postgres", database="main"))
    async with asyncio.timeout(10):
        answer = await reader.read(1)
        if refused:
            rest = await reader.read(1000)
            assert answer == b"E"
            assert b"C57P03" in rest
            assert await asyncio.get_running_loop().sock_recv(endpoint, 1) == CLOSED
        else:
            assert answer == b"R"
    writer.close()
    await writer.wait_closed()
    endpoint.close()
    await handoff.stop()
    await served.server.stop()
    await served.engine.close()
