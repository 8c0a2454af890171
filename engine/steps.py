"""Named protocol steps and marks: where a fault can be put, and what a test run should have reached.

A *step* is something a node does that others or a later life of it depend on: appending, persisting,
acknowledging, fencing. Node code says so before and after it. A simulator crashes, pauses or fails a node
there (`Steps.before`, `Steps.after` may raise); real nodes run with `OFF`, which does nothing.

A *mark* is something that should happen sometimes in a long enough test: a gap filled by gossip, a torn
tail cut. A mark that no run ever reaches says that the tests do not test it.

Both are registries: a step or mark that is not a member of the enumeration cannot be named.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """What can be crashed before or after. The value is its name in commands and scenario files."""

    # a storage node
    RECEIVE = "receive"  # a frame is appended to the log, not durable yet
    PERSIST = "persist"  # the log is synced
    ACK = "ack"  # acknowledgements go out
    SEAL = "seal"  # a log file is closed and the next one begun
    CREATE = "create"  # a new segment's row is written
    FORK = "fork"  # a clone's segment, over the pages of another volume's, is written
    FENCE = "fence"  # an epoch is made durable
    TRUNCATE = "truncate"  # a truncation is made durable
    COALESCE = "coalesce"  # page versions are written
    COLLECT = "collect"  # versions below the floor are deleted
    DROP_LOG = "drop-log"  # a log file is deleted
    FILL = "fill"  # frames from a peer are taken in
    COPY = "copy"  # page versions from a peer are written
    MEMBERS = "members"  # a group's new members are made durable
    DROP = "drop"  # a segment that others keep now is deleted
    WHOLE = "whole"  # a segment that missed something has it all
    REPAIR = "repair"  # a rotten frame or page version is replaced
    # a writer
    SEND = "send"  # a batch of redo goes to the nodes
    DURABLE = "durable"  # VDL moves and waiting sessions are answered
    FENCED = "fenced"  # recovery has fenced a write quorum
    TRUNCATED = "truncated"  # recovery has truncated a write quorum
    REHARDENED = "rehardened"  # everything below VDL stands on a write quorum
    PROMOTE = "promote"  # an instance becomes the open writer
    GROW = "grow"  # a protection group is added to the volume
    BACKTRACK = "backtrack"  # an earlier state is committed on top of the newest one
    # a replica
    JOIN = "join"  # it takes over a base from the writer
    APPLY = "apply"  # redo up to a VDL becomes visible
    # the control plane
    ADVANCE_EPOCH = "advance-epoch"  # an epoch is given out
    ADD_GROUP = "add-group"  # a group is in the catalog
    CONFIRM = "confirm"  # a segment is noted as created
    NAME_WRITER = "name-writer"  # another instance is nominated
    BEGIN_CHANGE = "begin-change"  # a member is being replaced, says the catalog
    COMMIT_CHANGE = "commit-change"  # the new member has its place
    CANCEL_CHANGE = "cancel-change"  # the old one keeps it
    # an archiver
    ARCHIVE = "archive"  # a chunk of the log is created
    TELL = "tell"  # storage nodes hear that the log is archived further than they knew
    BASE_PART = "base-part"  # some pages of a base are created
    BASE = "base"  # its index is, and so it counts
    RETIRE = "retire"  # an object that has fallen out of the window is deleted
    NEW_ARCHIVE = "new-archive"  # an archive begins in the middle of the log


class Mark(StrEnum):
    """What should sometimes happen."""

    HEDGE_WON = "a hedged read won"
    READ_MOVED_ON = "a read was refused by one segment and answered by another"
    NOT_COMPLETE = "a segment was not complete to a read point"
    STALE_REFUSED = "a request of an older epoch was refused"
    BEHIND_REFUSED = "a node that missed a recovery refused until it was fenced"
    GAP_WAITED = "a frame waited ahead of a gap"
    GAP_FILLED = "gossip filled a gap"
    EPOCH_LEARNED = "a node learned a recovery from a peer"
    TORN_TAIL = "a torn tail was cut"
    DAMAGE_FOUND = "damage in the log was found at start"
    MADE_WHOLE = "a damaged segment became whole"
    PAGES_COPIED = "a segment behind the hot log was copied from a peer"
    ROT_FOUND = "rot was found"
    ROT_REPAIRED = "rot was repaired from a peer"
    FRAME_TRIMMED = "a truncation cut a frame in the middle"
    TRUNCATION_VOID = "a dead recovery's truncation was void"
    RECORDS_ANNULLED = "a recovery annulled records"
    RECOVERY_BLOCKED = "a recovery stopped: what it would annul may have been acknowledged"
    REHARDENED = "recovery re-hardened a record"
    BACK_PRESSURE = "back-pressure held a transaction up"
    BATCH_WAITED = "commits waited for a batch in flight"
    VOLUME_GREW = "the volume grew by a protection group"
    STALLED_ASKED = "a stalled writer asked the nodes where they stand"
    REPLICA_GAP = "a replica dropped its cache"
    REPLICA_REJOINED = "a replica joined a second time"
    MEMBERS_LEARNED = "a writer and a segment did not know the same members of a group"
    SEGMENT_REPLACED = "a segment was replaced by another one"
    REPLACEMENT_CANCELLED = "a segment's replacement was given up"
    OUTCOME_UNKNOWN = "a client was told that its commit's outcome is unknown"
    PAST_READ = "a client read the past"
    DISK_WAS_FULL = "a node refused for lack of room"
    NODE_FENCED_ITSELF = "a node ended itself after a failed disk"
    FAILED_OVER = "the control plane named another writer by itself"
    CHUNK_TAKEN = "an archiver found the place of its next chunk taken"
    BASE_MADE = "a base was archived"
    BASE_FAILED = "a base could not be archived, or not yet"
    RETIRED = "objects fell out of an archive's window"
    BEGUN_ANEW = "an archive began in the middle of the log"


class Steps(Protocol):
    def before(self, step: Step) -> None:
        """The step is about to be taken. May raise, and then it is not."""

    def after(self, step: Step) -> None:
        """The step has been taken. May raise."""

    def mark(self, mark: Mark) -> None:
        """This happened."""


class _Off:
    def before(self, step: Step) -> None: ...

    def after(self, step: Step) -> None: ...

    def mark(self, mark: Mark) -> None: ...


OFF: Steps = _Off()
