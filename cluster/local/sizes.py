"""Amounts of storage as people write and read them; units are powers of 1024."""

from __future__ import annotations

from engine.errors import ConfigError
from engine.types import PAGE_SIZE
from engine.volume.geometry import PAGES_MAX, max_pages_for

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Bytes of a database's largest size, written "512M", "10GiB", "1073741824".

    Raises ConfigError if it is no size, or less or more than a volume can have.
    """
    cleaned = text.strip().upper().removesuffix("B").removesuffix("I")
    number = cleaned.rstrip("KMGT")
    unit = cleaned[len(number) :]
    try:
        value = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ConfigError(f"{text!r} is no size; write it like 512M or 10G") from None
    smallest = max_pages_for(0) * PAGE_SIZE
    if value < smallest:
        raise ConfigError(f"{text} is too small; the least is {smallest // 1024**2}M")
    if value > PAGES_MAX * PAGE_SIZE:
        raise ConfigError(
            f"{text} is too large; a volume has at most {PAGES_MAX} pages, so the most is "
            f"{PAGES_MAX * PAGE_SIZE // 1024**3}G"
        )
    return value


def format_size(value: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
