"""Chunks: the log above `after` and up to `upto`, records of all groups, as one object. Pure.

Invariants
- Chunk n + 1 begins where chunk n ends, and names its checksum. So the chunks that exist, in the order of
  their numbers, are the log without a gap, or the gap is seen.
- A chunk is created once: who comes second reads what the first has written. That is all the fencing that
  archivers need, two of which may be at work for a while.
- All records are at or below a VDL of the volume, so no recovery has annulled any of them, or will.

A chunk ends anywhere: a transaction larger than a chunk has several. Restorable is what a commit ended.

A chunk without records says that nothing was committed until `known_us`. So does the first chunk of an
archive of a volume that was not new: it begins at some LSN, and only a base leads on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.archive.envelope import Envelope, seal, unseal
from engine.errors import Corrupt, FormatError, SextetError
from engine.log.frame import RecordRef, index_frame, record_at, split_frames
from engine.log.record import Record
from engine.types import LSN, CommitMark, Epoch, VolumeId

KIND = "log"
NO_COMMIT = CommitMark(0, 0, 0)


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What a chunk says of itself. Times are Unix microseconds, of the writers' clocks."""

    archive: str
    volume: VolumeId
    number: int
    """From 1, without a gap."""
    previous: str
    """Checksum of the chunk before, "" for the first."""
    after: LSN
    upto: LSN
    newest: CommitMark
    """The last commit at or below `upto`; LSN 0 if there is none yet."""
    earliest_us: int
    """The lowest time of a commit in it, 0 if it has none."""
    known_us: int
    """Who commits above `upto` does so later than this."""
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """`frames`: whole frames, each with at least one record in (after, upto]."""

    head: ChunkHead
    frames: bytes
    digest: str = ""


def chunk_key(archive: str, number: int) -> str:
    return f"{archive}/log/{number:012d}"


def log_prefix(archive: str) -> str:
    return f"{archive}/log/"


def encode_chunk(head: ChunkHead, frames: bytes) -> bytes:
    """The object's bytes."""
    return seal(
        {
            "kind": KIND,
            "archive": head.archive,
            "volume": head.volume,
            "number": head.number,
            "previous": head.previous,
            "after": head.after,
            "upto": head.upto,
            "newest": mark_out(head.newest),
            "earliest_us": head.earliest_us,
            "known_us": head.known_us,
            "commits": head.commits,
        },
        frames,
    )


def decode_chunk(key: str, data: bytes) -> Chunk:
    """Raises Corrupt or FormatError, naming `key`; frames are looked at by who reads the records."""
    envelope = unseal(key, data)
    header = expect(envelope, KIND, key)
    try:
        head = ChunkHead(
            archive=str(header["archive"]),
            volume=int(header["volume"]),
            number=int(header["number"]),
            previous=str(header["previous"]),
            after=int(header["after"]),
            upto=int(header["upto"]),
            newest=mark_in(header["newest"]),
            earliest_us=int(header["earliest_us"]),
            known_us=int(header["known_us"]),
            commits=int(header["commits"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"object {key} has a damaged header: {type(error).__name__} {error}"
        ) from error
    if chunk_key(head.archive, head.number) != key:
        raise Corrupt(
            f"object {key} is in the place of another: it is chunk {head.number} of {head.archive}"
        )
    return Chunk(head, envelope.body, envelope.digest)


def check_follows(chunk: Chunk, before: Chunk | None) -> None:
    """Raises Corrupt unless `chunk` continues `before`, or the empty volume."""
    head = chunk.head
    key = chunk_key(head.archive, head.number)
    if before is None:
        if head.after:
            raise Corrupt(f"object {key} begins after LSN {head.after}, not with the first record")
        return
    last = before.head
    if head.number != last.number + 1 or head.volume != last.volume:
        raise Corrupt(f"object {key} is not what follows chunk {last.number}")
    if head.previous != before.digest:
        raise Corrupt(
            f"object {key} follows another chunk {last.number} than the one that is there: one of the "
            "two was put in the place of another"
        )
    if head.after != last.upto:
        raise Corrupt(f"object {key} begins after LSN {head.after}, not {last.upto}")


def records_of(chunk: Chunk) -> Iterator[Record]:
    """The chunk's records in LSN order, each the successor of the one before it.

    Raises Corrupt, naming the object, if any is damaged, missing or of another volume. One is decoded when
    its turn comes: deflated, what a chunk holds is a small part of what it does.
    """
    head = chunk.head
    key = chunk_key(head.archive, head.number)
    found: dict[LSN, tuple[bytes, Epoch, RecordRef]] = {}
    try:
        for header, frame in split_frames(chunk.frames):
            if header.volume != head.volume:
                raise Corrupt(f"a frame of volume {header.volume}")
            for ref in index_frame(frame, header):
                if head.after < ref.lsn <= head.upto:
                    found[ref.lsn] = frame, header.epoch, ref
    except (FormatError, Corrupt) as error:
        raise Corrupt(f"object {key}: {error}") from error
    at = head.after
    for lsn in sorted(found):
        try:
            record = record_at(*found[lsn])
        except FormatError as error:
            raise Corrupt(f"object {key}: {error}") from error
        if record.prev_lsn != at:
            raise Corrupt(f"object {key}: record {lsn} follows {record.prev_lsn}, not {at}")
        at = lsn
        yield record
    if at != head.upto:
        raise Corrupt(f"object {key} ends at LSN {at}, not at {head.upto}")


def commits_of(chunk: Chunk) -> list[CommitMark]:
    """Its commits in LSN order. Raises Corrupt."""
    head = chunk.head
    try:
        marks = {
            ref.commit.lsn: ref.commit
            for _, frame in split_frames(chunk.frames)
            for ref in index_frame(frame)
            if ref.commit is not None and head.after < ref.lsn <= head.upto
        }
    except SextetError as error:
        key = chunk_key(head.archive, head.number)
        raise Corrupt(f"object {key}: {error}") from error
    return [marks[lsn] for lsn in sorted(marks)]


# -- also for bases


def expect(envelope: Envelope, kind: str, key: str) -> dict[str, Any]:
    """The header, if the object is of that kind. Raises Corrupt."""
    if envelope.header.get("kind") != kind:
        raise Corrupt(
            f"object {key} is in the place of another: its kind is "
            f"{envelope.header.get('kind')!r}, not {kind!r}"
        )
    return envelope.header


def mark_out(mark: CommitMark) -> list[int]:
    return [mark.lsn, mark.time_us, mark.pages]


def mark_in(value: Sequence[int]) -> CommitMark:
    lsn, time_us, pages = value
    return CommitMark(int(lsn), int(time_us), int(pages))
