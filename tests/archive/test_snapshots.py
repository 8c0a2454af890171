"""A snapshot is whole or absent, wherever making or deleting it breaks off; and no archive's affair."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from cluster.sim.objects import Bucket
from cluster.sim.restores import Still
from engine.archive import snapshots
from engine.archive.catalogue import Listing, archives_in, generations
from engine.archive.envelope import unseal
from engine.archive.keeping import superseded
from engine.archive.snapshots import (
    Snapshot,
    decode_snapshot,
    encode_pages,
    encode_snapshot,
    index_key,
    names_in,
)
from engine.errors import ConfigError, Corrupt, FormatError, ObjectMissing, Unavailable
from engine.net.objects import FolderStore
from engine.types import PAGE_SIZE, CommitMark
from tests.archive.books import T0_US, book_of, ledger_of

T = TypeVar("T")

NAME = "before"


class Breaks(Exception):
    """The process ends here."""


class Live(Still):
    """A bucket in no time, which breaks at call `breaks`, before or after it takes effect."""

    def __init__(self, bucket: Bucket | None = None) -> None:
        self.bucket = bucket or Bucket(random.Random(1))
        super().__init__(self.bucket)
        self.calls, self.breaks, self.after = 0, 0, False
        self.on_call: Callable[[int], Awaitable[None]] | None = None

    @property
    def objects(self) -> dict[str, bytes]:
        return self.bucket.objects

    async def read(self, key: str) -> bytes:
        return await self._call(lambda: Still.read(self, key))

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._call(lambda: Still.keys(self, prefix))

    async def create(self, key: str, data: bytes) -> None:
        async def act() -> None:
            self.bucket.create(key, data)

        await self._call(act)

    async def delete(self, key: str) -> None:
        async def act() -> None:
            self.bucket.delete(key)

        await self._call(act)

    async def _call(self, act: Callable[[], Awaitable[T]]) -> T:
        self.calls += 1
        await asyncio.sleep(0)
        if self.on_call is not None:
            await self.on_call(self.calls)
        if self.calls == self.breaks and not self.after:
            raise Breaks
        result = await act()
        if self.calls == self.breaks:
            raise Breaks
        return result


@dataclass(frozen=True)
class State:
    """A database, as a file and as the snapshot to be made of it."""

    path: Path
    snapshot: Snapshot

    @property
    def image(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PART_PAGES", 2)


@pytest.fixture
def states(tmp_path: Path) -> list[State]:
    """Two commits: of five pages, and of seven of which the first two are the same."""
    found = []
    for number, size in enumerate((5, 7), start=1):
        pages = [bytes([page + (number if page > 1 else 0)]) * PAGE_SIZE for page in range(size)]
        path = tmp_path / f"{number}.db"
        path.write_bytes(b"".join(pages))
        commit = CommitMark(10 * number, T0_US + number, size)
        found.append(State(path, Snapshot(NAME, "main", "main-0a1b2c3d", commit, T0_US + 9)))
    return found


async def made(state: State, store: Live | None = None) -> Live:
    store = store or Live()
    await snapshots.save(store, state.snapshot, state.path)
    return store


async def image(store: Live | FolderStore, name: str, folder: Path) -> bytes:
    """What is restored from it. Raises as `write_file`, and then there is no file."""
    path = folder / "restored.db"
    try:
        await snapshots.write_file(store, await snapshots.load(store, name), path)
        return path.read_bytes()
    except BaseException:
        assert not path.exists()
        raise
    finally:
        path.unlink(missing_ok=True)


async def test_what_was_saved_is_restored(states: list[State], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = Live()
    snapshot = await snapshots.save(
        store, states[0].snapshot, states[0].path, lambda *progress: seen.append(progress)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert await snapshots.load(store, NAME) == snapshot
    assert [(part.first, part.count) for part in snapshot.parts] == [(0, 2), (2, 2), (4, 1)]
    assert snapshot.bytes == 5 * PAGE_SIZE
    assert await image(store, NAME, tmp_path) == states[0].image
    assert await snapshots.verify(store, snapshot) == []
    assert names_in(store.objects) == ([NAME], [])


async def test_a_name_is_taken_once(states: list[State], tmp_path: Path) -> None:
    store = await made(states[0])
    there = dict(store.objects)
    with pytest.raises(ConfigError, match="there is a snapshot before already"):
        await made(states[1], store)
    assert store.objects == there
    with pytest.raises(ConfigError, match="there is no snapshot after; there is: before"):
        await snapshots.load(store, "after")
    # One whose name begins like this one's does not have it.
    await snapshots.save(store, replace(states[1].snapshot, name="befor"), states[1].path)
    assert await snapshots.delete(store, "befor") == (True, 5)
    assert store.objects == there


@pytest.mark.parametrize("after", [False, True])
async def test_making_one_may_break_off_anywhere(
    *, after: bool, states: list[State], tmp_path: Path
) -> None:
    """It is there or it is not, and the next one of that name is not disturbed by what was left."""
    calls = (await made(states[0])).calls
    assert calls > 5
    absent = 0
    for number in range(1, calls + 1):
        store = Live()
        store.breaks, store.after = number, after
        with pytest.raises(Breaks):
            await made(states[0], store)
        if NAME in names_in(store.objects)[0]:
            assert await image(store, NAME, tmp_path) == states[0].image
            with pytest.raises(ConfigError, match="already"):
                await made(states[1], store)
        else:
            absent += 1
            assert names_in(store.objects)[1] == ([NAME] if store.objects else [])
            await made(states[1], store)
            assert await image(store, NAME, tmp_path) == states[1].image
            fresh = await made(states[1])
            assert store.objects == fresh.objects, "nothing of the first is left"
        was_there, _ = await snapshots.delete(store, NAME)
        assert was_there
        assert not store.objects
    assert 0 < absent < calls


@pytest.mark.parametrize("after", [False, True])
async def test_deleting_one_may_break_off_anywhere(
    *, after: bool, states: list[State], tmp_path: Path
) -> None:
    whole = await made(states[0])
    whole.calls = 0
    assert await snapshots.delete(whole, NAME) == (True, 4)
    assert not whole.objects
    for number in range(1, whole.calls + 1):
        store = await made(states[0])
        store.calls, store.breaks, store.after = 0, number, after
        with pytest.raises(Breaks):
            await snapshots.delete(store, NAME)
        if NAME in names_in(store.objects)[0]:
            assert await image(store, NAME, tmp_path) == states[0].image
        await snapshots.delete(store, NAME)
        assert not store.objects
        assert await snapshots.delete(store, NAME) == (False, 0)


async def test_an_answer_that_was_lost_does_no_harm(states: list[State], tmp_path: Path) -> None:
    """The port says ObjectExists then, of our own object."""

    class Twice(Live):
        async def create(self, key: str, data: bytes) -> None:
            await super().create(key, data)
            await super().create(key, data)

    store = await made(states[0], Twice())
    assert await image(store, NAME, tmp_path) == states[0].image


async def test_of_two_who_make_one_name_one_has_it(states: list[State], tmp_path: Path) -> None:
    """Whenever the second begins and is done: at each call of the first."""
    calls = (await made(states[0])).calls
    for number in range(2, calls + 1):
        store = Live()

        async def other(call: int, store: Live = store, number: int = number) -> None:
            if call == number:
                store.on_call = None
                with suppress(ConfigError):
                    await made(states[1], store)

        store.on_call = other
        try:
            await made(states[0], store)
        except ConfigError:
            assert await image(store, NAME, tmp_path) == states[1].image
        else:
            assert await image(store, NAME, tmp_path) == states[0].image


async def test_one_that_is_deleted_while_it_is_made_is_no_half(
    states: list[State], tmp_path: Path
) -> None:
    calls = (await made(states[0])).calls
    refused = 0
    for number in range(1, calls + 1):
        store = Live()

        async def deletion(call: int, store: Live = store, number: int = number) -> None:
            if call == number:
                store.on_call = None
                await snapshots.delete(store, NAME)

        store.on_call = deletion
        try:
            await made(states[0], store)
        except Unavailable:
            assert names_in(store.objects)[0] == []
            refused += 1
        else:
            assert await image(store, NAME, tmp_path) == states[0].image
    assert refused


# -- damage


def remove(store: Live, key: str) -> None:
    store.bucket.delete(key)


def flip(store: Live, key: str) -> None:
    data = bytearray(store.objects[key])
    data[len(data) // 2] ^= 1
    store.objects[key] = bytes(data)


def cut(store: Live, key: str) -> None:
    store.objects[key] = store.objects[key][:-7]


def swap(store: Live, key: str) -> None:
    """The next object is there, and its place has this one."""
    keys = sorted(store.objects)
    other = keys[(keys.index(key) + 1) % len(keys)]
    store.objects[key], store.objects[other] = store.objects[other], store.objects[key]


def forge(store: Live, key: str) -> None:
    """A sound object of the right kind that the snapshot has not made."""
    if key.endswith("/index"):
        snapshot = decode_snapshot(key, store.objects[key])
        store.objects[key] = encode_snapshot(replace(snapshot, parts=snapshot.parts[1:]))
    else:
        body = unseal(key, store.objects[key]).body
        store.objects[key] = encode_pages(0, bytes(len(body)))


@pytest.mark.parametrize("damage", [remove, flip, cut, swap, forge], ids=lambda d: d.__name__)
async def test_damage_is_named_and_leaves_no_file_and_no_copy(
    damage: Callable[[Live, str], None], states: list[State], tmp_path: Path
) -> None:
    for key in (await made(states[0])).objects:
        store = await made(states[0])
        damage(store, key)
        errors = (Corrupt, FormatError, ObjectMissing, ConfigError)
        with pytest.raises(errors) as caught:
            await image(store, NAME, tmp_path)
        if (damage, key) == (remove, index_key(NAME)):
            assert "there is no snapshot before; there is: none" in str(caught.value)
            continue
        names = store.objects if damage is swap else [key]
        assert any(name in str(caught.value) for name in names)
        if index_key(NAME) in str(caught.value):
            continue
        snapshot = await snapshots.load(store, NAME)
        wrong = await snapshots.verify(store, snapshot)
        assert len(wrong) == (2 if damage is swap else 1)
        assert str(caught.value) == wrong[0]
        other = Live()
        with pytest.raises(errors):
            await snapshots.copy(store, snapshot, other, "copy")
        assert names_in(other.objects)[0] == []


async def test_an_index_must_be_what_its_name_says_and_have_all_pages(
    states: list[State], tmp_path: Path
) -> None:
    key = index_key(NAME)
    store = await made(states[0])
    snapshot = await snapshots.load(store, NAME)
    first, second, third = snapshot.parts
    damages = {
        "is in the place of another: it is snapshot other": replace(snapshot, name="other"),
        "has 4 pages, the database 5": replace(snapshot, parts=(first, second)),
        "has no pages from 2 on": replace(snapshot, parts=(first, third)),
        "has no pages from 4 on": replace(
            snapshot, parts=(first, second, replace(third, digest="../x"))
        ),
    }
    for said, wrong in damages.items():
        store.objects[key] = encode_snapshot(wrong)
        with pytest.raises(Corrupt, match=f"object {key} {said}"):
            await image(store, NAME, tmp_path)


async def test_a_rotten_rest_of_an_unfinished_one_is_named(states: list[State]) -> None:
    store = Live()
    store.breaks = (await made(states[0])).calls - 1  # the index is not there yet
    with pytest.raises(Breaks):
        await made(states[0], store)
    key = min(store.objects)
    flip(store, key)
    with pytest.raises(Corrupt, match=f"object {key}, .* `sextet snapshot delete` removes it"):
        await made(states[0], store)
    assert await snapshots.delete(store, NAME) == (False, 3)
    await made(states[0], store)


# -- archives, and other stores


@pytest.mark.parametrize("name", ["log", "base", "snapshots", "main-0a1b2c3d", "main"])
async def test_archives_know_nothing_of_snapshots(
    name: str, states: list[State], tmp_path: Path
) -> None:
    """Whatever one is called, and wherever its cluster's archive is retired, or is away altogether."""
    archive = name if name.startswith(("main", "snapshots")) else "main"
    book = book_of(
        ledger_of([((n,), n) for n in range(6)]), range(1, 6), bases=(2, 4), name=archive
    )
    store = Live(book.bucket)
    own = set(store.objects)
    await snapshots.save(store, replace(states[0].snapshot, name=name), states[0].path)
    assert archives_in(store.objects) == [archive]
    assert generations(archive, store.objects) == [archive]
    keys = await store.keys()
    listing = Listing.of(archive, keys)
    assert listing == Listing.of(archive, own)
    doomed = superseded(listing, keys, listing.newest + 1)
    assert set(doomed) == own
    for key in doomed:
        await store.delete(key)
    assert await image(store, name, tmp_path) == states[0].image
    assert archives_in(store.objects) == []


async def test_a_copy_needs_the_first_no_more(states: list[State], tmp_path: Path) -> None:
    first = await made(states[0])
    snapshot = await snapshots.load(first, NAME)
    folder = FolderStore(tmp_path / "store")
    try:
        copied = await snapshots.copy(first, snapshot, folder, "other")
        assert copied == replace(snapshot, name="other")
        await snapshots.delete(first, NAME)
        assert await image(folder, "other", tmp_path) == states[0].image
        with pytest.raises(ConfigError, match="there is a snapshot other already"):
            await snapshots.copy(folder, copied, folder, "other")
        await snapshots.copy(folder, copied, folder, "third")
        back = await snapshots.copy(folder, copied, first, NAME)
        assert back == snapshot
        assert first.objects == (await made(states[0])).objects
        assert names_in(await folder.keys())[0] == ["other", "third"]
    finally:
        folder.close()


async def test_copying_may_break_off_anywhere(states: list[State], tmp_path: Path) -> None:
    first = await made(states[0])
    snapshot = await snapshots.load(first, NAME)
    whole = Live()
    await snapshots.copy(first, snapshot, whole, NAME)
    for number in range(1, whole.calls + 1):
        store = Live()
        store.breaks = number
        with pytest.raises(Breaks):
            await snapshots.copy(first, snapshot, store, NAME)
        if not names_in(store.objects)[0]:
            await snapshots.copy(first, snapshot, store, NAME)
        assert await image(store, NAME, tmp_path) == states[0].image
