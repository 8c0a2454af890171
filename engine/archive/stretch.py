"""From frames that storage nodes gave to the next stretch of the volume's log. Pure.

A node may lack frames, give some twice, or some that lie behind a gap. The volume's chain of back-links
says what is complete: each record names the one before it, whatever its group. So nobody has to know which
node is complete in which group: what chains from where the archive ends is the log, as far as it chains.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.errors import Corrupt
from engine.log.frame import index_frame
from engine.log.header import read_header
from engine.types import LSN, CommitMark, PgNo


@dataclass(slots=True)
class _Known:
    """A record that was seen, and the frame that has it."""

    prev: LSN
    pg: PgNo
    commit: CommitMark | None
    frame: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """The log above `after` up to `upto`. `tails`: the last LSN of each group that has some."""

    after: LSN
    upto: LSN
    frames: tuple[bytes, ...]
    commits: tuple[CommitMark, ...]
    tails: dict[PgNo, LSN] = field(default_factory=dict)


def next_stretch(after: LSN, upto: LSN, frames: Iterable[bytes], *, bytes_max: int) -> Stretch:
    """What follows `after` in the log, at or below `upto`, a VDL; at most about `bytes_max`.

    `frames` are checked whole frames, in any order. Raises Corrupt if two frames contradict each other:
    then one of them is of a branch that a recovery cut off, and should not have been given.
    """
    given: list[bytes] = []
    known: dict[LSN, _Known] = {}
    for frame in dict.fromkeys(frames):
        pg = read_header(frame).pg
        for ref in index_frame(frame):
            if not after < ref.lsn <= upto:
                continue
            seen = known.get(ref.lsn)
            if seen is None:
                known[ref.lsn] = _Known(ref.prev_lsn, pg, ref.commit, len(given))
            elif (seen.prev, seen.pg, seen.commit) != (ref.prev_lsn, pg, ref.commit):
                raise Corrupt(f"two records have LSN {ref.lsn}: one of them never happened")
        given.append(frame)
    return _chain(after, given, known, bytes_max)


def _chain(after: LSN, given: list[bytes], known: dict[LSN, _Known], bytes_max: int) -> Stretch:
    at, size = after, 0
    taken: dict[int, None] = {}
    commits: list[CommitMark] = []
    tails: dict[PgNo, LSN] = {}
    for lsn in sorted(known):
        record = known[lsn]
        if record.prev != at:
            if record.prev < at:
                raise Corrupt(f"record {lsn} follows {record.prev}, and so does another one")
            break  # something is missing: the next round may bring it
        if record.frame not in taken:
            size += len(given[record.frame])
            if size > bytes_max and taken:
                break
            taken[record.frame] = None
        at = lsn
        tails[record.pg] = lsn
        if record.commit is not None:
            commits.append(record.commit)
    return Stretch(after, at, tuple(given[n] for n in taken), tuple(commits), tails)
