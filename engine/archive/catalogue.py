"""What an archive has, by its objects' names and heads, and what can be restored from it. Pure.

A *window* is a base, or the empty volume before the first record, with the chunks after it without a gap.
There is one to the end of the archive, and what lies in front of it is of no use any more, or is the rest
of what retention was deleting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.archive.bases import base_prefix
from engine.archive.chunks import chunk_key, log_prefix
from engine.errors import ObjectMissing
from engine.types import LSN, CommitMark

_NUMBER = r"(\d{12})"


@dataclass(frozen=True, slots=True)
class Listing:
    """Numbers of the chunks and of the complete bases there are, ascending."""

    archive: str
    chunks: tuple[int, ...]
    bases: tuple[int, ...]

    @classmethod
    def of(cls, archive: str, keys: Iterable[str]) -> Listing:
        """From all keys that begin with the archive's name; others in it are passed over."""
        chunk = re.compile(re.escape(log_prefix(archive)) + _NUMBER)
        base = re.compile(re.escape(base_prefix(archive)) + _NUMBER + "/index")
        chunks, bases = [], []
        for key in keys:
            if (found := chunk.fullmatch(key)) is not None:
                chunks.append(int(found[1]))
            elif (found := base.fullmatch(key)) is not None:
                bases.append(int(found[1]))
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
                    f"object {chunk_key(self.archive, number)} is missing, and later ones are there: "
                    "what follows cannot be restored"
                )

    def base_for(self, number: int) -> int:
        """Of the newest base at or before chunk `number`; 0 stands for the empty volume."""
        return max((n for n in self.bases if n <= number), default=0)


def archives_in(keys: Iterable[str]) -> list[str]:
    """The archives that these objects are of. Their names begin as a cluster's do, with a letter; what
    begins otherwise is none's."""
    return sorted({key.partition("/")[0] for key in keys if "/log/" in key and key[0].isalpha()})


def generations(first: str, keys: Iterable[str]) -> list[str]:
    """The archives of one cluster that objects are of, the newest last: `first`, `first`.2, and so on."""
    pattern = re.compile(re.escape(first) + r"(?:\.([1-9]\d*))?")
    found = {}
    for key in keys:
        archive = pattern.fullmatch(key.partition("/")[0])
        if archive is not None:
            found[archive[0]] = int(archive[1] or 1)
    return sorted(found, key=lambda name: found[name])


def next_generation(first: str, last: str) -> str:
    """What the archive after `last` is called, which is one of those of `first`."""
    return f"{first}.{int(last.removeprefix(first)[1:] or 1) + 1}"


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
