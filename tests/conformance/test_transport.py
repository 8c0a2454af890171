"""What every binding of the transport port promises (engine.ports: Transport and what it makes).

A binding joins by a `World` in WORLDS: how to make its transport, and links that can be cut.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from cluster.sim.network import Network
from cluster.sim.transport import SimTransport
from engine.errors import (
    BY_NAME,
    ConfigError,
    DeadlineExceeded,
    ProtocolError,
    SextetError,
    StaleEpoch,
    Unavailable,
)
from engine.faults.transport import FaultyTransport
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import APPEND, EXPORT, GOSSIP, IMPORT
from engine.net.pb import instance_pb2 as ipb
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Handlers, Method, Server, Stream, Transport
from tests.support.faulty import Faults
from tests.support.relay import Relay

LONG_S = 10.0
"""A bound on what should be over long before."""

Request = pb.GossipRequest
Reply = pb.GossipReply


class Link(Protocol):
    @property
    def address(self) -> str: ...

    async def cut(self) -> None: ...

    async def mend(self) -> None: ...

    def freeze(self) -> None: ...


class World(Protocol):
    """One binding: `transport`, links to a server's address, and a clean end of all of them."""

    transport: Transport

    async def link(self, address: str) -> Link: ...

    async def close(self) -> None: ...


class GrpcWorld:
    def __init__(self) -> None:
        self.transport: Transport = GrpcTransport()
        self._links: list[Relay] = []

    async def link(self, address: str) -> Link:
        relay = Relay(address)
        await relay.mend()
        self._links.append(relay)
        return relay

    async def close(self) -> None:
        for relay in self._links:
            await relay.cut()


class FaultyWorld(GrpcWorld):
    """gRPC with a network on which faults could be, and none is."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._faults = Faults(Path(self._folder.name))
        self._there = FaultyTransport(GrpcTransport("there"), self._faults.watch("there"))
        self._here = FaultyTransport(GrpcTransport("here"), self._faults.watch("here"))
        self.transport = self
        self.prepare()

    def prepare(self) -> None:
        """Nothing is wrong."""

    async def serve(self, address: str, handlers: Handlers) -> Server:
        return await self._there.serve(address, handlers)

    def connect(self, address: str) -> Channel:
        return self._here.connect(address)

    async def close(self) -> None:
        await super().close()
        self._folder.cleanup()


class SlowWorld(FaultyWorld):
    """Every message is a little late, and so read ahead."""

    def prepare(self) -> None:
        self._faults.begin("slow-net", "there", params=(("latency_s", 0.001),))


class SimLink:
    """Servers are on host "there", callers on "here"; the link is the path between the two."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def cut(self) -> None:
        self._network.refusing.add(self._address)
        self._network.reset_between("here", "there")
        for _ in range(3):
            await asyncio.sleep(0)

    async def mend(self) -> None:
        self._network.refusing.discard(self._address)
        self._network.mend("here", "there")
        self._network.mend("there", "here")

    def freeze(self) -> None:
        self._network.cut("here", "there")
        self._network.cut("there", "here")


class SimWorld:
    """The simulated transport on an ordinary loop: servers on one host, callers on another."""

    def __init__(self) -> None:
        self._network = Network(random.Random(1))
        self._there = SimTransport(self._network, "there")
        self._here = SimTransport(self._network, "here")
        self.transport: Transport = self

    async def serve(self, address: str, handlers: Handlers) -> Server:
        return await self._there.serve(address, handlers)

    def connect(self, address: str) -> Channel:
        return self._here.connect(address)

    async def link(self, address: str) -> Link:
        return SimLink(self._network, address)

    async def close(self) -> None:
        """Nothing is left behind."""


WORLDS: list[Callable[[], World]] = [GrpcWorld, FaultyWorld, SlowWorld, SimWorld]


class Net:
    """A world whose servers and channels end with the test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._servers: list[Server] = []
        self._channels: list[Channel] = []

    async def serve(self, handlers: Handlers, address: str = "127.0.0.1:0") -> Server:
        server = await self.world.transport.serve(address, handlers)
        self._servers.append(server)
        return server

    def connect(self, address: str) -> Channel:
        channel = self.world.transport.connect(address)
        self._channels.append(channel)
        return channel

    async def channel_to(self, handlers: Handlers) -> Channel:
        return self.connect((await self.serve(handlers)).address)

    async def link_to(self, handlers: Handlers) -> tuple[Link, Channel]:
        link = await self.world.link((await self.serve(handlers)).address)
        return link, self.connect(link.address)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for server in self._servers:
            await server.stop(0)
        await self.world.close()


@pytest.fixture(params=WORLDS, ids=lambda kind: kind.__name__)
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    net = Net(request.param())
    yield net
    await net.close()


async def echo(request: Request) -> Reply:
    return Reply(segments=request.segments)


def asking(number: int) -> Request:
    return Request(segments=[pb.GossipSegment(scl=number)])


async def ask(channel: Channel, number: int = 7, timeout: float = LONG_S) -> int:
    reply = await channel.call(GOSSIP, asking(number), timeout=timeout)
    return reply.segments[0].scl


async def everything(stream: Stream[Any, Any]) -> list[Any]:
    found = []
    while (message := await stream.recv()) is not None:
        found.append(message)
    return found


class Ends:
    """A handler that takes all its stream's messages and says how it ended."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.how: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, stream: Stream[Any, Any]) -> Any:
        try:
            while await stream.recv() is not None:
                self.first.set()
        except asyncio.CancelledError:
            self.how.set_result("cancelled")
            raise
        except Unavailable:
            self.how.set_result("unavailable")
            raise
        self.how.set_result("clean end")
        return ipb.ImportReply(commit_lsn=1)


# -- the four kinds


async def test_unary_call_returns_the_handlers_reply(net: Net) -> None:
    assert await ask(await net.channel_to({GOSSIP: echo}), 42) == 42


async def test_server_stream_gives_every_message_and_then_none_for_good(net: Net) -> None:
    async def export(_request: ipb.ExportRequest, stream: Stream[Any, Any]) -> None:
        for n in range(100):
            await stream.send(ipb.ExportChunk(read_lsn=n))

    stream = (await net.channel_to({EXPORT: export})).stream(EXPORT, ipb.ExportRequest())
    assert [chunk.read_lsn for chunk in await everything(stream)] == list(range(100))
    assert await stream.recv() is None


async def test_empty_server_stream_is_a_clean_end(net: Net) -> None:
    async def export(_request: ipb.ExportRequest, _stream: Stream[Any, Any]) -> None:
        return

    channel = await net.channel_to({EXPORT: export})
    assert await channel.stream(EXPORT, ipb.ExportRequest()).recv() is None


async def test_client_stream_gives_every_message_then_none_and_one_reply(net: Net) -> None:
    async def take(stream: Stream[Any, Any]) -> ipb.ImportReply:
        chunks = await everything(stream)
        assert await stream.recv() is None
        return ipb.ImportReply(redo_bytes=sum(len(chunk.pages) for chunk in chunks))

    channel = await net.channel_to({IMPORT: take})
    stream = channel.stream(IMPORT)
    for n in range(50):
        await stream.send(ipb.ImportChunk(pages=bytes(n)))
    await stream.done_sending()
    assert (await channel.collect(IMPORT, stream)).redo_bytes == sum(range(50))


async def test_an_empty_message_is_a_message_and_no_end(net: Net) -> None:
    async def take(stream: Stream[Any, Any]) -> ipb.ImportReply:
        return ipb.ImportReply(redo_bytes=len(await everything(stream)))

    channel = await net.channel_to({IMPORT: take})
    stream = channel.stream(IMPORT)
    for _ in range(3):
        await stream.send(ipb.ImportChunk())
    await stream.done_sending()
    assert (await channel.collect(IMPORT, stream)).redo_bytes == 3


async def acks(stream: Stream[Any, Any]) -> None:
    while (request := await stream.recv()) is not None:
        await stream.send(pb.AppendAck(epoch=request.epoch))


async def test_both_streaming_answers_while_it_is_being_asked(net: Net) -> None:
    stream = (await net.channel_to({APPEND: acks})).stream(APPEND)
    for n in range(1, 20):
        await stream.send(pb.AppendRequest(epoch=n))
        ack = await stream.recv()
        assert ack is not None
        assert ack.epoch == n
    await stream.done_sending()
    assert await stream.recv() is None


async def test_one_task_sends_while_another_receives(net: Net) -> None:
    stream = (await net.channel_to({APPEND: acks})).stream(APPEND)

    async def send_all() -> None:
        for n in range(500):
            await stream.send(pb.AppendRequest(epoch=n))
        await stream.done_sending()

    _, received = await asyncio.gather(send_all(), everything(stream))
    assert [ack.epoch for ack in received] == list(range(500))


async def test_server_may_end_a_stream_before_the_caller_has_finished(net: Net) -> None:
    async def one_only(stream: Stream[Any, Any]) -> None:
        await stream.recv()
        await stream.send(pb.AppendAck(epoch=1))

    stream = (await net.channel_to({APPEND: one_only})).stream(APPEND)
    await stream.send(pb.AppendRequest())
    assert len(await everything(stream)) == 1
    with pytest.raises(Unavailable):
        await stream.send(pb.AppendRequest())
    await stream.done_sending()  # too late, and no error


async def test_a_hundred_streams_at_once_do_not_mix(net: Net) -> None:
    channel = await net.channel_to({APPEND: acks})

    async def one(number: int) -> list[int]:
        stream = channel.stream(APPEND)
        got = []
        for _ in range(5):
            await stream.send(pb.AppendRequest(epoch=number))
            ack = await stream.recv()
            assert ack is not None
            got.append(ack.epoch)
        await stream.done_sending()
        assert await stream.recv() is None
        return got

    assert await asyncio.gather(*map(one, range(100))) == [[n] * 5 for n in range(100)]


async def test_messages_of_ten_mebibytes_both_ways(net: Net) -> None:
    big = bytes(range(256)) * (10 * 4096)

    async def swap(request: Request) -> Reply:
        assert request.node == "x" * len(big)
        return Reply(volumes=[pb.GossipVolume(epoch=len(request.node))])

    async def export(_request: ipb.ExportRequest, stream: Stream[Any, Any]) -> None:
        await stream.send(ipb.ExportChunk(pages=big))

    channel = await net.channel_to({GOSSIP: swap, EXPORT: export})
    reply = await channel.call(GOSSIP, Request(node="x" * len(big)), timeout=LONG_S)
    assert reply.volumes[0].epoch == len(big)
    (chunk,) = await everything(channel.stream(EXPORT, ipb.ExportRequest()))
    assert chunk.pages == big


async def test_sending_waits_for_a_receiver_that_does_not_read(net: Net) -> None:
    sent = 0
    chunk = ipb.ExportChunk(pages=bytes(256 * 1024))

    async def export(_request: ipb.ExportRequest, stream: Stream[Any, Any]) -> None:
        nonlocal sent
        for _ in range(400):
            await stream.send(chunk)
            sent += 1

    channel = await net.channel_to({EXPORT: export, GOSSIP: echo})
    stream = channel.stream(EXPORT, ipb.ExportRequest())
    assert await stream.recv() is not None
    for n in range(50):  # the server is alive and has had its turns
        await ask(channel, n + 1)
    assert sent < 200, "100 MiB were taken in without a reader"
    assert len(await everything(stream)) == 399


# -- errors


@pytest.mark.parametrize("name", sorted(BY_NAME))
async def test_every_error_arrives_as_itself(net: Net, name: str) -> None:
    async def refuse(_request: Request) -> Reply:
        raise BY_NAME[name]("LSN 17: it's gone — über")

    channel = await net.channel_to({GOSSIP: refuse})
    with pytest.raises(SextetError, match="LSN 17: it's gone — über") as caught:
        await ask(channel)
    assert type(caught.value) is BY_NAME[name]


async def send_for_ever(stream: Stream[Any, Any], message: Any) -> None:
    while True:
        await stream.send(message)


async def fail_at(stream: Stream[Any, Any]) -> Any:
    await stream.recv()
    raise StaleEpoch("fenced at 9")


async def test_error_in_a_both_way_stream_reaches_receiver_and_sender(net: Net) -> None:
    stream = (await net.channel_to({APPEND: fail_at})).stream(APPEND)
    await stream.send(pb.AppendRequest())
    with pytest.raises(StaleEpoch, match="fenced at 9"):
        await stream.recv()
    with pytest.raises(StaleEpoch, match="fenced at 9"):
        await stream.send(pb.AppendRequest())


async def test_error_in_a_client_stream_reaches_sender_and_collector(net: Net) -> None:
    channel = await net.channel_to({IMPORT: fail_at})
    stream = channel.stream(IMPORT)
    with pytest.raises(StaleEpoch, match="fenced at 9"):
        await send_for_ever(stream, ipb.ImportChunk(pages=bytes(1000)))
    await stream.done_sending()
    with pytest.raises(StaleEpoch, match="fenced at 9"):
        await channel.collect(IMPORT, stream)


async def test_busy_sender_and_receiver_both_see_the_error_and_not_that_sending_failed(
    net: Net,
) -> None:
    """Many times: it is a race between the error's arrival and the next send."""
    channel = await net.channel_to({APPEND: fail_at})
    for _ in range(50):
        stream = channel.stream(APPEND)
        receiving = asyncio.ensure_future(stream.recv())
        with pytest.raises(StaleEpoch, match="fenced at 9"):
            await send_for_ever(stream, pb.AppendRequest())
        with pytest.raises(StaleEpoch, match="fenced at 9"):
            await receiving


async def test_busy_sender_sees_the_end_of_its_stream_and_the_receiver_a_clean_one(
    net: Net,
) -> None:
    async def one_only(stream: Stream[Any, Any]) -> None:
        await stream.recv()

    channel = await net.channel_to({APPEND: one_only})
    for _ in range(50):
        stream = channel.stream(APPEND)
        receiving = asyncio.ensure_future(stream.recv())
        with pytest.raises(Unavailable):
            await send_for_ever(stream, pb.AppendRequest())
        assert await receiving is None


async def test_busy_sender_and_receiver_see_the_peers_death_as_unavailable(net: Net) -> None:
    server = await net.serve({APPEND: acks})
    link = await net.world.link(server.address)
    for _ in range(20):
        channel = net.world.transport.connect(link.address)
        stream = channel.stream(APPEND)
        await stream.send(pb.AppendRequest())
        await stream.recv()
        receiving = asyncio.ensure_future(everything(stream))
        sending = asyncio.ensure_future(send_for_ever(stream, pb.AppendRequest()))
        await link.cut()
        for waiting in (sending, receiving):
            with pytest.raises(Unavailable):
                await waiting
        await channel.close()
        await link.mend()


async def test_error_in_a_server_stream_follows_what_was_sent(net: Net) -> None:
    go_on = asyncio.Event()

    async def export(_request: ipb.ExportRequest, stream: Stream[Any, Any]) -> None:
        await stream.send(ipb.ExportChunk(read_lsn=1))
        await go_on.wait()
        raise StaleEpoch("fenced at 9")

    stream = (await net.channel_to({EXPORT: export})).stream(EXPORT, ipb.ExportRequest())
    assert await stream.recv() is not None
    go_on.set()
    with pytest.raises(StaleEpoch, match="fenced at 9"):
        await stream.recv()


async def test_a_bug_is_logged_there_and_a_protocol_error_here(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(_request: Request) -> Reply:
        raise KeyError("no such thing")

    channel = await net.channel_to({GOSSIP: buggy})
    with pytest.raises(ProtocolError, match=r"internal error in .*Gossip: KeyError") as caught:
        await ask(channel)
    assert type(caught.value) is ProtocolError
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_a_reply_of_the_wrong_type_is_a_bug(net: Net) -> None:
    async def wrong(_request: Request) -> Any:
        return None

    channel = await net.channel_to({GOSSIP: wrong})
    with pytest.raises(ProtocolError, match="NoneType"):
        await ask(channel)


async def test_method_that_is_not_served_is_a_protocol_error(net: Net) -> None:
    channel = await net.channel_to({GOSSIP: echo})
    with pytest.raises(ProtocolError):
        await channel.stream(EXPORT, ipb.ExportRequest()).recv()


async def test_a_request_is_given_exactly_for_server_streams(net: Net) -> None:
    channel = await net.channel_to({GOSSIP: echo})
    with pytest.raises(TypeError):
        channel.stream(EXPORT)
    with pytest.raises(TypeError):
        channel.stream(APPEND, pb.AppendRequest())


# -- time


def hanging() -> tuple[asyncio.Event, asyncio.Event, Callable[[Any], Awaitable[Any]]]:
    """(started, cancelled, a unary handler that never answers)"""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_request: Any) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    return started, cancelled, hang


async def test_deadline_ends_the_call_and_its_handler(net: Net) -> None:
    _, cancelled, hang = hanging()
    channel = await net.channel_to({GOSSIP: hang})
    with pytest.raises(DeadlineExceeded):
        await ask(channel, timeout=0.1)
    await cancelled.wait()


async def test_cancelled_caller_sees_its_cancellation_and_so_does_the_handler(net: Net) -> None:
    started, cancelled, hang = hanging()
    channel = await net.channel_to({GOSSIP: hang})
    caller = asyncio.ensure_future(ask(channel))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await cancelled.wait()


async def test_cancelled_receiver_sees_its_cancellation_and_drops_the_stream(net: Net) -> None:
    handler = Ends()
    stream = (await net.channel_to({APPEND: handler})).stream(APPEND)
    await stream.send(pb.AppendRequest())
    await handler.first.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.recv()
    assert await handler.how != "clean end"
    with pytest.raises(Unavailable):
        await stream.recv()


# -- closing on this side


async def test_closed_stream_is_unavailable_here_and_no_clean_end_there(net: Net) -> None:
    handler = Ends()
    stream = (await net.channel_to({APPEND: handler})).stream(APPEND)
    await stream.send(pb.AppendRequest())
    await handler.first.wait()
    waiting = asyncio.ensure_future(stream.recv())
    await asyncio.sleep(0)
    stream.close()
    stream.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await stream.recv()
    with pytest.raises(Unavailable):
        await stream.send(pb.AppendRequest())
    await stream.done_sending()
    assert await handler.how != "clean end"


async def test_closing_a_stream_that_never_connected(net: Net) -> None:
    server = await net.serve({APPEND: acks})
    await server.stop(0)
    stream = net.connect(server.address).stream(APPEND)
    stream.close()
    with pytest.raises(Unavailable):
        await stream.recv()


async def test_closed_channel_ends_its_calls_and_takes_no_more(net: Net) -> None:
    started, cancelled, hang = hanging()
    channel = await net.channel_to({GOSSIP: hang, APPEND: acks})
    stream = channel.stream(APPEND)
    receiving = asyncio.ensure_future(stream.recv())
    calling = asyncio.ensure_future(ask(channel))
    await started.wait()
    await channel.close()
    await channel.close()
    for waiting in (calling, receiving):
        with pytest.raises(Unavailable):
            await waiting
    await cancelled.wait()
    with pytest.raises(Unavailable):
        await ask(channel)
    with pytest.raises(Unavailable):
        await channel.stream(APPEND).recv()


# -- a peer that goes away


async def test_nobody_listening_is_unavailable_at_once(net: Net) -> None:
    server = await net.serve({GOSSIP: echo})
    await server.stop(0)
    channel = net.connect(server.address)
    async with asyncio.timeout(LONG_S / 2):
        with pytest.raises(Unavailable) as caught:
            await ask(channel)
        assert not isinstance(caught.value, DeadlineExceeded)
        with pytest.raises(Unavailable):
            await channel.stream(APPEND).recv()
        with pytest.raises(Unavailable):
            await channel.stream(EXPORT, ipb.ExportRequest()).recv()


async def test_peer_that_dies_during_a_call_is_unavailable_before_the_deadline(net: Net) -> None:
    started, cancelled, hang = hanging()
    link, channel = await net.link_to({GOSSIP: hang})
    caller = asyncio.ensure_future(ask(channel))
    await started.wait()
    await link.cut()
    with pytest.raises(Unavailable) as caught:
        await caller
    assert not isinstance(caught.value, DeadlineExceeded)
    await cancelled.wait()


async def test_silent_peer_costs_the_deadline_and_no_more(net: Net) -> None:
    link, channel = await net.link_to({GOSSIP: echo})
    assert await ask(channel, 1) == 1
    link.freeze()
    with pytest.raises(DeadlineExceeded):
        await ask(channel, 2, timeout=0.1)
    await link.mend()
    assert await ask(channel, 3) == 3


async def test_peer_that_dies_ends_streams_on_both_sides_as_unavailable(net: Net) -> None:
    handler = Ends()
    link, channel = await net.link_to({APPEND: handler})
    stream = channel.stream(APPEND)
    await stream.send(pb.AppendRequest())
    await handler.first.wait()
    receiving = asyncio.ensure_future(stream.recv())
    await link.cut()
    with pytest.raises(Unavailable):
        await receiving
    with pytest.raises(Unavailable):
        await stream.send(pb.AppendRequest())
    assert await handler.how != "clean end"


@pytest.mark.parametrize("method", [IMPORT, APPEND], ids=lambda method: method.name)
@pytest.mark.parametrize("how", ["cut", "close", "close channel"])
async def test_half_a_stream_never_looks_like_a_whole_one(
    net: Net, method: Method[Any, Any], how: str
) -> None:
    """Many times, because what betrays it is a race between two notices of the caller's death."""
    server = await net.serve({method: lambda stream: handler(stream)})
    link = await net.world.link(server.address)
    for _ in range(40):
        handler = Ends()
        channel = net.world.transport.connect(link.address)
        stream = channel.stream(method)
        await stream.send(method.request())
        await handler.first.wait()
        if how == "cut":
            await link.cut()
            await link.mend()
        elif how == "close":
            stream.close()
        else:
            await channel.close()
        assert await handler.how != "clean end"
        await channel.close()


async def test_sending_after_the_caller_has_gone_ends_too(net: Net) -> None:
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    started = asyncio.Event()

    async def send_on_and_on(stream: Stream[Any, Any]) -> None:
        started.set()
        try:
            await send_for_ever(stream, pb.AppendAck())
        except (asyncio.CancelledError, Unavailable) as error:
            outcome.set_result(type(error).__name__)
            raise

    stream = (await net.channel_to({APPEND: send_on_and_on})).stream(APPEND)
    await started.wait()
    assert await stream.recv() is not None
    stream.close()
    assert await outcome in ("CancelledError", "Unavailable")


async def answers_again(channel: Channel) -> int:
    """Ask until the peer is back, as often as a caller with a little patience would."""
    while True:
        try:
            return await ask(channel, 5)
        except Unavailable:
            await asyncio.sleep(0.02)


async def test_channel_finds_a_server_restarted_on_the_same_port(net: Net) -> None:
    server = await net.serve({GOSSIP: echo})
    channel = net.connect(server.address)
    assert await ask(channel, 1) == 1
    for _ in range(3):
        await server.stop(0)
        with pytest.raises(Unavailable):
            await ask(channel, 2)
        server = await net.serve({GOSSIP: echo}, server.address)
        async with asyncio.timeout(LONG_S):
            assert await answers_again(channel) == 5


async def test_channel_finds_its_peer_again_after_a_cut(net: Net) -> None:
    link, channel = await net.link_to({GOSSIP: echo, APPEND: acks})
    assert await ask(channel, 1) == 1
    await link.cut()
    with pytest.raises(Unavailable):
        await ask(channel, 2)
    await link.mend()
    async with asyncio.timeout(LONG_S):
        assert await answers_again(channel) == 5
    stream = channel.stream(APPEND)
    await stream.send(pb.AppendRequest(epoch=3))
    ack = await stream.recv()
    assert ack is not None
    stream.close()


# -- servers


async def test_taken_port_is_a_config_error_that_names_it(net: Net) -> None:
    server = await net.serve({GOSSIP: echo})
    port = server.address.rpartition(":")[2]
    with pytest.raises(ConfigError, match=rf"port {port} is taken .* choose another port"):
        await net.serve({GOSSIP: echo}, server.address)
    assert await ask(net.connect(server.address), 3) == 3


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:", "127.0.0.1:99999", ":1", "a:b"])
async def test_an_address_that_is_none_is_a_config_error(net: Net, address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        await net.serve({GOSSIP: echo}, address)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        net.connect(address)


async def test_stopping_lets_a_running_call_finish_within_its_grace(net: Net) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Reply:
        started.set()
        await finish.wait()
        return await echo(request)

    server = await net.serve({GOSSIP: slow})
    caller = asyncio.ensure_future(ask(net.connect(server.address), 8))
    await started.wait()
    stopping = asyncio.ensure_future(server.stop(LONG_S))
    await asyncio.sleep(0)
    finish.set()
    assert await caller == 8
    await stopping
    await server.stop()


async def test_stopping_cancels_what_outlasts_its_grace(net: Net) -> None:
    started, cancelled, hang = hanging()
    server = await net.serve({GOSSIP: hang})
    caller = asyncio.ensure_future(ask(net.connect(server.address)))
    await started.wait()
    await server.stop(0.05)
    with pytest.raises(Unavailable):
        await caller
    await cancelled.wait()
