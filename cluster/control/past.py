"""Which commit of a volume was the last one at an LSN or a time, by the log that storage nodes still have.

It is walked backwards from the newest commit, by the back-links that each record has, so nothing can be
passed over: what is missing on the way is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.control.rows import ClusterRow
from engine.archive.restore import shown
from engine.archive.source import Forgotten, Source
from engine.errors import ConfigError, Unavailable
from engine.log.frame import RecordRef, index_frame
from engine.types import LSN, CommitMark, Membership
from engine.volume.channels import Channels

LOG_BYTES_MAX = 64 * 1024 * 1024
"""More log than that is not looked through."""

GROUP_BYTES_MIN = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Moment:
    """The last commit at or below an LSN, or made by a time (Unix microseconds), or the newest."""

    lsn: LSN | None = None
    time_us: int | None = None

    @property
    def newest(self) -> bool:
        return self.lsn is None and self.time_us is None

    def admits(self, commit: CommitMark) -> bool:
        if self.lsn is not None:
            return commit.lsn <= self.lsn
        return self.time_us is None or commit.time_us <= self.time_us


def walk_back(
    records: Iterable[RecordRef], newest: CommitMark, earliest: LSN, moment: Moment
) -> CommitMark:
    """The last commit in the log's order that `moment` admits, at or above `earliest`.

    `records`: all of the log from there to `newest`, in any order. Raises ConfigError, naming the window,
    if that commit lies before it, Unavailable if the log has a gap.
    """
    if moment.admits(newest):
        return newest
    known = {record.lsn: record for record in records}
    first, at = newest, newest.lsn
    while True:
        if at < max(1, earliest):
            raise ConfigError(
                f"storage nodes still have the states from LSN {first.lsn} ({shown(first.time_us)}) on, "
                f"the newest is LSN {newest.lsn} ({shown(newest.time_us)}); what is older only an archive "
                "has, see `sextet restore`"
            )
        record = known.get(at)
        if record is None:
            raise Unavailable(f"the log at LSN {at} cannot be had from storage nodes now")
        if record.commit is not None:
            first = record.commit
            if moment.admits(first):
                return first
        at = record.prev_lsn


class Past:
    """Asks storage nodes."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def commit_at(
        self,
        row: ClusterRow,
        memberships: Sequence[Membership],
        moment: Moment,
        newest: CommitMark,
        *,
        earliest: LSN,
    ) -> CommitMark:
        """Raises ConfigError, Unavailable, as `walk_back` does."""
        if moment.admits(newest):
            return newest
        source = Source(self._channels, row.volume, "control")
        source.memberships = {m.pg: m for m in memberships}
        standing = await source.look(0)
        share = max(GROUP_BYTES_MIN, LOG_BYTES_MAX // max(1, len(memberships)))
        records: list[RecordRef] = []
        after = max(0, earliest - 1)
        for membership in memberships:
            try:
                frames = await source.frames(
                    standing, membership.pg, after, newest.lsn, bytes_max=share
                )
            except Forgotten as error:
                raise Unavailable(str(error)) from error
            for frame in frames:
                records += index_frame(frame)
        return walk_back(records, newest, earliest, moment)
