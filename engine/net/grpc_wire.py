"""What crosses the wire besides plain messages: our errors, the end of a stream, and junk.

**Errors** travel in the status details as "ClassName: message" with code FAILED_PRECONDITION, so a
`StaleEpoch` raised by a storage node is a `StaleEpoch` at the writer. Every other status code is
gRPC's own word about the connection.

**The end of a caller's stream is a message.** gRPC half-closes a stream without one, but a server
reads the same end-of-file when the connection dies, and its notice that the caller has gone may come
later (seen in about one death in twenty with grpcio 1.85). Half an import would look like a whole
one. So `done_sending` sends END first, and an end without END is the caller's death. Replies need
none: they end with a status.

**Junk**, bytes that are no message of the method's type, becomes a `Junk` value: grpc.aio itself
would log a traceback on a server and hand out None, "the end", on a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from engine.errors import (
    BY_NAME,
    DeadlineExceeded,
    Overloaded,
    ProtocolError,
    SextetError,
    Unavailable,
)

MESSAGE_BYTES_MAX = 64 * 1024 * 1024

OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Of both halves. Keepalive finds a peer that is silent while streams are open."""

OVER = (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""What grpc.aio raises when a call is used that is over."""

_DETAIL_CHARS_MAX = 1000
"""Details travel percent-encoded in a header, and HTTP/2 peers refuse headers above 8 KiB."""

_END_BYTES = b"\x07"
"""Field 0 of wire type 7: no protobuf message encodes to it."""


class End:
    """The caller will send nothing more."""


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes received that are no message of the expected type; `error` says so, to be raised."""

    error: ProtocolError


END: Final = End()


def encode(message: Message | End) -> bytes:
    return _END_BYTES if isinstance(message, End) else message.SerializeToString()


def decoder(kind: type[Message], what: str) -> Callable[[bytes], Message | End | Junk]:
    """A deserializer that never raises. `what` names the method for the error's text."""

    def decode(data: bytes) -> Message | End | Junk:
        if data == _END_BYTES:
            return END
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return Junk(ProtocolError(f"{what}: {len(data)} bytes are no {kind.__name__}: {error}"))

    return decode


def details_of(error: SextetError) -> str:
    return f"{type(error).__name__}: {error}"[:_DETAIL_CHARS_MAX]


def error_of(code: grpc.StatusCode, details: str, what: str) -> SextetError:
    """The exception to raise here for a call that ended with `code`."""
    match code:
        case grpc.StatusCode.FAILED_PRECONDITION:
            name, _, message = details.partition(": ")
            kind = BY_NAME.get(name)
            return ProtocolError(f"{what}: {details}") if kind is None else kind(message)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{what}: no answer in time")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unavailable(f"{what}: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" not in details:
            return Overloaded(f"{what}: {details}")
        case _:
            return ProtocolError(f"{what}: {code.name}: {details}")
