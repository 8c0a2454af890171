"""What one quorum round costs without a database: a message to six processes, and four answers.

    python -m benchmarks.ladder.echo node [FOLDER]
    python -m benchmarks.ladder.echo call SECONDS PID@ADDRESS...

A node answers each message of an open Append stream at once, with FOLDER once the message's 300 bytes are
on its disk; it prints its address. The caller has a task that sends and one that receives for each node,
as a writer does, and begins a round when four have answered the one before. It prints a `Rounds`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.ladder.process import HOST, process
from benchmarks.procfs import cpu_s
from engine.net.disk import OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import APPEND
from engine.net.pb import storage_pb2 as pb
from engine.net.process import run_node
from engine.ports import Stream

NODES, QUORUM = 6, 4
FRAME_BYTES = 300
WARM_UP_ROUNDS = 200

REQUEST = pb.AppendRequest(volume=1, epoch=1, vdl=1, pgmrpl=1)
REQUEST.pgs.add(pg=0, membership_epoch=1, frames=os.urandom(FRAME_BYTES))
ACK = pb.AppendAck(epoch=1)
ACK.segments.add(pg=0, scl=1, membership_epoch=1)

CallerStream = Stream[pb.AppendRequest, pb.AppendAck]
NodeStream = Stream[pb.AppendAck, pb.AppendRequest]


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many in so many seconds, and what all seven processes spent on them."""

    rounds: int
    seconds: float
    cpu_s: float


def measure(seconds: float, folder: Path | None = None) -> Rounds:
    """Seven processes for the length of it; with `folder` each of six has its log in there."""
    with ExitStack() as stack:
        nodes = []
        for number in range(NODES):
            where = [] if folder is None else [folder / str(number)]
            pid, address = stack.enter_context(process(__name__, "node", *where))
            nodes.append(f"{pid}@{address}")
        _, line = stack.enter_context(process(__name__, "call", seconds, *nodes))
        return Rounds(**json.loads(line))


async def node(folder: str | None, stop: asyncio.Event) -> None:
    file = None if folder is None else OsDisk(Path(folder)).open_append("log")

    async def append(stream: NodeStream) -> None:
        while (request := await stream.recv()) is not None:
            if file is not None:
                file.append(request.pgs[0].frames)
                await file.sync()
            await stream.send(ACK)

    server = await GrpcTransport().serve(f"{HOST}:0", {APPEND: append})
    print(server.address, flush=True)
    await stop.wait()
    await server.stop()


class Caller:
    """One round at a time over streams that stay open."""

    def __init__(self, streams: Sequence[CallerStream]) -> None:
        self.rounds = 0
        self._streams = streams
        self._answered = [0] * len(streams)
        self._wake = [asyncio.Event() for _ in streams]
        self._reached = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Tasks, to be cancelled at the end; one that fails ends the group."""
        return [
            group.create_task(work(number, stream))
            for number, stream in enumerate(self._streams)
            for work in (self._send_all, self._receive_all)
        ]

    async def round(self) -> None:
        self.rounds += 1
        self._reached.clear()
        for wake in self._wake:
            wake.set()
        await self._reached.wait()

    async def _send_all(self, number: int, stream: CallerStream) -> None:
        sent = 0
        while True:
            await self._wake[number].wait()
            self._wake[number].clear()
            while sent < self.rounds:
                sent += 1
                await stream.send(REQUEST)

    async def _receive_all(self, number: int, stream: CallerStream) -> None:
        while await stream.recv() is not None:
            self._answered[number] += 1
            if sorted(self._answered)[-QUORUM] == self.rounds:
                self._reached.set()


async def call(seconds: float, nodes: Sequence[str], stop: asyncio.Event) -> None:
    pids = [os.getpid(), *(int(node.partition("@")[0]) for node in nodes)]
    transport = GrpcTransport()
    channels = [transport.connect(node.partition("@")[2]) for node in nodes]
    caller = Caller([channel.stream(APPEND) for channel in channels])
    async with asyncio.TaskGroup() as group:
        tasks = caller.start(group)
        for _ in range(WARM_UP_ROUNDS):
            await caller.round()
        first, spent, began = caller.rounds, sum(map(cpu_s, pids)), time.perf_counter()
        while (took := time.perf_counter() - began) < seconds and not stop.is_set():
            await caller.round()
        found = Rounds(caller.rounds - first, took, sum(map(cpu_s, pids)) - spent)
        for task in tasks:
            task.cancel()
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "node":
        run_node(partial(node, sys.argv[2] if len(sys.argv) > 2 else None), name="echo")
    else:
        run_node(partial(call, float(sys.argv[2]), sys.argv[3:]), name="echo caller")
