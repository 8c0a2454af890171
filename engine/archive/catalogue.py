"""What an archive has, by its objects' names and heads, and what can be restored from it. Pure.

A *window* is a base, or the empty volume before the first record, with the chunks after it without a gap.
There is one to the end of the archive, and what lies in front of it is of no use any more, or is the rest
of what retention was deleting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.archive.bases import base_prefix, number_of
from engine.archive.chunks import log_prefix
from engine.errors import ObjectMissing
from engine.types import LSN, CommitMark


@dataclass(frozen=True, slots=True)
class Listing:
    """Numbers of the chunks and of the complete bases there are, ascending."""

    archive: str
    chunks: tuple[int, ...]
    bases: tuple[int, ...]

    @classmethod
    def of(cls, archive: str, keys: Iterable[str]) -> Listing:
        """From all keys that begin with the archive's name; others in it are passed over."""
        chunks, bases = [], []
        for key in keys:
            if key.startswith(log_prefix(archive)):
                chunks.append(int(key.rpartition("/")[2]))
            elif key.startswith(base_prefix(archive)) and key.endswith("/index"):
                bases.append(number_of(key))
        return cls(archive, tuple(sorted(chunks)), tuple(sorted(bases)))

    @property
    def newest(self) -> int:
        """Of the last chunk, 0 if there is none."""
        return self.chunks[-1] if self.chunks else 0

    def check_gapless(self, first: int) -> None:
        """Raises ObjectMissing, naming it, if a chunk between `first` and the newest is not there."""
        there = set(self.chunks)
        for number in range(first, self.newest + 1):
            if number not in there:
                raise ObjectMissing(
                    f"object {log_prefix(self.archive)}{number:012d} is missing, and later ones are there: "
                    "what follows cannot be restored"
                )

    def base_for(self, number: int) -> int:
        """Of the newest base at or before chunk `number`; 0 stands for the empty volume."""
        return max((n for n in self.bases if n <= number), default=0)


@dataclass(frozen=True, slots=True)
class Target:
    """What to restore: up to an LSN, up to a time (Unix microseconds), or (neither) all there is."""

    lsn: LSN | None = None
    time_us: int | None = None

    def admits(self, commit: CommitMark) -> bool:
        if self.lsn is not None:
            return commit.lsn <= self.lsn
        return self.time_us is None or commit.time_us <= self.time_us


def last_admitted(target: Target, commits: Sequence[CommitMark]) -> CommitMark | None:
    """The last of these, in LSN order, that belongs to the restored state.

    By time it is the last one at or before it, whatever a wrong clock wrote on those in between.
    """
    return next((commit for commit in reversed(commits) if target.admits(commit)), None)
