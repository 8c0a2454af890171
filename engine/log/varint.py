"""Whole numbers in as few bytes as they need: seven bits a byte, the low ones first."""

from __future__ import annotations


def put(out: bytearray, value: int) -> None:
    """Append `value`. Raises ValueError if it is negative."""
    if value < 0:
        raise ValueError(f"{value} is negative")
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def get(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises IndexError if the data ends in it."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
