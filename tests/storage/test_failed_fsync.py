"""After a failed fsync: what the page cache still shows is not on the disk, and syncing it again lies."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from cluster.sim.disk import DiskImage, SimDisk
from cluster.sim.pagestore import SimPageStore
from engine.storage.pagestore_memory import MemoryPageStore
from tests.storage.harness import Log, Node, Writer


async def test_what_a_restarted_node_acks_survives_a_power_loss_although_an_fsync_had_failed(
    tmp_path: Path,
) -> None:
    medium, pages = DiskImage("storage-1", random.Random(1)), MemoryPageStore()

    async def start() -> Node:
        store = SimPageStore(pages, medium, random.Random(2), None)
        return await Node(tmp_path, disk=SimDisk(medium), store=store).open()

    node = await start()
    await node.assign()
    await node.fence(1)
    first, second = Log(3).frames(2)
    await node.append(first)
    medium.failing_syncs = 1
    writer = Writer(node)
    writer.send(second)
    await asyncio.wait({writer.task})
    assert node.stopped, "the node must end itself"
    assert writer.pipe.replies.empty(), "and ack nothing"

    again = await start()  # its supervisor starts it: the frame is still in the page cache
    held = again.segment().scl
    ack = await again.append()  # a greeting: how far do you reach?
    assert ack.segments[0].scl == held > 2
    medium.lose_power()

    last = await start()
    assert last.segment().scl == held
    assert not last.segment().row.damaged
