"""The gRPC binding alone: junk on its port, foreign clients, slow peers, processes that are killed.

What every transport promises is in tests/conformance/test_transport.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from engine.errors import Overloaded, ProtocolError, Unavailable
from engine.net import grpc_server
from engine.net.grpc_transport import GrpcTransport
from engine.net.grpc_wire import END, MESSAGE_BYTES_MAX, decoder, details_of, encode, error_of
from engine.net.methods import APPEND, GOSSIP, IMPORT, STORAGE_STATUS
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Handlers, Stream
from tests.support.relay import Relay

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@asynccontextmanager
async def serving(handlers: Handlers) -> AsyncIterator[tuple[str, Channel]]:
    """(address, a channel to it)"""
    transport = GrpcTransport()
    server = await transport.serve("127.0.0.1:0", handlers)
    channel = transport.connect(server.address)
    try:
        yield server.address, channel
    finally:
        await channel.close()
        await server.stop(0)


async def echo(request: pb.GossipRequest) -> pb.GossipReply:
    return pb.GossipReply(segments=request.segments)


async def acks(stream: Stream[Any, Any]) -> None:
    while (request := await stream.recv()) is not None:
        await stream.send(pb.AppendAck(epoch=request.epoch))


async def ask(channel: Channel, number: int = 7, timeout: float = 10) -> int:
    request = pb.GossipRequest(segments=[pb.GossipSegment(scl=number)])
    return (await channel.call(GOSSIP, request, timeout=timeout)).segments[0].scl


# -- junk


def junk() -> dict[str, bytes]:
    rng = random.Random(1)
    settings = b"\0\0\0\4\0\0\0\0\0"
    return {
        "nothing": b"",
        "random bytes": rng.randbytes(200),
        "half an HTTP/2 preface": HTTP2_PREFACE[:12],
        "a preface and nothing": HTTP2_PREFACE,
        "a preface and random frames": HTTP2_PREFACE + settings + rng.randbytes(4000),
        "a frame of 16 MiB announced": HTTP2_PREFACE + settings + b"\xff\xff\xff\0\0\0\0\0\1junk",
        "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "TLS hello": bytes.fromhex("16030100a5010000a10303") + rng.randbytes(160),
        "PostgreSQL start-up": b"\0\0\0\x16\0\3\0\0user\0postgres\0\0",
        "a mebibyte of junk": rng.randbytes(1024 * 1024),
    }


async def throw(address: str, data: bytes) -> None:
    """Send `data`, and wait until the other side hangs up or is seen to wait for more."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(0.2):
            while await reader.read(64 * 1024):
                pass
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


async def test_junk_on_the_port_disturbs_nobody_else() -> None:
    async with serving({GOSSIP: echo, APPEND: acks}) as (address, channel):
        stream = channel.stream(APPEND)
        throwing = asyncio.gather(*(throw(address, data) for data in junk().values()))
        n = 0
        while not throwing.done():
            n += 1
            assert await ask(channel, n) == n
            await stream.send(pb.AppendRequest(epoch=n))
            ack = await stream.recv()
            assert ack is not None
            assert ack.epoch == n
        await throwing
        assert await ask(channel, 1) == 1
        stream.close()


@asynccontextmanager
async def foreign(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A client that sends what it likes."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def test_bytes_that_are_no_request_are_refused_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving({GOSSIP: echo, APPEND: acks}) as (address, channel),
        foreign(address) as raw,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="3 bytes are no GossipRequest"):
            await raw.unary_unary(GOSSIP.path)(b"\xff\xff\xff")
        call = raw.stream_stream(APPEND.path)()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="3 bytes are no AppendRequest"):
            await call.read()
        assert await ask(channel) == 7
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_unknown_method_is_an_error_and_no_more() -> None:
    async with serving({GOSSIP: echo}) as (address, channel), foreign(address) as raw:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.unary_unary("/sextet.v1.Nothing/AtAll")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await ask(channel) == 7


async def test_stream_that_a_foreign_client_half_closes_is_no_clean_end() -> None:
    seen: list[str] = []

    async def take(stream: Stream[Any, Any]) -> None:
        try:
            seen.append(repr(await stream.recv()))
        except Unavailable as error:
            seen.append(str(error))
            raise

    async with serving({APPEND: take}) as (address, _), foreign(address) as raw:
        call = raw.stream_stream(APPEND.path)()
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="without ending its stream"):
            await call.read()
    assert seen == ["the caller went away without ending its stream"]


class ForeignServer(grpc.GenericRpcHandler):
    """Answers every call with bytes that are no message."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def unary(_request: bytes, _context: object) -> bytes:
            return b"\xff\xff\xff"

        async def stream(_requests: object, context: Any) -> None:
            await context.write(b"\xff\xff\xff")

        if details.method == APPEND.path:
            return grpc.stream_stream_rpc_method_handler(stream)
        if details.method == IMPORT.path:
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.unary_unary_rpc_method_handler(unary)


async def test_bytes_that_are_no_reply_are_a_protocol_error_and_no_end() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((ForeignServer(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = GrpcTransport().connect(f"127.0.0.1:{port}")
    with pytest.raises(ProtocolError, match="3 bytes are no GossipReply"):
        await ask(channel)
    with pytest.raises(ProtocolError, match="3 bytes are no AppendAck"):
        await channel.stream(APPEND).recv()
    taking = channel.stream(IMPORT)
    await taking.done_sending()
    with pytest.raises(ProtocolError, match="3 bytes are no ImportReply"):
        await channel.collect(IMPORT, taking)
    await channel.close()
    await server.stop(0)


# -- bounds


async def test_message_above_the_limit_is_refused_and_the_channel_goes_on() -> None:
    async with serving({GOSSIP: echo, APPEND: acks}) as (_, channel):
        huge = "x" * (MESSAGE_BYTES_MAX + 1)
        with pytest.raises(ProtocolError, match="larger than max"):
            await channel.call(GOSSIP, pb.GossipRequest(node=huge), timeout=10)
        assert await ask(channel) == 7


async def test_more_calls_than_the_server_takes_are_overloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_server, "CONCURRENT_RPCS_MAX", 2)
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def wait(_request: Any) -> pb.StorageStatusReply:
        arrived.release()
        await go_on.wait()
        return pb.StorageStatusReply()

    async with serving({STORAGE_STATUS: wait}) as (_, channel):

        def call() -> asyncio.Future[Any]:
            request = pb.StorageStatusRequest()
            return asyncio.ensure_future(channel.call(STORAGE_STATUS, request, timeout=10))

        running = [call(), call()]
        for _ in running:
            await arrived.acquire()
        with pytest.raises(Overloaded):
            await call()
        go_on.set()
        await asyncio.gather(*running)


# -- peers


async def test_peer_that_takes_long_to_answer_the_connection_is_waited_for() -> None:
    """gRPC's "reconnect backoff" is also its patience: too short, and a busy machine has no peers."""
    async with serving({GOSSIP: echo}) as (address, _):
        relay = Relay(address)
        await relay.mend()
        relay.freeze()
        channel = GrpcTransport().connect(relay.address)
        asking = asyncio.ensure_future(ask(channel, 3))
        done, _ = await asyncio.wait([asking], timeout=0.5)
        assert not done
        await relay.mend()
        assert await asking == 3
        await channel.close()
        await relay.cut()


SERVER = """
import asyncio, sys
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import APPEND, GOSSIP
from tests.net.test_grpc_transport import acks, echo

async def main():
    server = await GrpcTransport().serve(sys.argv[1], {GOSSIP: echo, APPEND: acks})
    print(server.address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_server(address: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_kill_9_of_the_server_process_and_its_return() -> None:
    process, address = await start_server("127.0.0.1:0")
    channel = GrpcTransport().connect(address)
    assert await ask(channel, 1) == 1
    stream = channel.stream(APPEND)
    await stream.send(pb.AppendRequest(epoch=1))
    assert await stream.recv() is not None
    receiving = asyncio.ensure_future(stream.recv())
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    with pytest.raises(Unavailable):
        await receiving
    with pytest.raises(Unavailable):
        await ask(channel, 2)
    process, again = await start_server(address)
    assert again == address
    async with asyncio.timeout(10):
        while True:
            try:
                assert await ask(channel, 3) == 3
                break
            except Unavailable:
                await asyncio.sleep(0.02)
    await channel.close()
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()


# -- the wire


def test_no_message_encodes_to_the_end_mark() -> None:
    mark = encode(END)
    assert decoder(pb.AppendRequest, "Append")(mark) is END
    with pytest.raises(Exception, match="parsing"):
        pb.AppendRequest.FromString(mark)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "NoSuchError: what", ProtocolError),
        (grpc.StatusCode.FAILED_PRECONDITION, "no class at all", ProtocolError),
        (grpc.StatusCode.FAILED_PRECONDITION, "KeyError: 'x'", ProtocolError),
        (grpc.StatusCode.UNKNOWN, "Unexpected", ProtocolError),
        (grpc.StatusCode.CANCELLED, "", Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max", ProtocolError),
    ],
)
def test_statuses_that_no_handler_of_ours_sends(
    code: grpc.StatusCode, details: str, kind: type[Exception]
) -> None:
    error = error_of(code, details, "Gossip at x")
    assert type(error) is kind
    assert "Gossip at x" in str(error)
    assert details in str(error)


async def test_very_long_message_of_an_error_is_cut_and_not_lost() -> None:
    async def refuse(_request: Any) -> Any:
        raise Overloaded("ü" * 100_000)

    assert len(details_of(Overloaded("ü" * 100_000))) <= 1000
    async with serving({GOSSIP: refuse}) as (_, channel):
        with pytest.raises(Overloaded, match=r"ü{900}"):
            await ask(channel)


async def test_a_cancelled_task_ends_cancelled_even_while_its_call_is_failing() -> None:
    """grpc.aio swallows a cancellation that meets a call which is starting and about to fail."""
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        port = refusing.getsockname()[1]
    rng = random.Random(1)
    cancelled = 0
    for _ in range(400):
        channel = GrpcTransport().connect(f"127.0.0.1:{port}")
        task = asyncio.create_task(channel.stream(APPEND).recv())
        await asyncio.sleep(rng.random() * 0.003)  # anywhere between start and failure
        if task.cancel():
            await asyncio.wait({task})
            assert task.cancelled(), task.exception()
            cancelled += 1
        else:
            assert isinstance(task.exception(), Unavailable)
        await channel.close()
    assert cancelled, "no call was met in flight"
