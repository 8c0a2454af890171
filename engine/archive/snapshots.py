"""Snapshots: the state after one commit, kept by name until it is deleted. No archive is needed any more.

    _snapshots/NAME/index               what it is of, and its parts with their checksums
    _snapshots/NAME/pages/NNNNNN-SUM    some pages; SUM begins the object's checksum

Invariants
- The index is created last, and deleted first: a snapshot is there with all of its parts, or not at all.
- Who creates the index has the name. Parts of others never take the place of its own, because an object's
  name says what is in it; what a try that broke off has left is used if it is the same, else removed.
- No archive's name begins like `PREFIX`, so no retention deletes any of it.

Parts do not name their snapshot: a copy under another name has the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.archive.bases import PART_PAGES, Part, check_parts, parts_in, parts_out
from engine.archive.chunks import expect, mark_in, mark_out
from engine.archive.envelope import seal, unseal
from engine.archive.restore import Progress, whole_or_gone
from engine.errors import (
    ConfigError,
    Corrupt,
    ObjectExists,
    ObjectMissing,
    SextetError,
    Unavailable,
)
from engine.ports import ObjectStore
from engine.types import PAGE_SIZE, CommitMark, PageNo

PREFIX = "_snapshots/"
INDEX, PART = "snapshot", "snapshot-pages"

DELETE_ROUNDS = 3
"""As often what was found is deleted, should somebody create it again meanwhile."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_SHOWN = 16


def _no_progress(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`cluster`'s state at `commit`, made from `archive` at `taken_us` (Unix microseconds)."""

    name: str
    cluster: str
    archive: str
    commit: CommitMark
    taken_us: int
    parts: tuple[Part, ...] = ()

    @property
    def bytes(self) -> int:
        """Of the database file."""
        return self.commit.pages * PAGE_SIZE


# -- objects


def index_key(name: str) -> str:
    return f"{PREFIX}{name}/index"


def part_key(name: str, number: int, digest: str) -> str:
    return f"{PREFIX}{name}/pages/{number:06d}-{digest[:_DIGEST_SHOWN]}"


def encode_pages(first: PageNo, pages: bytes) -> bytes:
    """A part's object; `pages` is a whole number of pages."""
    return seal({"kind": PART, "first": first, "count": len(pages) // PAGE_SIZE}, pages)


def decode_pages(key: str, data: bytes, part: Part) -> bytes:
    """The part's pages, one after the other. Raises Corrupt or FormatError, naming `key`."""
    envelope = unseal(key, data)
    expect(envelope, PART, key)
    if envelope.digest != part.digest:
        raise Corrupt(f"object {key} is in the place of another: its snapshot has not made it")
    if len(envelope.body) != part.count * PAGE_SIZE:
        raise Corrupt(f"object {key} has {len(envelope.body)} bytes, not {part.count} pages")
    return envelope.body


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return seal(
        {
            "kind": INDEX,
            "name": snapshot.name,
            "cluster": snapshot.cluster,
            "archive": snapshot.archive,
            "commit": mark_out(snapshot.commit),
            "taken_us": snapshot.taken_us,
            "parts": parts_out(snapshot.parts),
        },
        b"",
    )


def decode_snapshot(key: str, data: bytes) -> Snapshot:
    """Raises Corrupt or FormatError, naming `key`."""
    header = expect(unseal(key, data), INDEX, key)
    try:
        snapshot = Snapshot(
            name=str(header["name"]),
            cluster=str(header["cluster"]),
            archive=str(header["archive"]),
            commit=mark_in(header["commit"]),
            taken_us=int(header["taken_us"]),
            parts=parts_in(header["parts"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"object {key} has a damaged header: {type(error).__name__} {error}"
        ) from error
    if index_key(snapshot.name) != key:
        raise Corrupt(f"object {key} is in the place of another: it is snapshot {snapshot.name}")
    check_parts(key, snapshot.parts, snapshot.commit.pages)
    for part in snapshot.parts:
        if _DIGEST.fullmatch(part.digest) is None:  # it is part of a key
            raise Corrupt(f"object {key} has no pages from {part.first} on")
    return snapshot


def names_in(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """(snapshots, names under which there are objects and no snapshot: unfinished, or being made)."""
    all_names: set[str] = set()
    whole: set[str] = set()
    for key in keys:
        if key.startswith(PREFIX):
            name, _, rest = key.removeprefix(PREFIX).partition("/")
            all_names.add(name)
            if rest == "index":
                whole.add(name)
    return sorted(whole), sorted(all_names - whole)


# -- in a store


async def load(store: ObjectStore, name: str) -> Snapshot:
    """Raises ConfigError if there is no such snapshot, Corrupt, FormatError."""
    key = index_key(name)
    try:
        data = await store.read(key)
    except ObjectMissing as error:
        there, _ = names_in(await store.keys(PREFIX))
        raise ConfigError(
            f"there is no snapshot {name}; there is: {', '.join(there) or 'none'}"
        ) from error
    return decode_snapshot(key, data)


async def require_free(store: ObjectStore, name: str) -> None:
    """Raises ConfigError if there is a snapshot of that name."""
    if index_key(name) in await store.keys(index_key(name)):
        raise _taken(name)


async def save(
    store: ObjectStore, snapshot: Snapshot, path: Path, progress: Progress = _no_progress
) -> Snapshot:
    """Make `snapshot` of the file that is its database. Returns it with its parts.

    Raises ConfigError if there is one of that name; Corrupt if what an earlier try left is damaged;
    Unavailable, DiskFull. Then there is none, unless it was the last answer that was lost.
    """
    await require_free(store, snapshot.name)
    parts: list[Part] = []
    total = -(-snapshot.commit.pages // PART_PAGES)
    with path.open("rb") as file:
        while pages := file.read(PART_PAGES * PAGE_SIZE):
            first = len(parts) * PART_PAGES
            data = encode_pages(first, pages)
            digest = unseal(path.name, data).digest
            await _create_same(store, part_key(snapshot.name, len(parts), digest), data)
            parts.append(Part(first, len(pages) // PAGE_SIZE, digest))
            progress(len(parts), total)
    made = replace(snapshot, parts=tuple(parts))
    await _finish(store, made)
    return made


async def copy(
    source: ObjectStore,
    snapshot: Snapshot,
    target: ObjectStore,
    name: str,
    progress: Progress = _no_progress,
) -> Snapshot:
    """Make the same snapshot as `name` in another store, or in the same one. Raises as `save` does, and as
    `read_part` if the one that is there is no good."""
    await require_free(target, name)
    for number, part in enumerate(snapshot.parts):
        pages = await read_part(source, snapshot, number)
        data = encode_pages(part.first, pages)
        await _create_same(target, part_key(name, number, part.digest), data)
        progress(number + 1, len(snapshot.parts))
    made = replace(snapshot, name=name)
    await _finish(target, made)
    return made


async def read_part(store: ObjectStore, snapshot: Snapshot, number: int) -> bytes:
    """The pages of one part. Raises ObjectMissing, Corrupt, FormatError, naming the object."""
    part = snapshot.parts[number]
    key = part_key(snapshot.name, number, part.digest)
    return decode_pages(key, await store.read(key), part)


async def write_file(
    store: ObjectStore, snapshot: Snapshot, target: Path, progress: Progress = _no_progress
) -> None:
    """Write the database to a new file. Raises as `read_part`, FileExistsError; then there is no file, or
    it is somebody else's."""
    with whole_or_gone(target) as file:
        for number in range(len(snapshot.parts)):
            file.write(await read_part(store, snapshot, number))
            progress(number + 1, len(snapshot.parts))


async def verify(
    store: ObjectStore, snapshot: Snapshot, progress: Progress = _no_progress
) -> list[str]:
    """Read every part. What is wrong, each naming the object."""
    wrong = []
    for number in range(len(snapshot.parts)):
        try:
            await read_part(store, snapshot, number)
        except SextetError as error:
            wrong.append(str(error))
        progress(number + 1, len(snapshot.parts))
    return wrong


async def delete(store: ObjectStore, name: str) -> tuple[bool, int]:
    """Delete a snapshot, or what an unfinished one has left: (whether there was one, objects deleted).

    One that is being created meanwhile goes too, or its creator sees that parts are gone. Raises
    Unavailable, also if that does not come to an end.
    """
    index, was_there, deleted = index_key(name), False, 0
    for _ in range(DELETE_ROUNDS):
        keys = await store.keys(f"{PREFIX}{name}/")
        if not keys:
            return was_there, deleted
        was_there |= index in keys
        for key in sorted(keys, key=lambda key: (key != index, key)):
            await store.delete(key)
            deleted += 1
    if await store.keys(f"{PREFIX}{name}/"):
        raise Unavailable(f"snapshot {name} is being created all the time; delete it later")
    return was_there, deleted


async def _create_same(store: ObjectStore, key: str, data: bytes) -> None:
    """Create it, or see that it is there with the same bytes: a try that broke off has left it."""
    try:
        await store.create(key, data)
    except ObjectExists as error:
        if await store.read(key) != data:
            raise Corrupt(
                f"object {key}, which an unfinished snapshot has left, is damaged; `sextet snapshot "
                "delete` removes it"
            ) from error


async def _finish(store: ObjectStore, snapshot: Snapshot) -> None:
    """Create the index, and remove what is none of the snapshot's."""
    key, data = index_key(snapshot.name), encode_snapshot(snapshot)
    try:
        await store.create(key, data)
    except ObjectExists as error:
        if await store.read(key) != data:  # else it is ours, and the answer was lost
            raise _taken(snapshot.name) from error
    own = {part_key(snapshot.name, n, part.digest) for n, part in enumerate(snapshot.parts)}
    there = set(await store.keys(f"{PREFIX}{snapshot.name}/"))
    if not own <= there:
        await store.delete(key)
        raise Unavailable(
            f"snapshot {snapshot.name} was deleted while it was being made: there is none"
        )
    for other in sorted(there - own - {key}):
        await store.delete(other)


def _taken(name: str) -> ConfigError:
    return ConfigError(f"there is a snapshot {name} already; choose another name or delete it")
