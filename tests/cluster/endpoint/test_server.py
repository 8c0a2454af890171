"""Endpoints with fake instances at the other end of the hand-off protocol."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.endpoint import server
from cluster.endpoint.balance import Kind
from cluster.endpoint.link import SILENT_S
from cluster.endpoint.server import Endpoint
from cluster.endpoint.view import EndpointView, Target, load_view, save_view
from cluster.local.layout import EndpointSpec
from cluster.local.ports import is_free
from engine.errors import ConfigError
from engine.pgwire.handover import (
    CLIENT,
    CLOSED,
    CUT_OFF,
    HELLO,
    MESSAGE,
    OPEN_WRITER,
    RETURNED,
    STATE,
    WRITER_CLIENT,
    pack,
)
from tests.support.until import until

HOST = "127.0.0.1"
STARTUP = struct.pack(">II", 9, 196608) + b"\0"


class FakeInstance:
    """Takes handed-over sockets on a Unix socket and greets each client with its own name."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / f"{name}.sock"
        self.clients: list[socket.socket] = []
        self.state = 0
        self._numbers: list[int] = []
        self._listener: socket.socket | None = None
        self._link: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        while True:
            self._link, _ = await loop.sock_accept(self._listener)
            readable = asyncio.Event()
            loop.add_reader(self._link, readable.set)
            while self._link is not None:
                await readable.wait()
                readable.clear()
                self._take()

    def _take(self) -> None:
        assert self._link is not None
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(self._link, MESSAGE.size, 1)
                if not data:  # the endpoint has gone
                    asyncio.get_running_loop().remove_reader(self._link)
                    return
                self._handle(*MESSAGE.unpack(data), fds)
        except BlockingIOError:
            return

    def _handle(self, kind: bytes, number: int, fds: list[int]) -> None:
        if kind == HELLO:
            self.say(self.state)
            return
        assert kind in (CLIENT, WRITER_CLIENT)
        client = socket.socket(fileno=fds[0])
        client.send(self.name.encode())
        self.clients.append(client)
        self._numbers.append(number)

    def say(self, state: int) -> None:
        self.state = state
        if self._link is not None:
            self._link.send(pack(STATE, state))

    def hand_back(self, number: int, client: socket.socket, kind: bytes) -> None:
        assert self._link is not None
        socket.send_fds(self._link, [pack(kind, number)], [client.fileno()])

    def close_client(self) -> None:
        """One client has gone; the endpoint is told."""
        self.clients.pop(0).close()
        assert self._link is not None
        self._link.send(pack(CLOSED, self._numbers.pop(0)))

    async def stop(self) -> None:
        """As when killed: everything is closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            self._link = None
        if self._listener is not None:
            self._listener.close()
        for client in self.clients:
            client.close()
        self.clients.clear()
        self._numbers.clear()


class World:
    def __init__(self, folder: Path) -> None:
        self.failed: list[str] = []
        self.endpoint = Endpoint(hold_s=0.3, on_failure=lambda name, _: self.failed.append(name))
        self.instances = {
            name: FakeInstance(name, folder) for name in ("main-1", "main-2", "main-3")
        }
        self.ports = {kind: self.endpoint.listen(kind, HOST, 0) for kind in Kind}
        self._open: list[asyncio.StreamWriter] = []
        self._version = 0

    def view(self, writer: str = "main-1") -> None:
        """Tell the endpoint who is writer, as that one knows as well."""
        self._version += 1
        for name, instance in self.instances.items():
            instance.say(OPEN_WRITER if name == writer else 0)
        targets = tuple(
            Target(name, "writer" if name == writer else "replica", str(instance.path))
            for name, instance in self.instances.items()
        )
        self.endpoint.update(EndpointView(self._version, targets))

    async def connect(self, kind: Kind) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.ports[kind])
        self._open.append(writer)
        return reader, writer

    async def ask(self, kind: Kind) -> str:
        """Connect and return the greeting: the name of the instance that took us."""
        reader, _ = await self.connect(kind)
        async with asyncio.timeout(5):
            return (await reader.read(100)).decode()

    async def until_connections(self, **wanted: int) -> None:
        expected = {name.replace("_", "-"): count for name, count in wanted.items()}
        await until(lambda: self.endpoint.connections() == expected)

    async def close(self) -> None:
        await self.endpoint.stop()
        for writer in self._open:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        for instance in self.instances.values():
            await instance.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.close()
    assert not made.failed


@pytest.fixture
async def full(world: World) -> World:
    """All three instances run, main-1 is writer, and the endpoint has reached them."""
    for instance in world.instances.values():
        instance.start()
    world.view()
    await until(lambda: all(known.link.live for known in world.endpoint._known.values()))
    return world


async def test_writer_endpoint_gives_every_client_to_the_writer(full):
    assert [await full.ask(Kind.WRITER) for _ in range(3)] == ["main-1"] * 3


async def test_reader_endpoint_gives_clients_to_the_replica_with_the_fewest(full):
    assert [await full.ask(Kind.READER) for _ in range(4)] == ["main-2", "main-3"] * 2
    full.instances["main-3"].close_client()
    full.instances["main-3"].close_client()
    await full.until_connections(main_1=0, main_2=2, main_3=0)
    assert [await full.ask(Kind.READER) for _ in range(2)] == ["main-3"] * 2


async def test_client_talks_to_the_instance_itself(full):
    reader, writer = await full.connect(Kind.WRITER)
    assert await reader.read(100) == b"main-1"
    (client,) = full.instances["main-1"].clients
    writer.write(b"hello")
    await writer.drain()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(client, 100) == b"hello"
    await full.endpoint.stop()
    await loop.sock_sendall(client, b"still here")
    assert await reader.read(100) == b"still here", "the endpoint has no part in it any more"


async def test_reader_endpoint_falls_back_to_the_writer(full):
    for name in ("main-2", "main-3"):
        await full.instances[name].stop()
        full.instances[name].path.unlink()
    async with asyncio.timeout(5):
        while (await full.ask(Kind.READER)) != "main-1":
            pass  # a client that was handed to a dying one is lost with it
    assert await full.ask(Kind.READER) == "main-1"


async def test_new_writer_gets_the_clients_from_the_moment_the_view_says_so(full):
    assert await full.ask(Kind.WRITER) == "main-1"
    full.view(writer="main-3")
    assert await full.ask(Kind.WRITER) == "main-3"


async def test_client_is_held_until_the_writer_is_back(world):
    world.view()
    waiting = asyncio.create_task(world.ask(Kind.WRITER))
    await until(lambda: world.endpoint._held == 1)
    world.instances["main-1"].start()
    assert await waiting == "main-1"


async def test_client_is_told_57p03_when_nobody_comes_back(world):
    reader, writer = await world.connect(Kind.WRITER)
    writer.write(STARTUP)
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"E")
    assert b"C57P03\0" in answer
    assert b"no writer has been available" in answer


async def test_clients_beyond_the_bound_are_told_53300_at_once(world, monkeypatch):
    monkeypatch.setattr(server, "HELD_MAX", 2)
    world.endpoint._hold_s = 60
    for _ in range(2):
        await world.connect(Kind.READER)
    await until(lambda: world.endpoint._held == 2)
    async with asyncio.timeout(5):
        reader, writer = await world.connect(Kind.READER)
        writer.write(STARTUP)
        assert b"C53300\0" in await reader.read()


async def test_count_starts_again_when_an_instance_was_restarted(full):
    await full.ask(Kind.READER)
    await full.until_connections(main_1=0, main_2=1, main_3=0)
    await full.instances["main-2"].stop()
    await full.until_connections(main_1=0, main_2=0, main_3=0)
    full.instances["main-2"].start()
    await until(lambda: full.endpoint._known["main-2"].link.live)
    assert {await full.ask(Kind.READER) for _ in range(2)} == {"main-2", "main-3"}


async def test_instance_that_hangs_does_not_stop_the_others(full):
    hung = full.instances["main-2"]
    asyncio.get_running_loop().remove_reader(hung._link)  # it reads nothing any more
    link = full.endpoint._known["main-2"].link
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "send_fds", _refusing(socket.send_fds, link._socket))
        assert [await full.ask(Kind.READER) for _ in range(3)] == ["main-3"] * 3


def _refusing(send_fds, full_socket):
    def send(sock, *arguments):
        if sock is full_socket:
            raise BlockingIOError
        return send_fds(sock, *arguments)

    return send


async def test_no_descriptor_is_kept_of_a_client_that_has_closed(full):
    await full.ask(Kind.WRITER)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        reader, writer = await full.connect(Kind.WRITER)
        await reader.read(100)
        full.instances["main-1"].close_client()
        writer.close()
        await writer.wait_closed()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def _ended(reader: asyncio.StreamReader) -> None:
    """The connection is over for this client."""
    async with asyncio.timeout(5):
        assert await reader.read() == b""


async def test_clients_of_the_old_writer_are_cut_off_though_it_says_nothing(full):
    reader, _ = await full.connect(Kind.WRITER)
    assert await reader.read(100) == b"main-1"
    other, _ = await full.connect(Kind.READER)
    assert await other.read(100) == b"main-2"
    full.view(writer="main-3")  # main-1 does nothing about it: it has the client's socket still
    await _ended(reader)
    await full.until_connections(main_1=0, main_2=1, main_3=0)
    (client,) = full.instances["main-2"].clients
    client.send(b"as before")
    assert await other.read(100) == b"as before", "who came to the reader endpoint is left alone"


async def test_clients_of_a_removed_instance_are_cut_off(full):
    reader, _ = await full.connect(Kind.READER)
    assert await reader.read(100) == b"main-2"
    full.endpoint.update(
        EndpointView(9, (Target("main-1", "writer", str(full.instances["main-1"].path)),))
    )
    await _ended(reader)


async def test_clients_of_an_instance_that_was_killed_are_not_kept_open(full):
    reader, _ = await full.connect(Kind.READER)
    assert await reader.read(100) == b"main-2"
    await full.instances["main-2"].stop()
    await _ended(reader)


async def test_clients_that_an_instance_hands_back_are_counted_and_cut_off_like_others(full):
    ours, theirs = socket.socketpair()
    full.instances["main-1"].hand_back(RETURNED | 5, theirs, WRITER_CLIENT)
    await full.until_connections(main_1=1, main_2=0, main_3=0)
    reader, writer = await asyncio.open_connection(sock=ours)
    full.view(writer="main-2")
    await _ended(reader)
    theirs.close()
    writer.close()
    await writer.wait_closed()


async def test_writer_clients_that_a_replica_hands_back_are_cut_off_once_the_view_is_fresh(full):
    ours, theirs = socket.socketpair()
    full.endpoint._remembered = True
    full.instances["main-2"].hand_back(RETURNED | 5, theirs, WRITER_CLIENT)
    await full.until_connections(main_1=0, main_2=1, main_3=0)
    full.view()
    reader, writer = await asyncio.open_connection(sock=ours)
    await _ended(reader)
    theirs.close()
    writer.close()
    await writer.wait_closed()


async def test_clients_beyond_the_descriptors_are_told_so(full):
    full.endpoint._clients_max = 2
    for _ in range(2):
        await full.ask(Kind.READER)
    reader, writer = await full.connect(Kind.READER)
    writer.write(STARTUP)
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert b"C53300\0" in answer
    assert b"ulimit -n" in answer


async def test_lagging_replica_gets_no_clients_until_it_has_caught_up(full):
    full.instances["main-2"].say(full.endpoint.lag_ms_max + 1)
    await until(lambda: full.endpoint._known["main-2"].link.state > full.endpoint.lag_ms_max)
    assert [await full.ask(Kind.READER) for _ in range(3)] == ["main-3"] * 3
    full.instances["main-3"].say(CUT_OFF)
    await until(lambda: full.endpoint._known["main-3"].link.state == CUT_OFF)
    assert await full.ask(Kind.READER) == "main-1", "the writer serves when no replica is fit"
    full.instances["main-2"].say(0)
    await until(lambda: full.endpoint._known["main-2"].link.state == 0)
    assert await full.ask(Kind.READER) == "main-2"


async def test_client_waits_for_a_named_writer_to_open_the_volume(full):
    full.instances["main-1"].say(0)
    await until(lambda: full.endpoint._known["main-1"].link.state == 0)
    waiting = asyncio.create_task(full.ask(Kind.WRITER))
    await until(lambda: full.endpoint._held == 1)
    full.endpoint._hold_s = 60
    full.instances["main-1"].say(OPEN_WRITER)
    assert await waiting == "main-1"


async def test_instance_that_has_been_silent_too_long_gets_no_clients(full, monkeypatch):
    assert await full.ask(Kind.READER) == "main-2"
    link = full.endpoint._known["main-3"].link
    link._heard_at -= SILENT_S + 1
    assert not link.live
    assert [await full.ask(Kind.READER) for _ in range(2)] == ["main-2"] * 2
    full.instances["main-3"].say(0)
    await until(lambda: link.live)
    assert await full.ask(Kind.READER) == "main-3"


async def test_taken_port_is_named():
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        endpoint = Endpoint()
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            endpoint.listen(Kind.WRITER, HOST, port)
        await endpoint.stop()


async def test_instances_that_left_the_view_get_no_clients(full):
    full.endpoint.update(
        EndpointView(9, (Target("main-1", "writer", str(full.instances["main-1"].path)),))
    )
    assert list(full.endpoint.connections()) == ["main-1"]
    assert await full.ask(Kind.READER) == "main-1"


def test_view_survives_its_file_and_damage_is_an_empty_view(tmp_path):
    path = tmp_path / "view.json"
    assert load_view(path) == EndpointView()
    view = EndpointView(3, (Target("main-1", "writer", "run/main-1.sock"),))
    save_view(path, view)
    assert load_view(path) == view
    path.write_text('{"version": 1, "targets": [{"strange": 1}]}')
    assert load_view(path) == EndpointView()
    path.write_text("{")
    assert load_view(path) == EndpointView()


async def _ask_port(port: int) -> str:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        async with asyncio.timeout(5):
            return (await reader.read(100)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_custom_endpoint_gives_clients_to_those_it_admits_replicas_first(full):
    some = full.endpoint.listen_custom(
        EndpointSpec("some", 0, members=("main-1", "main-3", "gone")), HOST
    )
    assert [await _ask_port(some) for _ in range(3)] == ["main-3"] * 3
    full.instances["main-3"].say(CUT_OFF)
    await until(lambda: full.endpoint._known["main-3"].link.state == CUT_OFF)
    assert await _ask_port(some) == "main-1", "a member, and better than a replica that lags"
    others = full.endpoint.listen_custom(EndpointSpec("others", 0, exclude=("main-2",)), HOST)
    assert await _ask_port(others) == "main-1"
    full.instances["main-3"].say(0)
    await until(lambda: full.endpoint._known["main-3"].link.state == 0)
    assert await _ask_port(others) == "main-3"


async def test_closed_custom_endpoint_takes_nobody_and_those_who_came_go_on(full):
    port = full.endpoint.listen_custom(EndpointSpec("some", 0, members=("main-2",)), HOST)
    reader, writer = await asyncio.open_connection(HOST, port)
    assert await reader.read(100) == b"main-2"
    full.endpoint.close_custom("some")
    await until(lambda: is_free(port))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
    full.instances["main-2"].clients[0].send(b"on")
    assert await reader.read(100) == b"on"
    writer.close()
    await writer.wait_closed()
