"""A VDL heard from a peer counts only with the truncations that it rests on."""

from __future__ import annotations

from engine.types import LAL
from tests.storage.harness import VOLUME, Log, Node


async def test_a_fenced_node_takes_no_vdl_from_a_list_it_has_not_got(node: Node, make) -> None:  # type: ignore[no-untyped-def]
    """It missed recovery 2, holds what that annulled, and is fenced by recovery 3. A peer's VDL lies
    above the annulled records; had it been believed, they would have become page versions."""
    log = Log()
    await node.append(*log.frames(3), vdl=log.last)
    vdl = log.last
    kept = log.truncated(vdl, 2)
    await node.append(*log.frames(3))  # never durable
    peer = await make("peer", name="storage-2")
    await peer.assign(pgs=(0, 1))
    await peer.fence(2)
    await peer.truncate(2, (2, vdl, vdl + LAL))
    [ahead] = [kept.commit([3000])]
    await peer.append(pg_frame := ahead[1], epoch=2, vdl=kept.last)
    assert pg_frame
    await node.fence(3)
    await node.gossip_with(peer)
    assert node.state.volume(VOLUME).points.vdl <= vdl
    await node.coalesce()
    assert node.segment().applied <= vdl
    await node.truncate(3, (2, vdl, vdl + LAL), (3, kept.last, kept.last + LAL))
    assert node.segment().scl == vdl
    for page in range(6):
        assert await node.read([page], vdl, epoch=3) == [log.page_at(page, vdl)]
