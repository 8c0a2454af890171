"""Faults by SQL, as Aurora's users write them: ALTER SYSTEM CRASH and SIMULATE, SHOW VOLUME STATUS. Pure.

    ALTER SYSTEM CRASH [INSTANCE | NODE]
    ALTER SYSTEM SIMULATE n PERCENT READ REPLICA FAILURE [TO ALL | TO "name"]
    ALTER SYSTEM SIMULATE n PERCENT DISK FAILURE [IN DISK i | NODE "name"]
    ALTER SYSTEM SIMULATE n PERCENT DISK CONGESTION BETWEEN a AND b MILLISECONDS [IN DISK i | NODE "name"]

each SIMULATE followed by FOR INTERVAL n {SECOND | MINUTE | HOUR}. `engine.faults.bysql` says what they
do here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import SqlError
from engine.sql.tokens import Token

UNITS_S = {"SECOND": 1.0, "MINUTE": 60.0, "HOUR": 3600.0}
INTERVAL_S_MAX = 24 * 3600.0

REPLICA_FAILURE, DISK_FAILURE, DISK_CONGESTION = "replica failure", "disk failure", "congestion"
CRASH, VOLUME_STATUS = "crash", "volume status"


@dataclass(frozen=True, slots=True)
class FaultStatement:
    """`node`: a name, the number of a disk in decimal, or "" for all there are."""

    what: str
    percent: float = 100.0
    node: str = ""
    for_s: float = 0.0
    between_s: tuple[float, float] = (0.0, 0.0)


class _Reader:
    """The tokens of one statement from left to right."""

    def __init__(self, found: Sequence[Token]) -> None:
        self._left = list(found)

    def take(self, *words: str) -> bool:
        """Go past these words if they come next."""
        if [token.upper for token in self._left[: len(words)]] != list(words):
            return False
        del self._left[: len(words)]
        return True

    def need(self, *words: str) -> None:
        if not self.take(*words):
            raise self.error(" ".join(words))

    def number(self) -> float:
        if not self._left or self._left[0].kind != "number":
            raise self.error("a number")
        text = self._left.pop(0).text
        try:
            return float(text)
        except ValueError:
            raise SqlError(f"{text} is no number", sqlstate="42601") from None

    def name(self) -> str:
        """A node: a name in quotes of either kind, or a number."""
        if not self._left or self._left[0].kind not in ("quoted", "string", "number"):
            raise self.error('a name in quotes, as in "storage-1"')
        token = self._left.pop(0)
        return token.text if token.kind == "number" else token.text[1:-1]

    def end(self) -> None:
        if self._left:
            raise self.error("the end of the statement")

    def error(self, expected: str) -> SqlError:
        if not self._left:
            return SqlError(f"expected {expected} at the end of the statement", sqlstate="42601")
        token = self._left[0]
        return SqlError(
            f'expected {expected} at or near "{token.text[:40]}"',
            sqlstate="42601",
            position=token.start + 1,
        )


def parse_alter_system(found: Sequence[Token]) -> FaultStatement:
    """Of the tokens behind ALTER SYSTEM. Raises SqlError 42601, 22023."""
    reader = _Reader(found)
    if reader.take("CRASH"):
        if not reader.take("INSTANCE"):
            reader.take("NODE")
        reader.end()
        return FaultStatement(CRASH)
    if not reader.take("SIMULATE"):
        raise reader.error("CRASH or SIMULATE")
    percent = reader.number()
    reader.need("PERCENT")
    statement = replace(_what(reader), percent=percent, for_s=_interval(reader))
    reader.end()
    if not 0 < percent <= 100:
        raise SqlError(f"{percent:g} percent cannot be: more than 0, up to 100", sqlstate="22023")
    return statement


def _what(reader: _Reader) -> FaultStatement:
    if reader.take("READ", "REPLICA", "FAILURE"):
        node = ""
        if not reader.take("TO", "ALL") and reader.take("TO"):
            node = reader.name()
        return FaultStatement(REPLICA_FAILURE, node=node)
    if reader.take("DISK", "FAILURE"):
        return FaultStatement(DISK_FAILURE, node=_disk(reader))
    reader.need("DISK", "CONGESTION", "BETWEEN")
    low = reader.number()
    reader.need("AND")
    high = reader.number()
    reader.need("MILLISECONDS")
    if not 0 <= low <= high <= 60_000:
        raise SqlError(f"between {low:g} and {high:g} ms cannot be", sqlstate="22023")
    between_s = (low / 1000, high / 1000)
    return FaultStatement(DISK_CONGESTION, node=_disk(reader), between_s=between_s)


def _disk(reader: _Reader) -> str:
    if reader.take("IN", "DISK") or reader.take("NODE") or reader.take("IN", "NODE"):
        return reader.name()
    return ""


def _interval(reader: _Reader) -> float:
    reader.need("FOR", "INTERVAL")
    count = reader.number()
    for unit, seconds in UNITS_S.items():
        if reader.take(unit) or reader.take(f"{unit}S"):
            if not 0 < count * seconds <= INTERVAL_S_MAX:
                raise SqlError("an interval is longer than 0 and at most a day", sqlstate="22023")
            return count * seconds
    raise reader.error("SECOND, MINUTE or HOUR")
