"""What the catalog's questions are answered with."""

from __future__ import annotations

from dataclasses import dataclass

from engine.types import Epoch, Membership, VolumeId


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
    """One segment that a node is to keep. `create`: it has never confirmed that it does."""

    volume: VolumeId
    membership: Membership
    incarnation: str
    create: bool
