"""The client's socket under the loop that node processes run, and under asyncio's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from engine.pgwire.wire import Wire

LOOPS = (uvloop.new_event_loop, asyncio.new_event_loop)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_the_end_reaches_the_client_though_somebody_else_has_the_socket_too(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    errors: list[dict[str, object]] = []
    lost: list[bool] = []

    async def talk(ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: errors.append(context))
        wire = Wire(1000)
        wire.on_lost = lambda: lost.append(True)
        await loop.connect_accepted_socket(lambda: wire, ours)
        wire.write(b"last words")
        await wire.flush()
        wire.close()
        async with asyncio.timeout(20):
            while not lost:
                await asyncio.sleep(0)

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.settimeout(20)
        ours, _ = server.accept()
        with ours.dup():  # as an endpoint keeps one
            ours.setblocking(False)
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(talk(ours))
            said = b""
            while more := client.recv(100):
                said += more
    assert said == b"last words"
    assert not errors
