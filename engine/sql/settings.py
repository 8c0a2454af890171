"""Numbers of the SQL engine, with units and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from engine.moments import NEWEST, Moment
from engine.types import LSN

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SqlSettings:
    """One instance's. Sessions start with its timeouts and may change theirs."""

    statement_timeout_s: float = 30.0
    """Also how long a commit waits for its quorum before its outcome is called unknown."""

    lock_timeout_s: float = 0.0

    progress_steps: int = 5000
    """SQLite VM steps between two turns of the event loop: well below a millisecond."""

    cache_pages: int = 48
    """SQLite's own page cache per connection, a copy of what the buffer pool has. It grows beyond
    this only by the dirty pages of a running transaction."""

    prepared_max: int = 128
    """Statements remembered per session: their metadata here, SQLite's programs in APSW's cache."""

    heap_bytes_max: int = 1024 * MIB
    """SQLite's memory in this process, all sessions together; beyond it a statement fails (53200).
    It bounds a transaction's dirty pages, temporary tables and sorts."""

    value_bytes_max: int = 64 * MIB
    """One string, blob or row."""

    sql_bytes_max: int = 8 * MIB


class ReadConsistency(Enum):
    """What a session's reads must see, see docs/read-consistency.md."""

    EVENTUAL = "eventual"
    SESSION = "session"
    STRONG = "strong"


@dataclass(slots=True)
class SessionSettings:
    """What a client can SET in its session. Seconds; 0 = none."""

    statement_timeout_s: float
    lock_timeout_s: float
    read_only: bool = False
    """default_transaction_read_only"""
    read_consistency: ReadConsistency = ReadConsistency.EVENTUAL
    wait_for: LSN = 0
    """Reads wait until this LSN is visible, unless they are eventual."""
    read_as_of: Moment = NEWEST
    """Reads see the past, and nothing is written. Counts from the next read point on."""
