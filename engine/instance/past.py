"""Which commit of the past a session is to read, asked of the control plane, which asks storage nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.errors import ConfigError, SnapshotTooOld
from engine.moments import Moment
from engine.net.methods import COMMIT_AT
from engine.net.pb import control_pb2 as cpb
from engine.types import CommitMark
from engine.volume.channels import Channels
from engine.volume.fencing import commit_from_pb

TIMEOUT_S = 20.0
"""Longer than the control plane itself waits for a writer and for storage nodes."""


def commit_at(
    channels: Channels, control_address: str, cluster: str
) -> Callable[[Moment], Awaitable[CommitMark]]:
    """Raises SnapshotTooOld outside the hot window, naming it, and Unavailable if it is not known now."""

    async def ask(moment: Moment) -> CommitMark:
        request = cpb.CommitAtRequest(
            cluster=cluster, at_lsn=moment.lsn or 0, at_time_us=moment.time_us or 0
        )
        try:
            reply = await channels.to(control_address).call(COMMIT_AT, request, timeout=TIMEOUT_S)
        except ConfigError as error:
            raise SnapshotTooOld(str(error)) from error
        return commit_from_pb(reply.commit)

    return ask
