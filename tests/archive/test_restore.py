"""A restore gives exactly the file after the last commit that belongs to it, or says why it cannot.

The archives here are made from a log whose every state is known (`tests.archive.books`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.bases import decode_base, encode_base, index_key, part_key
from engine.archive.catalogue import Listing, Target, generations, next_generation
from engine.archive.chunks import chunk_key, decode_chunk, encode_chunk
from engine.archive.restore import PAGES_KEPT, Plan, shown
from engine.archive.verify import verify
from engine.errors import ConfigError, Corrupt, FormatError, ObjectMissing
from tests.archive.books import T0_US, Book, Ledger, book_of, frame_of

CHANGES = st.tuples(
    st.lists(st.integers(0, 11), min_size=1, max_size=5),
    st.integers(-4, 6),  # seconds since the commit before
    st.sampled_from(
        [0, 0, 0, -3, -1]
    ),  # how the file's size changes, besides growing where it must
)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Commits of one to several pages; clocks go back, and the file shrinks and grows again."""
    ledger, time_s = Ledger(), 100
    for pages, seconds, shrink in draw(st.lists(CHANGES, min_size=1, max_size=10)):
        time_s += seconds
        before = ledger.states[-1][0].pages
        size = max(1, before + shrink)
        changed = {page for page in pages if not shrink or page < size} or {0}
        if not shrink:
            size = max(before, max(changed) + 1)
            changed |= set(range(before, size))  # SQLite writes every page that it adds
        ledger.commit(sorted(changed), size, T0_US + time_s * 1_000_000)
        if draw(st.integers(0, 5)) == 0:
            ledger = ledger.branch(ledger.marks[-1].lsn)  # another writer goes on
    return ledger


@st.composite
def books(draw: st.DrawFn) -> Book:
    """Chunks cut anywhere, bases behind some of them, begun at LSN 0 or in the middle."""
    ledger = draw(ledgers())
    ends = draw(st.sets(st.sampled_from([r.lsn for r in ledger.records]), max_size=6))
    bases = draw(st.sets(st.integers(1, 8), max_size=4))
    begin = draw(st.sampled_from([0, 0, *range(1, len(ledger.states))]))
    book = book_of(ledger, ends, bases=bases, begin=begin)
    if draw(st.booleans()):
        book.chunk(book.upto, known_us=book.known_us + 5_000_000)  # nothing happened for a while
        if draw(st.booleans()):
            book.base()
    return book


@given(books(), st.sampled_from((1, 2, PAGES_KEPT)))
def test_every_moment_is_restored_exactly_or_refused(book: Book, kept: int) -> None:
    async def whole() -> None:
        archive = await book.open()
        assert await verify(archive) == ([], len(book.objects))
        window = await archive.window()
        assert (window.earliest.lsn, window.upto) == (book.begins.lsn, book.upto)
        with TemporaryDirectory() as folder:
            for target in book.targets():
                expected = book.expected(target)
                if expected is None:
                    with pytest.raises(ConfigError) as caught:
                        await archive.plan(target)
                    assert str(caught.value).endswith(str(window))
                    assert "earlier" in str(caught.value) or "later" in str(caught.value)
                else:
                    assert await book.restored(target, Path(folder)) == expected, target

    with patch("engine.archive.restore.PAGES_KEPT", kept):
        asyncio.run(whole())


def example(*, begin: int = 0, bases: tuple[int, ...] = (2, 4)) -> Book:
    """Six commits of two records in six chunks, two of which end in the middle of a transaction."""
    ledger = Ledger()
    for n in range(6):
        ledger.commit([0, n + 1], n + 2, T0_US + n * 1_000_000)
    return book_of(ledger, [3, 4, 7, 8, 10], bases=bases, begin=begin)


async def test_a_restore_begins_with_the_newest_base_that_it_can(tmp_path: Path) -> None:
    book = example()
    archive = await book.open()
    marks = book.ledger.marks
    by_lsn = [await archive.plan(Target(lsn=mark.lsn)) for mark in marks]
    assert [(p.base, p.last, p.commit) for p in by_lsn] == [
        (0, 1, marks[0]),
        (2, 2, marks[1]),
        (2, 3, marks[2]),
        (4, 4, marks[3]),
        (4, 5, marks[4]),
        (4, 6, marks[5]),
    ]
    seen: list[tuple[int, int]] = []
    await archive.restore(by_lsn[5], tmp_path / "db", lambda *progress: seen.append(progress))
    parts = len(decode_base(index_key("main", 4), book.objects[index_key("main", 4)]).parts)
    assert seen == [(n, parts + 2) for n in range(1, parts + 3)]


async def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    archive = await example().open()
    path = tmp_path / "db"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        await archive.restore(await archive.plan(Target()), path)
    assert path.read_bytes() == b"mine"


async def test_the_window_is_told_in_times_that_can_be_given_back() -> None:
    book = example(begin=2)
    window = await (await book.open()).window()
    assert (
        str(window) == "2023-11-14T22:13:21.000000Z (LSN 4) to 2023-11-14T22:13:25.000000Z (LSN 12)"
    )
    assert str(await (await example().open()).window()).startswith("the beginning to 2023-")
    assert shown(T0_US + 1) == "2023-11-14T22:13:20.000001Z"


async def test_of_a_clock_that_went_back_the_last_commit_counts(tmp_path: Path) -> None:
    """Whatever a wrong clock wrote on those in between: they are part of that state."""
    ledger = Ledger()
    for n, time_s in enumerate([10, 50, 20, 30]):
        ledger.commit([n], n + 1, time_s)
    book = book_of(ledger, [1, 2, 3], bases=(2,))
    archive = await book.open()
    found = [
        (await archive.plan(Target(time_us=t))).commit.lsn for t in (5, 10, 15, 20, 25, 30, 50)
    ]
    assert found == [0, 1, 1, 3, 3, 4, 4]


# -- damage: (what is done to an object, what a restore says that needs it)

Damage = Callable[[Book, str], None]


def remove(book: Book, key: str) -> None:
    book.bucket.delete(key)


def flip(book: Book, key: str) -> None:
    flip_at(book, key, len(book.objects[key]) // 2)


def flip_at(book: Book, key: str, at: int) -> None:
    data = bytearray(book.objects[key])
    data[at] ^= 1
    book.objects[key] = bytes(data)


def flip_first(book: Book, key: str) -> None:
    flip_at(book, key, 0)


def flip_head(book: Book, key: str) -> None:
    """In the header's length."""
    flip_at(book, key, 5)


def flip_sum(book: Book, key: str) -> None:
    flip_at(book, key, -32)


def flip_last(book: Book, key: str) -> None:
    flip_at(book, key, -1)


def truncate(book: Book, key: str) -> None:
    book.objects[key] = book.objects[key][:-7]


def empty(book: Book, key: str) -> None:
    book.objects[key] = b""


def neighbour(book: Book, key: str) -> None:
    """Another object of the same kind is there."""
    kind = key.split("/")[1]
    others = [k for k in book.objects if k.split("/")[1] == kind and k != key]
    others = [k for k in others if k.endswith("index") == key.endswith("index")]
    book.objects[key] = book.objects[others[-1]]


def stranger(book: Book, key: str) -> None:
    """That of another archive of the same log is there, which is as long and begins as late."""
    other = book_of(book.ledger, [3, 4, 7, 8, 10], bases=(1, 2, 3, 4, 5, 6), name="main.2")
    book.objects[key] = other.objects[key.replace("main", "main.2", 1)]


def rewritten(book: Book, key: str) -> None:
    """An object of this name that was made by somebody else: all right by itself, but not what the next one
    follows, or what its index means."""
    data = book.objects[key]
    if "/log/" in key:
        chunk = decode_chunk(key, data)
        book.objects[key] = encode_chunk(
            replace(chunk.head, known_us=chunk.head.known_us + 1), chunk.frames
        )
    elif key.endswith("/index"):
        base = decode_base(key, data)
        earlier = replace(base.commit, lsn=base.commit.lsn - 1)
        book.objects[key] = encode_base(replace(base, commit=earlier))
    else:
        book.objects[key] = data.replace(b'"kind"', b'"kInd"')


FLIPS: list[Damage] = [flip_first, flip_head, flip, flip_sum, flip_last]
DAMAGES: list[Damage] = [remove, *FLIPS, truncate, empty, neighbour, stranger, rewritten]
KEYS = [
    *(chunk_key("main", n) for n in range(1, 7)),
    *(index_key("main", n) for n in (2, 4)),
    *(part_key("main", 4, n) for n in (0, 1, 2)),
]


FIRST, LAST = chunk_key("main", 1), chunk_key("main", 6)
BASE2, BASE4 = index_key("main", 2), index_key("main", 4)
NOTHING_SAYS_SO = {(key, "remove") for key in (FIRST, LAST, BASE2, BASE4)} | {(LAST, "rewritten")}
"""An archive that begins later (as retention leaves it), ends earlier, or has a base less, is whole. Nobody
names the checksum of the last chunk."""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("key", KEYS)
async def test_damage_is_found_and_nothing_wrong_is_restored(
    key: str, damage: Damage, tmp_path: Path
) -> None:
    """Every restore is exact or names the object, and verify names it before."""
    book = example()
    damage(book, key)
    wrong, _ = await verify(await book.open())
    assert bool(wrong) == ((key, damage.__name__) not in NOTHING_SAYS_SO)
    assert all(blames(message, key) for message in wrong)
    if (key, damage) == (LAST, remove):
        book.upto, book.known_us = book.ledger.marks[4].lsn, book.ledger.marks[4].time_us
    elif (key, damage) == (LAST, rewritten):
        book.known_us += 1
    elif (key, damage) == (FIRST, remove):
        book.begins = book.ledger.marks[1]
    refused = set()
    for target in book.targets():
        try:
            got: bytes | None = await book.restored(target, tmp_path)
        except ConfigError:
            got = None  # outside of the window
        except (Corrupt, FormatError, ObjectMissing) as error:
            refused.add(target)
            if not blames(str(error), key):
                raise
            continue
        assert got == book.expected(target), target
    assert bool(refused) == bool(wrong)
    if wrong and key not in (*KEYS[:3], BASE2):
        assert Target() in refused


async def refusals(book: Book, folder: Path) -> list[str]:
    """What every restore says that does not take place for its objects; all others are exact."""
    found: list[str] = []
    for target in book.targets():
        try:
            got: bytes | None = await book.restored(target, folder)
        except ConfigError:
            got = None  # outside of the window
        except (Corrupt, FormatError, ObjectMissing) as error:
            found.append(str(error))
            continue
        assert got == book.expected(target), target
    return found


@pytest.mark.parametrize(
    ("key", "other"),
    [
        *(
            (chunk_key("main", n), chunk_key("main", m))
            for n, m in ((1, 2), (3, 4), (1, 6), (5, 6))
        ),
        (BASE2, BASE4),
        (part_key("main", 4, 0), part_key("main", 4, 1)),
        (part_key("main", 2, 0), part_key("main", 4, 0)),
        (BASE4, part_key("main", 4, 0)),
        (BASE4, chunk_key("main", 4)),
    ],
)
async def test_objects_that_changed_places_are_found(key: str, other: str, tmp_path: Path) -> None:
    """`verify` names both; a restore is exact, or names one of them and leaves nothing."""
    book = example()
    book.objects[key], book.objects[other] = book.objects[other], book.objects[key]
    wrong, _ = await verify(await book.open())
    unread = {part_key("main", 4, 0)} if BASE4 in (key, other) else set()  # its index is not there
    for one in {key, other} - unread:
        assert any(one in message for message in wrong), one
    refused = await refusals(book, tmp_path)
    assert refused
    assert all(blames(message, key) or blames(message, other) for message in refused)


@pytest.mark.parametrize(
    ("key", "copy"),
    [
        *((chunk_key("main", n), chunk_key("main", 7)) for n in (1, 3, 6)),
        (chunk_key("main", 6), chunk_key("main", 9)),
        *((base, index_key("main", n)) for base in (BASE2, BASE4) for n in (3, 5, 6)),
    ],
)
async def test_an_object_that_is_there_twice_is_found(key: str, copy: str, tmp_path: Path) -> None:
    """Under a name that there should not be, or not yet."""
    book = example()
    book.objects[copy] = book.objects[key]
    wrong, _ = await verify(await book.open())
    assert any(f"object {copy} is in the place of another" in message for message in wrong)
    refused = await refusals(book, tmp_path)
    gap = chunk_key("main", 7)  # before a ninth
    assert any(copy in message for message in refused)
    assert all(copy in message or gap in message for message in refused)


async def test_a_part_that_no_base_names_is_never_read(tmp_path: Path) -> None:
    book = example()
    book.objects[part_key("main", 4, 9)] = book.objects[part_key("main", 4, 0)]
    assert (await verify(await book.open()))[0] == []
    assert await book.restored(Target(), tmp_path) == book.expected(Target())


@pytest.mark.parametrize("lost", [1, 2])
async def test_lost_last_objects_are_found_by_what_storage_has_heard(lost: int) -> None:
    """Nothing else says how many there were."""
    book = example()
    for number in range(7 - lost, 7):
        remove(book, chunk_key("main", number))
    archive = await book.open()
    assert (await verify(archive))[0] == []
    (message,) = (await verify(archive, told=book.upto))[0]
    assert f"object {chunk_key('main', 7 - lost)} is missing" in message
    assert (await verify(await example().open(), told=book.upto))[0] == []


@pytest.mark.parametrize("key", [LAST, part_key("main", 4, 2)])
def test_a_restore_that_fails_leaves_no_file(key: str, tmp_path: Path) -> None:
    book = example()

    async def fail() -> None:
        archive = await book.open()
        plan = await archive.plan(Target())
        flip(book, key)
        with pytest.raises(Corrupt, match=key):
            await archive.restore(plan, tmp_path / "db")

    asyncio.run(fail())
    assert list(tmp_path.iterdir()) == []


def blames(message: str, key: str) -> bool:
    """It names the object; or the next chunk, if that says whom it follows, or the base of that chunk."""
    names = [key]
    if "/log/" in key:
        number = int(key.rpartition("/")[2])
        names += [chunk_key("main", number + 1), index_key("main", number)]
    return any(name in message for name in names)


async def test_an_lsn_before_the_damage_is_restored_all_the_same(tmp_path: Path) -> None:
    """And one behind it, if a base leads past it. By time nobody knows: a later commit may be earlier."""
    for damage in (remove, flip):
        book = example()
        damage(book, chunk_key("main", 3))
        for mark in (*book.ledger.marks[:2], *book.ledger.marks[3:]):
            target = Target(lsn=mark.lsn)
            assert await book.restored(target, tmp_path) == book.expected(target)
        with pytest.raises((ObjectMissing, Corrupt), match=chunk_key("main", 3)):
            await book.restored(Target(lsn=book.ledger.marks[2].lsn), tmp_path)
        with pytest.raises((ObjectMissing, Corrupt), match=chunk_key("main", 3)):
            await book.restored(Target(time_us=book.ledger.marks[0].time_us), tmp_path)


async def test_the_latest_needs_no_more_than_the_newest_base(tmp_path: Path) -> None:
    book = example()
    for number in (1, 3):
        remove(book, chunk_key("main", number))
    assert await book.restored(Target(), tmp_path) == book.expected(Target())
    with pytest.raises(ObjectMissing, match=f"{chunk_key('main', 3)} is missing, and later ones"):
        (await book.open()).listing.check_gapless(2)


async def test_an_object_that_is_whole_and_lacks_a_record_is_found(tmp_path: Path) -> None:
    """Nobody has damaged it: it was made so."""
    book = example()
    chunk = decode_chunk(LAST, book.objects[LAST])
    frames = b"".join(frame_of([r]) for r in book.ledger.records if r.lsn == chunk.head.upto)
    book.objects[LAST] = encode_chunk(chunk.head, frames)
    wrong, _ = await verify(await book.open())
    assert [LAST in message for message in wrong] == [True]
    with pytest.raises(Corrupt, match=LAST):
        await book.restored(Target(), tmp_path)


@pytest.mark.parametrize("key", [chunk_key("main", 1), index_key("main", 1)])
async def test_without_its_beginning_an_archive_is_nothing(key: str, tmp_path: Path) -> None:
    """One that begins in the middle needs the first base, if there is no other."""
    book = example(begin=2, bases=())
    remove(book, key)
    for target in (Target(), Target(lsn=8)):
        with pytest.raises(ObjectMissing, match=r"main/(log|base)/0{11}[12]"):
            await book.restored(target, tmp_path)
    assert (await verify(await book.open()))[0]


async def test_a_missing_first_chunk_is_named(tmp_path: Path) -> None:
    book = example(bases=())
    remove(book, chunk_key("main", 1))
    with pytest.raises(ObjectMissing, match=f"objects before {chunk_key('main', 2)} are missing"):
        await book.restored(Target(), tmp_path)


async def test_all_that_is_wrong_is_listed() -> None:
    book = example()
    flip(book, chunk_key("main", 2))
    remove(book, chunk_key("main", 5))
    flip(book, part_key("main", 4, 1))
    truncate(book, index_key("main", 2))
    wrong, _ = await verify(await book.open())
    bad = [chunk_key("main", 2), chunk_key("main", 5), index_key("main", 2), part_key("main", 4, 1)]
    assert len(wrong) == len(bad)
    for key, message in zip(bad, wrong, strict=True):
        assert key in message


async def test_a_base_of_another_moment_is_not_believed(tmp_path: Path) -> None:
    """All of its checksums are right, and so are the chunks': it is only not what they continue."""
    book = example(bases=(4,))
    index = index_key("main", 4)
    base = decode_base(index, book.objects[index])
    mark = book.ledger.marks[2]
    assert mark.lsn < base.commit.lsn
    book.objects[index] = encode_base(replace(base, commit=replace(mark, pages=base.commit.pages)))
    archive = await book.open()
    for plan in (
        Plan("main", 4, 6, book.ledger.marks[5]),
        await archive.plan(Target()),
    ):
        with pytest.raises(Corrupt, match=index):
            await archive.restore(plan, tmp_path / f"{plan.last}-{random.random()}")


async def test_there_must_be_an_archive() -> None:
    book = example()
    book.name = "mai"
    with pytest.raises(ConfigError, match="there is no archive mai in this store"):
        await book.open()


# -- names


def test_what_is_no_object_of_an_archive_is_passed_over() -> None:
    keys = [
        *("main/log/000000000002", "main/log/000000000001", "main/base/000000000001/index"),
        *("main/log/README", "main/log/1", "main/log/000000000003.tmp", "main/log/000000000004/x"),
        *("main/base/index", "main/base/x/index", "main/base/000000000002/000000", "main/README"),
        *("main.2/log/000000000009", "mainx/log/000000000009", "x/main/log/000000000009"),
    ]
    assert Listing.of("main", keys) == Listing("main", (1, 2), (1,))


def test_generations_are_counted() -> None:
    keys = [
        f"{name}/log/1" for name in ("a.10", "a.2", "a", "a.old", "a.2.3", "ab.3", "a.02", "b.7")
    ]
    assert generations("a", keys) == ["a", "a.2", "a.10"]
    assert (next_generation("a", "a"), next_generation("a", "a.9")) == ("a.2", "a.10")
