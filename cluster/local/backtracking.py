"""The backtrack window: to any moment of how long ago a cluster may be put back in place. Pure.

It is decided when the cluster is made. The archive must have all of it, so retention may not be shorter.
"""

from __future__ import annotations

import math
import re

from engine.errors import ConfigError

WINDOW_S_MAX = 72 * 3600

DAY_S = 86400

_UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_window(text: str) -> int:
    """Seconds of a window written "24h", "90m" or "30s". Raises ConfigError if that cannot be one."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smh])", text.strip().lower())
    if found is None:
        raise ConfigError(f"{text!r} is no backtrack window; write it like 24h or 90m")
    seconds = int(float(found[1]) * _UNITS[found[2]])
    if not 0 < seconds <= WINDOW_S_MAX:
        raise ConfigError(
            f"a backtrack window of {text} cannot be; choose one of at most {WINDOW_S_MAX // 3600}h"
        )
    return seconds


def window_text(seconds: int) -> str:
    """As `parse_window` takes it."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def check_window(cluster: str, window_s: int, retention_days: int) -> None:
    """`window_s`: 0 if there is none. Raises ConfigError."""
    if not 0 <= window_s <= WINDOW_S_MAX:
        raise ConfigError(f"a backtrack window of {window_s} s cannot be")
    needed = math.ceil(window_s / DAY_S)
    if retention_days < needed:
        raise ConfigError(
            f"a backtrack window of {window_text(window_s)} needs a retention of at least {needed} days, "
            f"not {retention_days}; say `--retention {needed}` when {cluster} is made, or later "
            f"`sextet backup retention {cluster} {needed}`"
        )
