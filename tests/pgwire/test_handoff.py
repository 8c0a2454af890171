"""Sockets handed over by an endpoint: who is served, and what the endpoint is told of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from engine.pgwire import handoff
from engine.pgwire.handoff import HandoffServer, relay_cancel
from engine.pgwire.handover import (
    CLIENT,
    CLOSED,
    HELLO,
    OPEN_WRITER,
    RETURNED,
    STATE,
    WRITER_CLIENT,
    Message,
    pack,
    receive,
)
from tests.pgwire.conftest import serve
from tests.pgwire.raw import startup
from tests.sql.local_volume import LocalVolume


class FakeEndpoint:
    """One connection of an endpoint process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.peer.setblocking(False)
        self.kept: dict[int, socket.socket] = {}

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.peer, str(self.path))
        await loop.sock_sendall(self.peer, pack(HELLO, 0))

    def give(
        self, number: int, kind: bytes = CLIENT
    ) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A client that has been accepted, handed over and kept."""
        ours, theirs = socket.socketpair()
        socket.send_fds(self.peer, [pack(kind, number)], [theirs.fileno()])
        self.kept[number] = theirs
        return asyncio.open_connection(sock=ours)

    async def told(self, *, states: bool = False) -> Message | None:
        """The next message, but for how the instance is."""
        async with asyncio.timeout(10):
            while (message := await receive(self.peer)) is not None:
                if message.kind != STATE or states:
                    return message
        return None

    def close(self) -> None:
        self.peer.close()
        for client in self.kept.values():
            client.close()


class Hand:
    """An instance that takes clients over, and what connects to it."""

    def __init__(self, path: Path, server: HandoffServer) -> None:
        self.path = path
        self.server = server
        self.state = OPEN_WRITER
        self.opened: list[FakeEndpoint] = []

    async def endpoint(self) -> FakeEndpoint:
        made = FakeEndpoint(self.path)
        self.opened.append(made)
        await made.connect()
        return made


@pytest.fixture
async def handing(
    tmp_path: Path, volume: LocalVolume
) -> AsyncIterator[Callable[..., Awaitable[Hand]]]:
    ends: list[Callable[[], Awaitable[None]]] = []

    async def make(*, in_recovery: bool = False) -> Hand:
        served = await serve(volume, volume.writer(), in_recovery=in_recovery)
        path = tmp_path / "main-1.sock"
        server = HandoffServer(path, served.server, state=lambda: hand.state)
        hand = Hand(path, server)
        await server.start()

        async def end() -> None:
            for endpoint in hand.opened:
                endpoint.close()
            await server.stop()
            await served.server.stop()
            await served.engine.close()

        ends.append(end)
        return hand

    yield make
    for end in ends:
        await end()


async def _start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Start up; the whole answer up to ReadyForQuery, or all there is."""
    writer.write(startup(user="postgres", database="main"))
    answer = b""
    async with asyncio.timeout(10):
        while not answer.endswith(b"Z\0\0\0\x05I") and (more := await reader.read(4096)):
            answer += more
    return answer


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


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
    handing: Callable[..., Awaitable[Hand]], how: bytes, in_recovery: bool, refused: bool
) -> None:
    """Found by the simulator (seed 1001): a replica that the catalog had just named writer, and that did
    not know yet, served the writer endpoint's clients from the past."""
    hand = await handing(in_recovery=in_recovery)
    endpoint = await hand.endpoint()
    reader, writer = await endpoint.give(7, how)
    answer = await _start(reader, writer)
    if refused:
        assert answer[:1] == b"E"
        assert b"C57P03" in answer
        assert await endpoint.told() == Message(CLOSED, 7)
    else:
        assert answer[:1] == b"R"
    await _close(writer)


async def test_endpoint_is_told_which_client_has_closed(handing) -> None:
    hand = await handing()
    endpoint = await hand.endpoint()
    clients = [await endpoint.give(number) for number in (11, 12, 13)]
    for reader, writer in clients:
        await _start(reader, writer)
    for at in (1, 0, 2):
        await _close(clients[at][1])
        assert await endpoint.told() == Message(CLOSED, 11 + at)


async def test_client_sees_its_end_although_the_endpoint_keeps_its_socket(handing) -> None:
    """The instance's own descriptor is not the last one any more: closing it alone would end nothing."""
    hand = await handing()
    endpoint = await hand.endpoint()
    reader, writer = await endpoint.give(1)
    await _start(reader, writer)
    writer.write(b"X\0\0\0\x04")  # Terminate
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert endpoint.kept[1].fileno() >= 0
    await _close(writer)


async def test_new_endpoint_is_handed_back_whoever_is_served(handing) -> None:
    hand = await handing()
    first = await hand.endpoint()
    reader, writer = await first.give(1)
    other, other_writer = await first.give(2, WRITER_CLIENT)
    await _start(reader, writer)
    await _start(other, other_writer)
    first.close()  # killed
    second = await hand.endpoint()
    back = [await second.told(), await second.told()]
    kinds = {message.kind: message for message in back if message is not None}
    assert set(kinds) == {CLIENT, WRITER_CLIENT}
    assert all(message.number & RETURNED and message.fd is not None for message in kinds.values())
    sockets = {kind: socket.socket(fileno=message.fd) for kind, message in kinds.items()}
    sockets[WRITER_CLIENT].shutdown(socket.SHUT_RDWR)
    async with asyncio.timeout(10):
        assert await other.read() == b"", "it is that client's socket"
    assert await second.told() == Message(CLOSED, kinds[WRITER_CLIENT].number)
    await _close(writer)
    assert await second.told() == Message(CLOSED, kinds[CLIENT].number)
    await _close(other_writer)
    for kept in sockets.values():
        kept.close()


async def test_many_clients_are_handed_back_to_an_endpoint_that_reads_slowly(
    handing, monkeypatch
) -> None:
    hand = await handing()
    first = await hand.endpoint()
    count = 60
    clients = [await first.give(number + 1) for number in range(count)]
    for reader, writer in clients:
        await _start(reader, writer)
    first.close()
    second = FakeEndpoint(hand.path)
    hand.opened.append(second)
    second.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    real, full = socket.send_fds, iter([True, False] * count)

    def often_full(*arguments: object) -> int:
        if next(full, False):
            raise BlockingIOError
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(handoff.socket, "send_fds", often_full)
    await second.connect()
    numbers = set()
    for _ in range(count):
        message = await second.told()
        assert message is not None
        assert message.fd is not None
        numbers.add(message.number)
        second.kept[message.number] = socket.socket(fileno=message.fd)
    assert len(numbers) == count
    for _, writer in clients:
        await _close(writer)
    assert {(await second.told()).number for _ in range(count)} == numbers


async def test_clients_of_somebody_who_is_no_endpoint_are_not_taken(handing) -> None:
    hand = await handing()
    await hand.endpoint()
    stranger = FakeEndpoint(hand.path)
    hand.opened.append(stranger)
    await asyncio.get_running_loop().sock_connect(stranger.peer, str(hand.path))
    _, writer = await stranger.give(1)
    assert await stranger.told() is None
    await _close(writer)


async def test_endpoint_is_told_how_the_instance_is_at_once_and_when_it_changes(handing) -> None:
    hand = await handing()
    endpoint = await hand.endpoint()
    assert await endpoint.told(states=True) == Message(STATE, OPEN_WRITER)
    hand.state = 250
    while (message := await endpoint.told(states=True)) == Message(STATE, OPEN_WRITER):
        pass
    assert message == Message(STATE, 250)


async def test_cancel_request_of_a_sibling_comes_through(handing, monkeypatch) -> None:
    hand = await handing()
    came: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    monkeypatch.setattr(
        hand.server._server, "cancel", lambda pid, secret: came.put_nowait((pid, secret))
    )
    await relay_cancel(hand.path, 3 << 16 | 9, 2**32 - 1)
    async with asyncio.timeout(10):
        assert await came.get() == (3 << 16 | 9, 2**32 - 1)
