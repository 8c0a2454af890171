"""Is this writer still the volume's writer? Asked of storage, for reads that must not be of the past.

A newer writer fences a write quorum of every group before anything can be committed under its epoch, and
a fence is durable before its reply. So if a read quorum of one group answers under our epoch, then when
they were asked no newer writer had acknowledged anything: the two quorums have a node in common, which
would have refused. (The read index of consensus protocols, with fencing in the place of terms.)

The membership's epoch is asked as well: nodes that have left the group must not answer for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.config import VolumeConfig
from engine.errors import QuorumLost, SextetError, StaleEpoch, Unavailable
from engine.net.methods import APPEND
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Stream
from engine.tasks import end_all
from engine.types import LSN, Epoch, Membership, NodeId, VolumeId
from engine.volume.quorum import read_quorum


async def confirm_epoch(
    config: VolumeConfig,
    *,
    volume: VolumeId,
    epoch: Epoch,
    vdl: LSN,
    membership: Membership,
    connect: Callable[[str], Channel],
) -> None:
    """Returns once no newer writer can have committed before this was called.

    Raises StaleEpoch if one has fenced a node, QuorumLost if too few answer within `call_timeout_s`.
    """
    question = pb.AppendRequest(volume=volume, epoch=epoch, vdl=vdl)
    question.pgs.add(pg=membership.pg, membership_epoch=membership.epoch)  # no redo
    wanted = read_quorum(membership)
    asked = {
        asyncio.create_task(_ask(connect(m.address), question), name=f"epoch of {m.node}"): m.node
        for m in membership.voters
    }
    running = dict(asked)
    agreed: set[NodeId] = set()
    failures: dict[NodeId, str] = {}
    try:
        async with asyncio.timeout(config.call_timeout_s):
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda t: running[t]):
                    node = running.pop(task)
                    try:
                        task.result()
                    except StaleEpoch:
                        raise
                    except SextetError as error:
                        failures[node] = str(error)
                        continue
                    agreed.add(node)
                    if wanted.satisfied(agreed):
                        return
    except TimeoutError:
        failures |= dict.fromkeys(running.values(), "no answer")
    finally:
        await end_all(*asked)
    why = "; ".join(f"{node}: {failures[node]}" for node in sorted(failures))
    raise QuorumLost(f"no read quorum confirms that epoch {epoch} is the volume's: {why}")


async def _ask(channel: Channel, question: pb.AppendRequest) -> None:
    """Raises SextetError unless the node takes redo of this epoch and membership now."""
    stream: Stream[pb.AppendRequest, pb.AppendAck] = channel.stream(APPEND)
    try:
        await stream.send(question)
        ack = await stream.recv()
    finally:
        stream.close()
    if ack is None:
        raise Unavailable("it ended the stream")
    if ack.refusal == pb.REFUSAL_STALE_EPOCH:
        raise StaleEpoch(ack.detail)
    if ack.refusal != pb.REFUSAL_NONE:
        raise Unavailable(f"{pb.Refusal.Name(ack.refusal)} {ack.detail}")
