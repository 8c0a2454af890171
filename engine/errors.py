"""Every error that Sextet raises on purpose. Each says what is wrong and what to do about it.

`sqlstate` is what a PostgreSQL client is shown when the error reaches it. Errors that cross a
process boundary travel by class name and message (`engine.net`), so every class here takes one
message argument and lives in `BY_NAME`.
"""

from __future__ import annotations


class SextetError(Exception):
    """Base of all expected errors. A bug raises something else."""

    sqlstate = "XX000"


class ConfigError(SextetError):
    """A setting, option or file given by the user cannot be used."""

    sqlstate = "F0000"


# -- bytes that are not what they claim to be


class FormatError(SextetError):
    """Bytes that are no valid frame, record or page: corrupt, cut short or of an unknown version."""

    sqlstate = "XX001"


class TornFrame(FormatError):
    """Fewer bytes than the frame's header promises, or none: normal at a log's tail only."""


class Corrupt(SextetError):
    """Stored bytes failed their checksum. Corrupt is not absent: never treat it as "never had it"."""

    sqlstate = "XX001"


# -- the network


class Unavailable(SextetError):
    """The peer cannot be reached or went away. The request may or may not have taken effect."""

    sqlstate = "08006"


class DeadlineExceeded(Unavailable):
    """The peer did not answer in time. The request may or may not have taken effect."""


class ProtocolError(SextetError):
    """The peer sent what the protocol does not allow."""

    sqlstate = "08P01"


class Overloaded(SextetError):
    """A bound on queued or concurrent work was reached; try again later."""

    sqlstate = "53300"


# -- the volume


class StaleEpoch(SextetError):
    """The request's volume epoch is older than the segment's: a newer writer has fenced it off."""

    sqlstate = "57P01"


class BehindEpoch(SextetError):
    """The segment has not learned the request's epoch and its truncations yet: fence it first."""

    sqlstate = "55000"


class StaleMembership(SextetError):
    """The request's membership epoch is not the segment's."""

    sqlstate = "55000"


class UnknownSegment(SextetError):
    """The node does not hold that segment (it never did, or it was wiped)."""

    sqlstate = "55000"


class NotComplete(SextetError):
    """The segment's SCL has not reached what the read point needs: ask another segment."""

    sqlstate = "55000"


class SnapshotTooOld(SextetError):
    """The read point lies below what garbage collection has kept."""

    sqlstate = "72000"


class QuorumLost(SextetError):
    """Not enough segments answer for the operation."""

    sqlstate = "57P03"


class RecoveryBlocked(SextetError):
    """Recovery may not discard a record that a segment could hold; the message names its LSN."""

    sqlstate = "57P03"


class VolumeFull(SextetError):
    """The volume is at its maximum size (or the disks under it are). Reads go on."""

    sqlstate = "53100"


class DiskFull(SextetError):
    """A storage node's disk is full; nothing of the request was kept."""

    sqlstate = "53100"


class DiskFailed(SextetError):
    """An fsync failed: what it covered may be lost. The node fences itself and restarts."""

    sqlstate = "58030"


# -- the object store


class ObjectExists(SextetError):
    """The object was created before, and an object never changes: read it to see whether it is yours."""

    sqlstate = "58P02"


class ObjectMissing(SextetError):
    """There is no such object."""

    sqlstate = "58P01"


# -- SQL


class SqlError(SextetError):
    """An error of one SQL statement, shown to the client with its SQLSTATE.

    `sqlstate` given to the constructor overrides the class's.
    """

    sqlstate = "42000"

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str = "", position: int = 0
    ) -> None:
        super().__init__(message)
        if sqlstate is not None:
            self.sqlstate = sqlstate
        self.hint = hint
        self.position = position  # 1-based character offset in the statement, 0 = unknown


class CommitUnknown(SqlError):
    """The commit's quorum was not reached in time: it is there or not, all of it (SQLSTATE 08007)."""

    sqlstate = "08007"


class ReadOnly(SqlError):
    """A write reached a replica."""

    sqlstate = "25006"


class SerializationFailure(SqlError):
    """A transaction read, others committed, then it wanted to write: run it again."""

    sqlstate = "40001"


class LockTimeout(SqlError):
    """The write lock was not free within lock_timeout."""

    sqlstate = "55P03"


class QueryCanceled(SqlError):
    """Cancelled by the client or by statement_timeout, and rolled back."""

    sqlstate = "57014"


class FeatureNotSupported(SqlError):
    sqlstate = "0A000"


def _collect(root: type[SextetError]) -> dict[str, type[SextetError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _collect(child)
    return found


BY_NAME: dict[str, type[SextetError]] = _collect(SextetError)
"""Class name -> class, to raise on this side of the network what was raised on the other."""
