"""Retention deletes what no restore within its window needs, and nothing else, wherever it breaks off."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from engine.archive.bases import decode_base, index_key
from engine.archive.catalogue import Listing, Target
from engine.archive.chunks import chunk_key
from engine.archive.keeping import oldest_needed, superseded
from engine.archive.verify import verify
from tests.archive.books import T0_US, Book, book_of, ledger_of


def known(book: Book) -> dict[int, int]:
    listing = Listing.of(book.name, book.objects)
    keys = {number: index_key(book.name, number) for number in listing.bases}
    return {n: decode_base(key, book.objects[key]).known_us for n, key in keys.items()}


def to_delete(book: Book, before_us: int) -> list[str]:
    needed = oldest_needed(known(book), before_us)
    return superseded(Listing.of(book.name, book.objects), book.objects, needed)


def needed_by(book: Book, before_us: int) -> set[str]:
    """The model: of restores to `before_us` or later, the one to `before_us` goes back furthest. So what is
    behind the newest base that was surely made before then is needed, with that base and its chunk."""
    bases = [n for n, known_us in known(book).items() if known_us <= before_us]
    first = max(bases, default=0)
    return {key for key in book.objects if int(key.split("/")[2]) >= first}


@st.composite
def old_books(draw: st.DrawFn) -> Book:
    commits = draw(
        st.lists(
            st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 30)),
            min_size=2,
            max_size=8,
        )
    )
    ledger = ledger_of(commits)
    ends = draw(st.sets(st.sampled_from([r.lsn for r in ledger.records]), min_size=1, max_size=8))
    bases = draw(st.sets(st.integers(1, 9), min_size=1))
    begin = draw(st.sampled_from([0, 0, 1]))
    return book_of(ledger, ends, bases=bases, begin=begin)


@given(old_books(), st.integers(-1, 31))
def test_what_is_deleted_is_exactly_what_is_not_needed(book: Book, before_s: int) -> None:
    before_us = T0_US + before_s * 1_000_000
    doomed = to_delete(book, before_us)
    assert len(set(doomed)) == len(doomed)
    assert set(doomed) == book.objects.keys() - needed_by(book, before_us)


@given(old_books(), st.integers(-1, 31))
def test_every_moment_of_the_window_is_restorable_wherever_it_breaks_off(
    book: Book, before_s: int
) -> None:
    before_us = T0_US + before_s * 1_000_000
    kept_us = [
        t.time_us for t in book.targets() if t.time_us is not None and t.time_us >= before_us
    ]
    targets = [Target(time_us=t) for t in sorted({*kept_us, before_us}) if t <= book.known_us]
    expected = {target: book.expected(target) for target in [Target(), *targets]}

    async def whole() -> None:
        doomed = to_delete(book, before_us)
        with TemporaryDirectory() as folder:
            for key in [None, *doomed]:
                if key is not None:
                    book.bucket.delete(key)
                archive = await book.open()
                assert (await verify(archive))[0] == []
                for target, image in expected.items():
                    if image is not None:  # older than an archive that begins in the middle
                        assert await book.restored(target, Path(folder)) == image, target
        assert to_delete(book, before_us) == [], "the next one has nothing to do"

    asyncio.run(whole())


@given(old_books(), st.integers(-1, 31), st.integers(0, 200))
def test_a_deletion_that_broke_off_is_taken_to_its_end(
    book: Book, before_s: int, done: int
) -> None:
    before_us = T0_US + before_s * 1_000_000
    doomed = to_delete(book, before_us)
    for key in doomed[:done]:
        book.bucket.delete(key)
    assert to_delete(book, before_us) == doomed[done:]


def test_indexes_go_first_and_the_log_from_its_beginning() -> None:
    book = book_of(ledger_of([((n,), n) for n in range(6)]), range(1, 6), bases=(2, 3, 5))
    doomed = to_delete(book, T0_US + 4_000_000)
    kinds = [(key.split("/")[1], key.endswith("/index")) for key in doomed]
    assert kinds == sorted(kinds, key=[("base", True), ("base", False), ("log", False)].index)
    chunks = [key for key in doomed if "/log/" in key]
    assert chunks == [chunk_key("main", n) for n in range(1, 5)]
    assert all(a < b for a, b in pairwise(chunks))


def test_parts_without_an_index_go_if_they_are_old() -> None:
    """A base that was never finished; one that is being made stays."""
    book = book_of(ledger_of([((n,), n) for n in range(6)]), range(1, 6), bases=(2, 4, 6))
    for number in (2, 6):
        book.bucket.delete(index_key("main", number))
    doomed = to_delete(book, T0_US + 5_000_000)
    assert "main/base/000000000002/000000" in doomed
    assert not [key for key in doomed if "/000000000006/" in key or "/000000000004/" in key]


def test_without_a_base_that_is_old_enough_everything_stays() -> None:
    book = book_of(ledger_of([((n,), n) for n in range(6)]), range(1, 6), bases=(2,))
    assert to_delete(book, T0_US) == []
    assert to_delete(book, T0_US + 999_999) == []
    assert to_delete(book, T0_US + 1_000_000) != []
    assert oldest_needed({}, 1 << 62) == 0
