"""What the catalog's questions are answered with."""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import LSN, CommitMark, Epoch, Membership, PgNo, VolumeId


@dataclass(frozen=True, slots=True)
class ForkRow:
    """A volume that is a clone: of which parent, with the state after which commit."""

    volume: VolumeId
    parent: VolumeId
    source: str
    """What the parent's cluster was called."""
    copy: str
    """"": it shares pages; or why it is a full copy."""
    made: bool
    commit: CommitMark
    """All zero: not chosen yet, or there was none."""


@dataclass(frozen=True, slots=True)
class Fork:
    """How a segment of a clone is to be created. `ancestry`: volumes and up to which LSN their page
    versions count, the nearest first. `tail`: the group's last LSN at or below `commit`. `made`: a write
    quorum has its segments, so that this one may also be filled by them."""

    ancestry: tuple[tuple[VolumeId, LSN], ...]
    tail: LSN
    commit: CommitMark
    made: bool = False


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """A cluster and its volume."""

    name: str
    volume: VolumeId
    writer: str
    epoch: Epoch
    max_pages: int
    storage_full: bool
    """The writer has said so, and not taken it back."""
    stopped: bool = False
    """It is to have no processes: nobody opens the volume, and nobody is looked at."""
    fork: ForkRow | None = None
    """What its volume was cloned from, or is being cloned from."""

    @property
    def forking(self) -> bool:
        """Its volume is not made yet: nobody opens it."""
        return self.fork is not None and not self.fork.made


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """A compute instance; failover prefers the lowest `tier`."""

    name: str
    cluster: str
    number: int
    az: str
    address: str
    socket: str
    tier: int
    size: str


@dataclass(frozen=True, slots=True)
class StorageRow:
    """`lost` counts segments that belonged to an earlier incarnation of the node's disk."""

    name: str
    az: str
    address: str
    incarnation: str
    segments: int
    lost: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """One segment that a node is to keep. `create`: it has never confirmed that it does. `fork`: it is a
    clone's, to be created over what the node keeps of others."""

    volume: VolumeId
    membership: Membership
    incarnation: str
    create: bool
    fork: Fork | None = None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume, and the cluster that it is of, or "" if it is deleted."""

    volume: VolumeId
    cluster: str
    groups: tuple[PgNo, ...]
    fork: ForkRow | None
