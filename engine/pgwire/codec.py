"""The protocol without I/O: bytes to frontend messages, backend messages to bytes.

Invariants
- A message is taken only whole; its length is judged before its body is waited for, so a client
  cannot make us buffer more than the limit.
- Whatever is not exactly a message of the protocol raises ProtocolError, and the caller closes.

Reference: PostgreSQL 15 documentation, chapter 55, "Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from engine.errors import ProtocolError

STARTUP_BYTES_MAX = 10_000
MESSAGE_BYTES_MAX = 64 * 1024 * 1024

_PROTOCOL_3 = 3
_CANCEL = 80877102
_SSL = 80877103
_GSS = 80877104
_HEAD = struct.Struct("!Bi")
_INT = struct.Struct("!i")
_SHORT = struct.Struct("!h")
_COUNT = struct.Struct("!H")


# -- frontend messages


@dataclass(frozen=True, slots=True)
class Startup:
    """`minor` is the protocol's minor version that the client asked for."""

    minor: int
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """SSLRequest or GSSENCRequest: answered with one byte "N", and the client goes on in clear."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    pid: int
    secret: int


@dataclass(frozen=True, slots=True)
class Query:
    sql: str


@dataclass(frozen=True, slots=True)
class Parse:
    name: str
    sql: str
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    portal: str
    statement: str
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Describe:
    kind: str
    """"S" for a statement, "P" for a portal; likewise in Close."""
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    portal: str
    rows_max: int


@dataclass(frozen=True, slots=True)
class Close:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Sync:
    pass


@dataclass(frozen=True, slots=True)
class Flush:
    pass


@dataclass(frozen=True, slots=True)
class Terminate:
    pass


@dataclass(frozen=True, slots=True)
class CopyData:
    """Of a COPY that was refused, on its way already: to be ignored. CopyDone and CopyFail too."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """Understood but not offered."""


@dataclass(frozen=True, slots=True)
class BadText:
    """A message of type `kind` in which a string is no UTF-8."""

    kind: str
    reason: str


Message: TypeAlias = (
    Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | Sync
    | Flush
    | Terminate
    | CopyData
    | FunctionCall
    | BadText
)
FirstMessage: TypeAlias = Startup | EncryptionRequest | CancelRequest


class Decoder:
    """Feed it bytes, take messages. First `first()` until a Startup came, then `next()`."""

    def __init__(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._limit = message_bytes_max

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def first(self) -> FirstMessage | None:
        """A message of the start-up phase; None if more bytes are needed. Raises ProtocolError."""
        if self._available() < 8:
            return None
        length, code = struct.unpack_from("!ii", self._buffer, self._at)
        if not 8 <= length <= STARTUP_BYTES_MAX:
            raise ProtocolError(f"a start-up packet of {length} bytes is no PostgreSQL client's")
        if self._available() < length:
            return None
        body = bytes(self._buffer[self._at + 8 : self._at + length])
        self._at += length
        if code in (_SSL, _GSS):
            return EncryptionRequest()
        if code == _CANCEL:
            if len(body) != 8:
                raise ProtocolError("a cancel request has 16 bytes")
            return CancelRequest(*struct.unpack("!II", body))
        major, minor = code >> 16, code & 0xFFFF
        if major != _PROTOCOL_3:
            raise ProtocolError(f"protocol version {major}.{minor} is not supported, 3.0 is")
        return Startup(minor, _parameters(body))

    def next(self) -> Message | None:
        """The next message; None if more bytes are needed. Raises ProtocolError."""
        buffer, at = self._buffer, self._at
        available = len(buffer) - at
        if available < 5:
            return None
        kind, length = _HEAD.unpack_from(buffer, at)
        if kind not in _DECODERS:
            raise ProtocolError(f"message type {chr(kind)!r} is not of the PostgreSQL protocol")
        if not 4 <= length <= self._limit:
            raise ProtocolError(f"a message of {length} bytes; the limit is {self._limit}")
        if available < 1 + length:
            return None
        body = bytes(buffer[at + 5 : at + 1 + length])
        self._at = at + 1 + length
        return _same_again(kind, body) if len(body) <= _REPEATED_BYTES else _decoded(kind, body)

    def more_follows(self) -> bool:
        """Whether another message has arrived, and it is no Sync: something is yet to be done."""
        at = self._at
        if len(self._buffer) - at < 5 or self._buffer[at] == ord("S"):
            return False
        (length,) = _INT.unpack_from(self._buffer, at + 1)
        return len(self._buffer) - at > int(length)

    def sync_follows(self, *, executes: int = 0) -> bool:
        """Whether what has arrived goes on with a Sync, after so many Executes and any Closes."""
        at = self._at
        while len(self._buffer) - at >= 5:
            kind = self._buffer[at]
            if kind == ord("S"):
                return True
            length = int(_INT.unpack_from(self._buffer, at + 1)[0])
            executes -= kind == ord("E")
            if kind not in b"EC" or executes < 0 or length < 4:
                return False
            at += 1 + length
        return False

    def _available(self) -> int:
        return len(self._buffer) - self._at


class _Reader:
    """Takes fields off a message's body."""

    __slots__ = ("at", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def finished(self) -> bool:
        return self.at == len(self.body)

    def text(self) -> str:
        end = self.body.index(0, self.at)
        found = self.body[self.at : end].decode()
        self.at = end + 1
        return found

    def byte(self) -> str:
        self.at += 1
        return chr(self.body[self.at - 1])

    def integer(self) -> int:
        (found,) = _INT.unpack_from(self.body, self.at)
        self.at += 4
        return int(found)

    def shorts(self) -> tuple[int, ...]:
        (count,) = _COUNT.unpack_from(self.body, self.at)
        at = self.at + 2
        self.at = at + 2 * count
        return struct.unpack_from(f"!{count}h", self.body, at) if count else ()

    def ints(self) -> tuple[int, ...]:
        (count,) = _COUNT.unpack_from(self.body, self.at)
        self.at += 2
        return tuple([self.integer() for _ in range(count)])

    def values(self) -> tuple[bytes | None, ...]:
        """Of a Bind, which comes with every statement: no call for each."""
        body, at = self.body, self.at + 2
        found: list[bytes | None] = []
        for _ in range(_COUNT.unpack_from(body, at - 2)[0]):
            (size,) = _INT.unpack_from(body, at)
            at += 4
            if size == -1:
                found.append(None)
                continue
            if size < 0 or at + size > len(body):
                raise ValueError(f"a value of {size} bytes")
            found.append(body[at : at + size])
            at += size
        self.at = at
        return tuple(found)

    def rest(self) -> None:
        self.at = len(self.body)


Decode: TypeAlias = Callable[[_Reader], Message]


def _decoded(kind: int, body: bytes) -> Message:
    """Raises ProtocolError."""
    reader = _Reader(body)
    try:
        message = _DECODERS[kind](reader)
    except UnicodeDecodeError as error:
        return BadText(chr(kind), str(error))
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"message {chr(kind)!r} is malformed: {error}") from error
    if not reader.finished():
        raise ProtocolError(f"message {chr(kind)!r} has bytes left over")
    return message


_same_again = lru_cache(maxsize=1024)(_decoded)
"""Drivers send the same Describe, Execute and Sync with every statement, and messages never change."""

_REPEATED_BYTES = 12
"""Longer ones, a Bind with its values above all, are hardly ever sent twice."""


def _parameters(body: bytes) -> dict[str, str]:
    try:
        parts = body.decode().split("\0")
    except UnicodeDecodeError as error:
        raise ProtocolError("start-up parameters must be UTF-8") from error
    if len(parts) < 2 or parts[-2:] != ["", ""] or len(parts) % 2:
        raise ProtocolError("the start-up packet's parameters are malformed")
    return dict(zip(parts[:-2:2], parts[1:-2:2], strict=True))


def _copy(reader: _Reader) -> Message:
    reader.rest()
    return CopyData()


def _function_call(reader: _Reader) -> Message:
    reader.rest()
    return FunctionCall()


_DECODERS: dict[int, Decode] = {
    ord("Q"): lambda r: Query(r.text()),
    ord("P"): lambda r: Parse(r.text(), r.text(), r.ints()),
    ord("B"): lambda r: Bind(r.text(), r.text(), r.shorts(), r.values(), r.shorts()),
    ord("D"): lambda r: Describe(r.byte(), r.text()),
    ord("E"): lambda r: Execute(r.text(), r.integer()),
    ord("C"): lambda r: Close(r.byte(), r.text()),
    ord("S"): lambda r: Sync(),
    ord("H"): lambda r: Flush(),
    ord("X"): lambda r: Terminate(),
    ord("d"): _copy,
    ord("c"): _copy,
    ord("f"): _copy,
    ord("F"): _function_call,
}


# -- backend messages


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Type byte, length, body."""
    return kind + _INT.pack(len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


AUTHENTICATION_OK = message(b"R", _INT.pack(0))
PARSE_COMPLETE = message(b"1")
BIND_COMPLETE = message(b"2")
CLOSE_COMPLETE = message(b"3")
NO_DATA = message(b"n")
EMPTY_QUERY = message(b"I")
PORTAL_SUSPENDED = message(b"s")
READY = {status: message(b"Z", status.encode()) for status in "ITE"}


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", text(name) + text(value))


def negotiate_version(unknown: Sequence[str]) -> bytes:
    """The newest version we speak is 3.0, and these `_pq_.` options are not known."""
    body = (
        _INT.pack(_PROTOCOL_3 << 16)
        + _INT.pack(len(unknown))
        + b"".join(text(name) for name in unknown)
    )
    return message(b"v", body)


def key_data(pid: int, secret: int) -> bytes:
    return message(b"K", struct.pack("!II", pid, secret))


def command_complete(tag: str) -> bytes:
    return message(b"C", text(tag))


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def row_description(columns: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Columns as (name, type oid, type size in bytes or -1, format)."""
    parts = [struct.pack("!H", len(columns))]
    for name, oid, size, code in columns:
        parts.append(text(name) + struct.pack("!IhIhih", 0, 0, oid, size, -1, code))
    return message(b"T", b"".join(parts))


def data_row(values: Sequence[bytes | None]) -> bytes:
    parts = [_SHORT.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(_INT.pack(len(value)))
            parts.append(value)
    body = b"".join(parts)
    return b"D" + _INT.pack(len(body) + 4) + body


def report(kind: bytes, fields: dict[str, str]) -> bytes:
    """ErrorResponse (b"E") or NoticeResponse (b"N")."""
    body = b"".join(code.encode() + text(value) for code, value in fields.items() if value)
    return message(kind, body + b"\0")


def error(
    sqlstate: str, text_: str, *, hint: str = "", position: int = 0, severity: str = "ERROR"
) -> bytes:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text_, "H": hint}
    fields["P"] = str(position) if position else ""
    return report(b"E", fields)


def notice(sqlstate: str, text_: str, *, severity: str = "WARNING") -> bytes:
    return report(b"N", {"S": severity, "V": severity, "C": sqlstate, "M": text_})
