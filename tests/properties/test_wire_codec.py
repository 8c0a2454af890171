"""The wire protocol's codec: any split of the stream gives the same messages; garbage only errors."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ProtocolError
from engine.pgwire import codec
from engine.pgwire.codec import (
    Bind,
    CancelRequest,
    Close,
    Decoder,
    Describe,
    EncryptionRequest,
    Execute,
    Message,
    Parse,
    Query,
    Startup,
    Sync,
    Terminate,
)

WORDS = st.text(
    alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
)
SHORTS = st.lists(st.integers(0, 1), max_size=4).map(tuple)
VALUES = st.lists(st.none() | st.binary(max_size=30), max_size=4).map(tuple)
KINDS = st.sampled_from("SP")
MESSAGES = st.one_of(
    st.builds(Query, WORDS),
    st.builds(Parse, WORDS, WORDS, st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)),
    st.builds(Bind, WORDS, WORDS, SHORTS, VALUES, SHORTS),
    st.builds(Describe, KINDS, WORDS),
    st.builds(Execute, WORDS, st.integers(0, 2**31 - 1)),
    st.builds(Close, KINDS, WORDS),
    st.just(Sync()),
    st.just(Terminate()),
)


def written(message: Message) -> bytes:
    """A frontend message as a client writes it, independently of the decoder."""

    def text(value: str) -> bytes:
        return value.encode() + b"\0"

    def shorts(values: tuple[int, ...]) -> bytes:
        return struct.pack(f"!H{len(values)}h", len(values), *values)

    match message:
        case Query(sql):
            kind, body = b"Q", text(sql)
        case Parse(name, sql, oids):
            kind = b"P"
            body = text(name) + text(sql) + struct.pack(f"!H{len(oids)}i", len(oids), *oids)
        case Bind(portal, statement, formats, values, results):
            parts = [struct.pack("!H", len(values))]
            parts += [
                b"\xff" * 4 if value is None else struct.pack("!i", len(value)) + value
                for value in values
            ]
            kind = b"B"
            body = (
                text(portal) + text(statement) + shorts(formats) + b"".join(parts) + shorts(results)
            )
        case Describe(of, name):
            kind, body = b"D", of.encode() + text(name)
        case Execute(portal, rows):
            kind, body = b"E", text(portal) + struct.pack("!i", rows)
        case Close(of, name):
            kind, body = b"C", of.encode() + text(name)
        case Sync():
            kind, body = b"S", b""
        case _:
            kind, body = b"X", b""
    return kind + struct.pack("!i", len(body) + 4) + body


def drain(decoder: Decoder) -> list[Message]:
    found = []
    while (message := decoder.next()) is not None:
        found.append(message)
    return found


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_any_split_of_the_stream_gives_the_same_messages(
    messages: list[Message], cuts: list[int]
) -> None:
    stream = b"".join(map(written, messages))
    decoder = Decoder()
    found: list[Message] = []
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        decoder.feed(stream[start:end])
        found += drain(decoder)
    assert found == messages


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_random_bytes_are_messages_or_a_protocol_error(parts: list[bytes]) -> None:
    for take in ("first", "next"):
        decoder = Decoder(message_bytes_max=10_000)
        try:
            for part in parts:
                decoder.feed(part)
                while getattr(decoder, take)() is not None:
                    pass
        except ProtocolError:
            continue


@given(MESSAGES, st.integers(1, 255), st.data())
def test_a_changed_byte_is_a_message_or_a_protocol_error(
    message: Message, flip: int, data: st.DataObject
) -> None:
    stream = bytearray(written(message))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= flip
    decoder = Decoder(message_bytes_max=10_000)
    decoder.feed(bytes(stream))
    try:
        drain(decoder)
    except ProtocolError:
        return


def startup(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!ii", len(body) + 8, code) + body


def first(data: bytes) -> object:
    decoder = Decoder()
    decoder.feed(data)
    return decoder.first()


def test_the_start_up_phase() -> None:
    assert first(startup(80877103)) == EncryptionRequest()
    assert first(startup(80877104)) == EncryptionRequest()
    assert first(startup(80877102, struct.pack("!II", 7, 9))) == CancelRequest(7, 9)
    said = first(startup(196608, b"user\0me\0database\0main\0\0"))
    assert said == Startup(0, {"user": "me", "database": "main"})
    assert first(startup(196608, b"user\0me\0\0")[:9]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!ii", 2**30, 196608),
        struct.pack("!ii", 4, 196608),
        startup(131072, b"user\0\0"),
        startup(196608, b"user\0me"),
        startup(196608, b"\xff\xfe\0x\0\0"),
        startup(80877102, b"short"),
    ],
)
def test_what_is_no_start_up_packet_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        first(data)


def test_an_oversized_message_is_refused_before_its_body_came() -> None:
    decoder = Decoder(message_bytes_max=1000)
    decoder.feed(b"Q" + struct.pack("!i", 1001))
    with pytest.raises(ProtocolError, match="1001"):
        decoder.next()


@given(st.lists(st.none() | st.binary(max_size=20), max_size=5))
def test_a_data_row_has_its_values(values: list[bytes | None]) -> None:
    row = codec.data_row(values)
    (length,) = struct.unpack_from("!i", row, 1)
    assert (row[:1], length) == (b"D", len(row) - 1)
    at, found = 7, []
    for _ in values:
        (size,) = struct.unpack_from("!i", row, at)
        at += 4
        found.append(None if size < 0 else row[at : at + size])
        at += max(0, size)
    assert found == values
    assert at == len(row)
