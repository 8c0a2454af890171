"""Keys of objects: what every store can keep, a folder as well as a bucket. Pure."""

from __future__ import annotations

import re

from engine.errors import ConfigError

KEY_LENGTH_MAX = 512
PART_LENGTH_MAX = 200
"""File systems end a name at 255 bytes, and some of it is the store's own."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*")


def check_key(key: str) -> None:
    """Raises ConfigError unless `key` is parts of letters, digits and "._=+-", joined by "/"."""
    parts = key.split("/")
    if len(key) > KEY_LENGTH_MAX or not all(
        len(part) <= PART_LENGTH_MAX and _PART.fullmatch(part) for part in parts
    ):
        raise ConfigError(
            f"{key[:80]!r} cannot be an object's key: parts of letters, digits and ._=+- that begin with "
            f"a letter, a digit or _, joined by /, at most {KEY_LENGTH_MAX} characters in all"
        )


def folders_of(key: str) -> list[str]:
    """Every key that cannot be an object besides `key`, because it is a folder above it."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]
