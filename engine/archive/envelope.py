"""What every object of an archive looks like: a header that a person can read, a body, a checksum. Pure.

    SXO1 | u32 bytes of header | header, JSON with sorted keys | body | SHA-256 of all before

The checksum is also the object's name for its successor: a chain of them cannot be reordered, and nothing
can be put in another's place without being noticed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any

from engine.errors import Corrupt, FormatError

MAGIC = b"SXO1"
"""The digit is the format's version."""

_START = struct.Struct("<4sI")
_SUM = 32


@dataclass(frozen=True, slots=True)
class Envelope:
    """One object, opened. `digest`: its SHA-256, hexadecimal."""

    header: dict[str, Any]
    body: bytes
    digest: str


def seal(header: dict[str, Any], body: bytes) -> bytes:
    """An object's bytes; the same for the same contents."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    inner = b"".join((_START.pack(MAGIC, len(text)), text, body))
    return inner + hashlib.sha256(inner).digest()


def unseal(key: str, data: bytes) -> Envelope:
    """Raises FormatError for another version or no object at all, Corrupt for a damaged one; they name
    `key`."""
    if len(data) < _START.size + _SUM:
        raise Corrupt(f"object {key} is cut short: it has {len(data)} bytes")
    magic, size = _START.unpack_from(data)
    if magic != MAGIC:
        if magic[:3] == MAGIC[:3]:
            raise FormatError(f"object {key} has format {magic!r}; this Sextet knows {MAGIC!r}")
        raise Corrupt(f"object {key} is no object of an archive: it begins with {magic!r}")
    inner, digest = data[:-_SUM], data[-_SUM:]
    if hashlib.sha256(inner).digest() != digest:
        raise Corrupt(f"object {key} fails its checksum")
    try:
        header = json.loads(inner[_START.size : _START.size + size])
    except ValueError as error:
        raise Corrupt(f"object {key} has no readable header: {error}") from error
    if not isinstance(header, dict):
        raise Corrupt(f"object {key} has no readable header")
    return Envelope(header, inner[_START.size + size :], digest.hex())
