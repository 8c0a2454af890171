"""Clones in the harness: a segment forked from another volume's, and what it must read."""

from __future__ import annotations

from collections.abc import Sequence

from engine.net.methods import FORK_POINT
from engine.net.pb import storage_pb2 as pb
from tests.storage.harness import VOLUME, Group, Log, Node

SPAN = range(6)
CLONE = 2


def fork_of(log: Log, lsn: int, *, pg: int = 0) -> pb.Fork:
    """What the control plane says of a clone that forks from `log`'s volume at the commit `lsn`."""
    mark = log.mark(lsn)
    return pb.Fork(
        ancestry=[pb.Ancestor(volume=log.volume, lsn=lsn)],
        tail=log.tail(lsn, pg),
        commit=pb.CommitPoint(lsn=lsn, time_us=mark.time_us, pages=mark.pages),
    )


async def forked(
    node: Node, log: Log, lsn: int, *, volume: int = CLONE, pgs: Sequence[int] = (0,)
) -> Log:
    """The clone's log, once `node` has made its segments."""
    for pg in pgs:
        reply = await node.assign(volume=volume, pgs=(pg,), fork=fork_of(log, lsn, pg=pg))
        assert not reply.refused
    return log.cloned(lsn, volume)


async def forked_in(group: Group, log: Log, lsn: int, *, volume: int = CLONE) -> Log:
    """As `forked`, on all nodes of the group, which are fenced for the clone's first writer."""
    for node in group.nodes:
        reply = await node.assign(volume=volume, fork=fork_of(log, lsn), members=group.members)
        assert not reply.refused
        await node.fence(1, volume=volume)
    return log.cloned(lsn, volume)


async def fork_point(node: Node, lsn: int, *, volume: int = VOLUME) -> list[pb.ForkGroup]:
    reply = await node.call(FORK_POINT, pb.ForkPointRequest(volume=volume, lsn=lsn))
    assert reply.node == node.name
    return list(reply.groups)


async def shows(node: Node, log: Log, lsn: int, *, epoch: int = 1, pg: int = 0) -> None:
    """Every page of the node's segment of `log`'s volume is at `lsn` what the log says."""
    first = pg * 2560
    pages = range(first, first + len(SPAN))
    found = await node.read(
        pages, lsn, pg_lsn=log.tail(lsn, pg), epoch=epoch, volume=log.volume, pg=pg
    )
    assert found == [log.page_at(page, lsn) for page in pages]
