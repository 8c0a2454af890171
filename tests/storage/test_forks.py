"""Clones' segments: what they read, when they are made, and what of others stays for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.storage.clones import CLONE, fork_of, fork_point, forked, shows
from tests.storage.harness import Log, Node

Make = Callable[..., Awaitable[Node]]


async def grown(node: Node, log: Log, count: int = 8) -> int:
    """`count` more commits, durable and known to be; the last one's LSN."""
    for frame in log.frames(count):
        await node.append(frame, volume=log.volume, epoch=log.epoch)
    await node.append(vdl=log.last, volume=log.volume, epoch=log.epoch)
    return log.last


async def told(node: Node, volume: int) -> None:
    """The clone's first writer has fenced the node."""
    await node.fence(1, volume=volume)


@pytest.mark.parametrize("coalesced", ["not at all", "below", "above", "to it"])
async def test_a_clone_reads_its_parent_at_the_fork_whatever_becomes_of_that(
    node: Node, coalesced: str
) -> None:
    log = Log()
    await grown(node, log)
    if coalesced == "below":
        await node.coalesce()
    await grown(node, log)
    if coalesced == "to it":
        await node.coalesce()
    at = log.last
    if coalesced == "above":
        await grown(node, log)
        await node.coalesce()
    clone = await forked(node, log, at)
    await told(node, CLONE)
    for _ in range(3):
        await shows(node, clone, at)
        await grown(node, log)
        await node.collect(vdl=log.last)
    await shows(node, clone, at)
    await shows(node, log, log.last)


async def test_both_go_their_own_ways_from_the_fork(node: Node) -> None:
    log = Log()
    at = await grown(node, log)
    clone = await forked(node, log, at)
    await told(node, CLONE)
    for _ in range(3):
        await grown(node, log, 5)
        await grown(node, clone, 3)
        await node.collect(vdl=log.last)
        await node.collect(vdl=clone.last, volume=CLONE)
        await shows(node, log, log.last)
        await shows(node, clone, clone.last)


async def test_a_fork_point_says_what_this_node_has(node: Node) -> None:
    log = Log()
    await grown(node, log)
    at = log.last
    await grown(node, log)
    (first, second) = await fork_point(node, at)
    assert (first.pg, first.tail, first.whole, first.floor) == (0, at, True, 0)
    assert (second.pg, second.tail, second.whole) == (1, 0, True)
    assert not await fork_point(node, at, volume=77)
    assert fork_of(log, at).tail == first.tail
