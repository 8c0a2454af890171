"""An object is read as it was written, or refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.archive.bases import (
    Base,
    Part,
    check_base,
    decode_base,
    decode_part,
    encode_base,
    encode_part,
    index_key,
    part_key,
)
from engine.archive.chunks import (
    ChunkHead,
    check_follows,
    chunk_key,
    commits_of,
    decode_chunk,
    encode_chunk,
    records_of,
)
from engine.archive.envelope import MAGIC, seal, unseal
from engine.errors import Corrupt, FormatError
from engine.types import PAGE_SIZE, CommitMark
from tests.archive.books import VOLUME, Book, Ledger, Written, book_of, frame_of, ledger_of

NUMBERS = st.integers(0, 2**63 - 1)
MARKS = st.builds(CommitMark, NUMBERS, NUMBERS, st.integers(0, 2**32))


# -- round trips


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary())
def test_an_envelope_is_opened_as_it_was_sealed(header: dict[str, Any], body: bytes) -> None:
    data = seal(header, body)
    found = unseal("k", data)
    assert (found.header, found.body) == (header, body)
    assert found.digest == data[-32:].hex() == hashlib.sha256(data[:-32]).hexdigest()
    assert seal(dict(reversed(header.items())), body) == data


HEADS = st.builds(
    ChunkHead,
    archive=st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    volume=NUMBERS,
    number=st.integers(1, 10**12 - 1),
    previous=st.text("0123456789abcdef"),
    after=NUMBERS,
    upto=NUMBERS,
    newest=MARKS,
    earliest_us=NUMBERS,
    known_us=NUMBERS,
    commits=NUMBERS,
)


@given(HEADS, st.binary())
def test_a_chunk_is_decoded_as_it_was_encoded(head: ChunkHead, frames: bytes) -> None:
    data = encode_chunk(head, frames)
    found = decode_chunk(chunk_key(head.archive, head.number), data)
    assert (found.head, found.frames, found.digest) == (head, frames, unseal("k", data).digest)


@given(MARKS, NUMBERS, st.lists(st.integers(1, 5), min_size=1))
def test_a_base_is_decoded_as_it_was_encoded(
    mark: CommitMark, known_us: int, counts: list[int]
) -> None:
    firsts = [sum(counts[:n]) for n in range(len(counts))]
    parts = tuple(Part(f, c, f"{f:x}") for f, c in zip(firsts, counts, strict=True))
    base = Base("a", VOLUME, 3, replace(mark, pages=sum(counts)), known_us, parts)
    assert decode_base(index_key("a", 3), encode_base(base)) == base


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=3))
def test_a_part_is_decoded_as_it_was_encoded(beginnings: list[bytes]) -> None:
    pages = [start.ljust(PAGE_SIZE, b"\0") for start in beginnings]
    key = part_key("a", 3, 0)
    data = encode_part("a", 3, 0, pages)
    part = Part(0, len(pages), unseal(key, data).digest)
    base = Base("a", VOLUME, 3, CommitMark(9, 9, len(pages)), 9, (part,))
    assert decode_part(key, data, base, part) == b"".join(pages)


# -- damage


def sample() -> Book:
    """Two chunks with a base behind each; the log is `COMMITS`."""
    return book_of(ledger_of([((0, 1), 1), ((2,), 2), ((0, 2, 5), 3)]), [3], bases=(1, 2))


CHUNK, CHUNK2 = chunk_key("main", 1), chunk_key("main", 2)
INDEX, INDEX2 = index_key("main", 1), index_key("main", 2)
PART, PART2 = part_key("main", 2, 0), part_key("main", 2, 1)


def decode(book: Book, key: str, data: bytes) -> object:
    """As who needs the object does."""
    if "/log/" in key:
        chunk = decode_chunk(key, data)
        return chunk, list(records_of(chunk)), commits_of(chunk)
    if key.endswith("/index"):
        return decode_base(key, data)
    base = decode_base(INDEX2, book.objects[INDEX2])
    return decode_part(key, data, base, base.parts[int(key.rpartition("/")[2])])


ALL = [CHUNK, CHUNK2, INDEX2, PART, PART2]


@pytest.mark.parametrize("key", ALL)
def test_every_flipped_byte_is_noticed(key: str) -> None:
    book = sample()
    whole = book.objects[key]
    decode(book, key, whole)
    body = 8 + struct.unpack_from("<I", whole, 4)[0]
    everywhere = [
        *range(body),
        *range(body, len(whole) - 32, 61),
        *range(len(whole) - 32, len(whole)),
    ]
    for at in everywhere:
        for bit in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[at] ^= bit
            with pytest.raises((Corrupt, FormatError), match=key):
                decode(book, key, bytes(damaged))


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1],
        lambda data: data[:39],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[1:],
        lambda data: data + b"\0",
        lambda data: data + data,
        lambda data: bytes(len(data)),
        lambda data: b"<html>not here</html>" * 10,
    ],
)
def test_what_is_cut_or_grown_is_refused(key: str, damage: Callable[[bytes], bytes]) -> None:
    book = sample()
    with pytest.raises((Corrupt, FormatError), match=key):
        decode(book, key, damage(book.objects[key]))


@pytest.mark.parametrize("key", ALL)
def test_another_version_says_so(key: str) -> None:
    book = sample()
    newer = b"SXO2" + book.objects[key][4:]
    with pytest.raises(FormatError, match=rf"{key} has format b'SXO2'; this Sextet knows b'SXO1'"):
        decode(book, key, newer)


@pytest.mark.parametrize(("key", "other"), list(permutations(ALL, 2)))
def test_another_object_of_the_same_archive_is_refused(key: str, other: str) -> None:
    book = sample()
    with pytest.raises(Corrupt, match=f"object {key} is in the place of another"):
        decode(book, key, book.objects[other])


@pytest.mark.parametrize("key", ALL)
def test_the_same_object_of_another_archive_is_refused(key: str) -> None:
    book = sample()
    other = book_of(book.ledger, [3], bases=(1, 2), name="other")
    stranger = other.objects[key.replace("main", "other")]
    with pytest.raises(Corrupt, match=f"object {key} is in the place of another"):
        decode(book, key, stranger)


# -- whole objects that say what cannot be


def broken(header: dict[str, Any], **changes: object) -> bytes:
    changed = {k: v for k, v in {**header, **changes}.items() if v is not None}
    return seal(changed, b"")


HOSTILE: list[dict[str, Any]] = [
    {"number": None},
    {"number": "x"},
    {"archive": None},
    {"volume": [1]},
    {"kind": None},
    {"kind": "elsewhere"},
]


@pytest.mark.parametrize("key", [CHUNK, INDEX2])
@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_a_header_that_lacks_something_is_refused(key: str, changes: dict[str, Any]) -> None:
    book = sample()
    header = unseal(key, book.objects[key]).header
    with pytest.raises(Corrupt, match=key):
        decode(book, key, broken(header, **changes))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [[0, 2, "d"], [3, 4, "d"]],
        [[0, 5, "d"]],
        [[1, 5, "d"]],
        [[0, 2, "d"], [3, 3, "d"]],
        [[0, 6]],
        7,
    ],
    ids=str,
)
def test_a_base_without_all_pages_is_refused(parts: object) -> None:
    header = unseal(INDEX2, sample().objects[INDEX2]).header
    assert header["commit"][2] == 6
    with pytest.raises(Corrupt, match=INDEX2):
        decode_base(INDEX2, broken(header, parts=parts))


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff", b"null"])
def test_a_header_that_is_none_is_refused(text: bytes) -> None:
    inner = struct.pack("<4sI", MAGIC, len(text)) + text
    with pytest.raises(Corrupt, match="object k has no readable header"):
        unseal("k", inner + hashlib.sha256(inner).digest())


def with_frames(book: Book, frames: bytes, **changes: Any) -> bytes:
    head = decode_chunk(CHUNK2, book.objects[CHUNK2]).head
    return encode_chunk(replace(head, **changes), frames)


def records(ledger: Ledger, *lsns: int) -> list[Written]:
    return [r for r in ledger.records if r.lsn in lsns]


@pytest.mark.parametrize(
    ("lsns", "changes"),
    [
        ((4,), {}),  # the last ones are missing
        ((5, 6), {}),  # the first one is
        ((4, 6), {}),  # one in the middle is
        ((4, 5, 6), {"upto": 7}),
        ((4, 5, 6), {"after": 2}),
        ((4, 5, 6), {"volume": VOLUME + 1}),
        ((), {}),
    ],
    ids=str,
)
def test_records_that_do_not_chain_are_refused(
    lsns: tuple[int, ...], changes: dict[str, Any]
) -> None:
    book = sample()
    frames = b"".join(frame_of([r]) for r in records(book.ledger, *lsns))
    chunk = decode_chunk(CHUNK2, with_frames(book, frames, **changes))
    with pytest.raises(Corrupt, match=CHUNK2):
        list(records_of(chunk))


def test_a_damaged_frame_is_named_with_its_object() -> None:
    book = sample()
    frames = bytearray(decode_chunk(CHUNK2, book.objects[CHUNK2]).frames)
    frames[-1] ^= 1
    chunk = decode_chunk(CHUNK2, with_frames(book, bytes(frames)))
    for read in (lambda: list(records_of(chunk)), lambda: commits_of(chunk)):
        with pytest.raises(Corrupt, match=f"object {CHUNK2}: frame"):
            read()


def test_records_are_the_chunks_own_only() -> None:
    """Frames have some of before and of after it."""
    book = sample()
    first, second = (decode_chunk(key, book.objects[key]) for key in (CHUNK, CHUNK2))
    assert [r.lsn for r in records_of(first)] == [1, 2, 3]
    assert [r.lsn for r in records_of(second)] == [4, 5, 6]
    assert commits_of(first) == book.ledger.marks[:2]
    assert commits_of(second) == book.ledger.marks[2:]


# -- what must follow what


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": 3}, "is not what follows chunk 1"),
        ({"number": 1}, "is not what follows chunk 1"),
        ({"volume": VOLUME + 1}, "is not what follows chunk 1"),
        ({"previous": "00"}, "follows another chunk 1 than the one that is there"),
        ({"after": 2}, "begins after LSN 2, not 3"),
    ],
    ids=str,
)
def test_a_chunk_that_does_not_follow_is_refused(changes: dict[str, Any], said: str) -> None:
    book = sample()
    before = decode_chunk(CHUNK, book.objects[CHUNK])
    after = decode_chunk(CHUNK2, book.objects[CHUNK2])
    check_follows(after, before)
    changed = replace(after, head=replace(after.head, **changes))
    with pytest.raises(Corrupt, match=f"{chunk_key('main', changed.head.number)} {said}"):
        check_follows(changed, before)


def test_only_the_first_record_follows_nothing() -> None:
    book = sample()
    check_follows(decode_chunk(CHUNK, book.objects[CHUNK]), None)
    with pytest.raises(Corrupt, match=f"{CHUNK2} begins after LSN 3"):
        check_follows(decode_chunk(CHUNK2, book.objects[CHUNK2]), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": 8},
        {"number": 1},
        {"commit": CommitMark(3, 3, 6)},
        {"commit": CommitMark(6, 1, 6)},
    ],
    ids=str,
)
def test_a_base_is_its_chunks_own(changes: dict[str, Any]) -> None:
    book = sample()
    base = decode_base(INDEX2, book.objects[INDEX2])
    chunk = decode_chunk(CHUNK2, book.objects[CHUNK2])
    check_base(base, chunk)
    with pytest.raises(Corrupt, match=r"/index is not the state at the end of chunk 2"):
        check_base(replace(base, **changes), chunk)


def test_a_base_stands_behind_a_commit() -> None:
    """Not behind a chunk that ends in the middle of a transaction."""
    book = book_of(ledger_of([((0,), 1), ((0, 1), 2)]), [2])
    chunk = decode_chunk(CHUNK, book.objects[CHUNK])
    assert chunk.head.newest.lsn < chunk.head.upto
    base = Base("main", VOLUME, 1, chunk.head.newest, 9, ())
    with pytest.raises(Corrupt, match="is not the state"):
        check_base(base, chunk)


def test_headers_are_for_people() -> None:
    """The first line of `strings` tells what an object is."""
    data = sample().objects[INDEX]
    size = struct.unpack_from("<I", data, 4)[0]
    assert json.loads(data[8 : 8 + size])["kind"] == "base"
