"""Moments in a volume's past, as people name them: an LSN, or a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.errors import ConfigError
from engine.types import LSN, CommitMark

_AGO = re.compile(r"(\d+(?:\.\d+)?) *(s|second|m|min|minute|h|hour|d|day)s? +ago")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """The last commit at or below an LSN, or made by a time (Unix microseconds), or the newest."""

    lsn: LSN | None = None
    time_us: int | None = None

    def __str__(self) -> str:
        """As `parse_moment` takes it, but for the newest, which is ""."""
        if self.time_us is not None:
            return (_EPOCH + timedelta(microseconds=self.time_us)).isoformat()
        return "" if self.lsn is None else str(self.lsn)

    @property
    def newest(self) -> bool:
        return self.lsn is None and self.time_us is None

    def admits(self, commit: CommitMark) -> bool:
        if self.lsn is not None:
            return commit.lsn <= self.lsn
        return self.time_us is None or commit.time_us <= self.time_us


NEWEST = Moment()


def parse_moment(text: str, *, now: datetime) -> Moment:
    """An LSN or a time. Raises ConfigError."""
    text = text.strip()
    if not text.isdecimal():
        time_us = parse_time(text, now=now)
        if time_us <= 0:
            raise ConfigError(f"nothing was committed at {text} yet")
        return Moment(time_us=time_us)
    if not (text.isascii() and 0 < int(text[:20]) < 2**63):
        raise ConfigError(f"{text[:80]} is no LSN; the first one is 1")
    return Moment(lsn=int(text))


def parse_time(text: str, *, now: datetime) -> int:
    """Unix microseconds of an ISO 8601 time with a zone, or of one relative to `now`.

    Raises ConfigError.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago is not None:
            return _us(now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2][0]]))
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{text[:80]!r} is no time: give one like 2026-11-30T14:32:06Z or '5 minutes ago'"
        ) from error
    if found.tzinfo is None:
        raise ConfigError(f"{text[:80]!r} has no time zone: end it with Z for UTC, or with +02:00")
    return _us(found)


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
