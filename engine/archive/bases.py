"""Bases: every page of a volume at one commit, so that a restore need not begin with the first record.

Pure. A base stands behind a chunk: it is the state at that chunk's last record, which is a commit's. Its
parts are objects of some pages each; the index is created last and names every part with its checksum, so
a base is there with all of its parts or it is not there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.archive.chunks import Chunk, expect, mark_in, mark_out
from engine.archive.envelope import seal, unseal
from engine.errors import Corrupt
from engine.types import PAGE_SIZE, CommitMark, PageNo, VolumeId

INDEX, PART = "base", "pages"
PART_PAGES = 1024
"""4 MiB."""


@dataclass(frozen=True, slots=True)
class Part:
    """Pages `first` and up of a base; `digest` is the object's checksum."""

    first: PageNo
    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class Base:
    """The volume at `commit`, which ends chunk `number`."""

    archive: str
    volume: VolumeId
    number: int
    commit: CommitMark
    known_us: int
    parts: tuple[Part, ...]


def parts_out(parts: Sequence[Part]) -> list[tuple[PageNo, int, str]]:
    """As an index's header has them; `parts_in` is the way back."""
    return [(part.first, part.count, part.digest) for part in parts]


def parts_in(value: Any) -> tuple[Part, ...]:
    """Raises TypeError, ValueError."""
    return tuple(Part(int(first), int(count), str(digest)) for first, count, digest in value)


def check_parts(key: str, parts: Sequence[Part], pages: int) -> None:
    """Raises Corrupt, naming index `key`, unless the parts are `pages` pages without a hole."""
    at = 0
    for part in parts:
        if part.first != at:
            raise Corrupt(f"object {key} has no pages from {at} on")
        at += part.count
    if at != pages:
        raise Corrupt(f"object {key} has {at} pages, the database {pages}")


def base_prefix(archive: str) -> str:
    return f"{archive}/base/"


def index_key(archive: str, number: int) -> str:
    return f"{base_prefix(archive)}{number:012d}/index"


def part_key(archive: str, number: int, part: int) -> str:
    return f"{base_prefix(archive)}{number:012d}/{part:06d}"


def encode_part(archive: str, number: int, first: PageNo, pages: Sequence[bytes]) -> bytes:
    header = {
        "kind": PART,
        "archive": archive,
        "number": number,
        "first": first,
        "count": len(pages),
    }
    return seal(header, b"".join(pages))


def encode_base(base: Base) -> bytes:
    return seal(
        {
            "kind": INDEX,
            "archive": base.archive,
            "volume": base.volume,
            "number": base.number,
            "commit": mark_out(base.commit),
            "known_us": base.known_us,
            "parts": parts_out(base.parts),
        },
        b"",
    )


def decode_base(key: str, data: bytes) -> Base:
    """Raises Corrupt or FormatError, naming `key`."""
    header = expect(unseal(key, data), INDEX, key)
    try:
        base = Base(
            archive=str(header["archive"]),
            volume=int(header["volume"]),
            number=int(header["number"]),
            commit=mark_in(header["commit"]),
            known_us=int(header["known_us"]),
            parts=parts_in(header["parts"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"object {key} has a damaged header: {type(error).__name__} {error}"
        ) from error
    if index_key(base.archive, base.number) != key:
        raise Corrupt(f"object {key} is in the place of another: it is {base.archive}'s base")
    check_parts(key, base.parts, base.commit.pages)
    return base


def check_base(base: Base, chunk: Chunk) -> None:
    """Raises Corrupt unless `base` is the state at the end of `chunk`."""
    head = chunk.head
    if (base.volume, base.number, base.commit) != (head.volume, head.number, head.newest) or (
        head.upto != head.newest.lsn
    ):
        raise Corrupt(
            f"object {index_key(base.archive, base.number)} is not the state at the end of chunk "
            f"{head.number}"
        )


def decode_part(key: str, data: bytes, base: Base, part: Part) -> bytes:
    """The part's pages, one after the other. Raises Corrupt or FormatError, naming `key`."""
    envelope = unseal(key, data)
    expect(envelope, PART, key)
    if envelope.digest != part.digest:
        raise Corrupt(
            f"object {key} is in the place of another: base {base.number} has not made it"
        )
    if len(envelope.body) != part.count * PAGE_SIZE:
        raise Corrupt(f"object {key} has {len(envelope.body)} bytes, not {part.count} pages")
    return envelope.body
