"""Faults at the ports, over the real transport and disk, in one process: what each does to node code."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DeadlineExceeded, DiskFailed, DiskFull
from engine.faults.disk import FaultyDisk
from engine.faults.effects import effects_path, read_effects
from engine.faults.transport import FaultyTransport
from engine.net.disk import OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import APPEND, GOSSIP
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Server, Stream
from tests.support.faulty import Faults
from tests.support.until import until

SHORT_S = 0.3
"""Long enough for a call on one machine, short enough to wait for in vain."""
LONG_S = 10.0


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path)


class Pair:
    """Node a calls node b, whose handlers note what has reached them."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.reached: list[int] = []
        self.server: Server
        self.a: Channel
        self.outside: Channel

    async def open(self) -> None:
        watches = {name: self.faults.watch(name) for name in ("a", "b")}
        there = FaultyTransport(GrpcTransport("b"), watches["b"])
        self.server = await there.serve("127.0.0.1:0", {GOSSIP: self._gossip, APPEND: self._append})
        self.faults.address("b", self.server.address)
        self.a = FaultyTransport(GrpcTransport("a"), watches["a"]).connect(self.server.address)
        self.outside = GrpcTransport().connect(self.server.address)

    async def close(self) -> None:
        await self.a.close()
        await self.outside.close()
        await self.server.stop(0)

    async def _gossip(self, request: pb.GossipRequest) -> pb.GossipReply:
        self.reached.append(request.segments[0].scl)
        return pb.GossipReply(segments=request.segments)

    async def _append(self, stream: Stream[pb.AppendAck, pb.AppendRequest]) -> None:
        while (request := await stream.recv()) is not None:
            self.reached.append(request.epoch)
            await stream.send(pb.AppendAck())

    async def ask(self, number: int, timeout: float, channel: Channel | None = None) -> None:
        request = pb.GossipRequest(segments=[pb.GossipSegment(scl=number)])
        await (channel or self.a).call(GOSSIP, request, timeout=timeout)


@pytest.fixture
async def pair(faults: Faults) -> AsyncIterator[Pair]:
    pair = Pair(faults)
    await pair.open()
    yield pair
    await pair.close()


# -- the network


async def test_a_partition_swallows_requests_and_lasts_until_it_is_healed(pair):
    fault = pair.faults.begin("partition", "a", peers=("b",))
    with pytest.raises(DeadlineExceeded):
        await pair.ask(1, SHORT_S)
    assert pair.reached == []
    await pair.ask(2, LONG_S, pair.outside)  # a third party is not concerned
    pair.faults.heal()
    await pair.ask(3, LONG_S)
    assert pair.reached == [2, 3]
    pair.faults.look()
    effects = read_effects(effects_path(pair.faults.path, "b")).by_fault
    assert effects[fault.id].count >= 1


async def test_one_way_from_caller_to_callee_nothing_is_done(pair):
    pair.faults.begin("one-way", "a", peers=("b",))
    with pytest.raises(DeadlineExceeded):
        await pair.ask(1, SHORT_S)
    assert pair.reached == []


async def test_one_way_from_callee_to_caller_it_is_done_and_not_told(pair):
    pair.faults.begin("one-way", "b", peers=("a",))
    with pytest.raises(DeadlineExceeded):
        await pair.ask(1, SHORT_S)
    assert pair.reached == [1]


async def test_an_isolated_node_answers_nobody(pair):
    pair.faults.begin("isolate", "b")
    for channel in (pair.a, pair.outside):
        with pytest.raises(DeadlineExceeded):
            await pair.ask(1, SHORT_S, channel)
    assert pair.reached == []


async def test_a_server_that_dies_behind_a_partition_is_not_heard_to_die(pair):
    pair.faults.begin("partition", "a", peers=("b",))
    asking = asyncio.ensure_future(pair.ask(1, 2.0))
    await until(lambda: pair.faults.path.exists() and not asking.done())
    await pair.server.stop(0)
    with pytest.raises(DeadlineExceeded):
        await asking


async def test_an_open_stream_falls_silent_and_goes_on_where_it_was(pair):
    stream = pair.a.stream(APPEND)
    await stream.send(pb.AppendRequest(epoch=1))
    assert await stream.recv() is not None
    pair.faults.begin("partition", "a", peers=("b",))
    for number in (2, 3):
        await stream.send(pb.AppendRequest(epoch=number))
    answer = asyncio.ensure_future(stream.recv())
    done, _ = await asyncio.wait({answer}, timeout=SHORT_S)
    assert not done
    assert pair.reached == [1]
    pair.faults.heal()
    assert await asyncio.wait_for(answer, LONG_S) is not None
    assert await asyncio.wait_for(stream.recv(), LONG_S) is not None
    assert pair.reached == [1, 2, 3]
    stream.close()


async def test_latency_costs_time_and_no_order(pair):
    stream = pair.a.stream(APPEND)
    await stream.send(pb.AppendRequest(epoch=0))
    assert await stream.recv() is not None  # it is in the middle of its work
    pair.faults.begin("slow-net", "b", params=(("latency_s", 0.05),))
    pair.faults.begin("drop", "a", params=(("share", 0.2),))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(1, 200):
        await stream.send(pb.AppendRequest(epoch=number))
        if number % 10 == 0:
            await asyncio.sleep(0)
    for _ in range(1, 200):
        await asyncio.wait_for(stream.recv(), 60)
    took = loop.time() - begun
    assert pair.reached == list(range(200))
    assert took >= 0.1, "two messages one after the other take two latencies"
    stream.close()


# -- the disk


async def test_a_failed_fsync_takes_its_bytes_and_happens_once_in_all_lives(faults, tmp_path):
    watch = faults.watch("n")
    disk = FaultyDisk(OsDisk(tmp_path / "n"), watch)
    file = disk.open_append("wal/1")
    file.append(b"kept")
    await file.sync()
    faults.begin("fail-fsync", "n")
    file.append(b"lost")
    with pytest.raises(DiskFailed):
        await file.sync()
    for refused in (lambda: file.append(b"x"), lambda: file.rewrite(0)):
        with pytest.raises(DiskFailed):
            refused()
    with pytest.raises(DiskFailed):
        await file.sync()
    file.close()
    again = FaultyDisk(OsDisk(tmp_path / "n"), faults.watch("n"))
    assert again.read("wal/1") == b"kept"
    file = again.open_append("wal/1")
    file.append(b"!")
    await file.sync()
    file.close()
    assert again.read("wal/1") == b"kept!"


async def test_a_full_disk_keeps_nothing_and_can_be_read(faults, tmp_path):
    disk = FaultyDisk(OsDisk(tmp_path / "n"), faults.watch("n"))
    file = disk.open_append("wal/1")
    file.append(b"kept")
    faults.begin("fill-disk", "n")
    for refused in (
        lambda: file.append(b"more"),
        lambda: disk.write_atomic("meta", b"x"),
        lambda: disk.open_append("wal/2"),
    ):
        with pytest.raises(DiskFull):
            refused()
    assert (disk.free_bytes(), disk.read("wal/1"), disk.list("wal")) == (0, b"kept", ["1"])
    faults.heal()
    file.append(b" again")
    await file.sync()
    file.close()
    assert disk.read("wal/1") == b"kept again"


# -- the process

CRASHING = """
import asyncio, sys
from pathlib import Path
from engine.faults.node import faulty
from engine.net.real import real_runtime
from engine.steps import Step
async def main():
    runtime = faulty(real_runtime(Path(sys.argv[2])), Path(sys.argv[1]), "n")
    for number in range(5):
        runtime.steps.before(Step.PERSIST)
        print(number, flush=True)
        runtime.steps.after(Step.PERSIST)
asyncio.run(main())
"""


@pytest.mark.parametrize(("when", "said"), [("before", "0\n1\n"), ("after", "0\n1\n2\n")])
def test_a_process_dies_at_its_step_the_nth_time_and_only_in_one_life(faults, tmp_path, when, said):
    faults.begin("kill", "n", step="persist", when=when, nth=3)

    def life() -> subprocess.CompletedProcess[Any]:
        arguments = [sys.executable, "-c", CRASHING, str(faults.path), str(tmp_path / "n")]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)

    first, second = life(), life()
    assert (first.returncode, first.stdout) == (-signal.SIGKILL, said)
    assert (second.returncode, second.stdout) == (0, "0\n1\n2\n3\n4\n"), second.stderr
