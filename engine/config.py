"""Numbers that a node may be started with, in one place, with their units and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class VolumeConfig:
    """How a writer drives its volume and how instances read from it."""

    unacked_bytes_max: int = 32 * MIB
    """Redo framed or queued but not yet durable; above it no write transaction starts."""

    batch_bytes_max: int = 2 * MIB
    """One batch, all groups together. A larger MTR travels in several."""

    batches_in_flight_max: int = 4
    """Batches sent and not yet durable. One that is not full waits while there is another such among
    them: commits that come meanwhile share it."""

    link_queue_bytes_max: int = 64 * MIB
    """Per storage node. Above it, what is durable elsewhere is dropped; gossip brings it back."""

    idle_points_s: float = 0.1
    """How soon VDL and PGMRPL travel when no redo does. A PGMRPL that rises later travels when it is time
    to ask again (below)."""

    idle_rounds_max: int = 10
    """After so many of these pauses the points travel even if they are the same: the answers tell a
    writer that has been fenced off so, and its clients stop reading from the past."""

    frame_bytes_max: int = 1 * MIB
    """Where an open batch is closed: a larger MTR goes out in several, each far below the format's
    limit of a frame."""

    silence_s: float = 10.0
    """A peer that owes an answer on an open stream and is silent for this long is given up, and the
    stream opened anew. A connection may hang without being broken: a process that is stopped, a
    network that loses one direction."""

    call_timeout_s: float = 5.0
    read_timeout_s: float = 3.0
    """One page read at one segment; the next segment is asked long before (hedging)."""

    read_give_up_s: float = 30.0
    """Every segment of a group was asked again and again for this long: the read fails."""

    backoff_first_s: float = 0.05
    backoff_limit_s: float = 1.0
    fence_grace_s: float = 0.15
    """After a write quorum is fenced, how long recovery waits for the others' inventories."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """What an instance of one size may use. `pool_pages` of 4 KiB, `sessions_max` clients at a time."""

    pool_pages: int
    sessions_max: int


SIZES: Mapping[str, SizeClass] = {
    "small": SizeClass(pool_pages=16_384, sessions_max=125),  # 64 MiB
    "medium": SizeClass(pool_pages=65_536, sessions_max=500),  # 256 MiB
    "large": SizeClass(pool_pages=262_144, sessions_max=1000),  # 1 GiB
    "xlarge": SizeClass(pool_pages=1_048_576, sessions_max=2000),  # 4 GiB
}
"""Smallest first. A pool is a cap, not an allotment: it fills with what is really read."""

DEFAULT_SIZE = "medium"


def size_class(name: str) -> SizeClass:
    """Raises ConfigError naming the sizes there are."""
    if name not in SIZES:
        raise ConfigError(f"there is no size {name!r}; choose one of {', '.join(SIZES)}")
    return SIZES[name]


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """One compute instance."""

    pool_pages: int = SIZES[DEFAULT_SIZE].pool_pages
    """Buffer pool capacity in pages of 4 KiB: 256 MiB."""

    report_s: float = 0.1
    """Replica to writer: read point and lag, with the next item that comes after so long."""

    heartbeat_s: float = 0.2
    """Writer to replica when nothing else travels. The control plane takes a replica that heard the writer
    just now for a witness that it lives (`cluster.control.looks.HEARD_S`)."""

    feed_pause_s: float = 0.0005
    """Between two messages to one replica, times the number of replicas: under load a message tells of
    several commits, and what replicas cost the writer grows neither with their number nor with the
    commits."""

    feed_early_bytes: int = 64 * KIB
    """Redo that is not durable yet travels once it is so much; what is less goes with the news of VDL."""

    silence_s: float = 10.0
    """Writer and replica say something several times a second. Whoever hears nothing for this long gives
    the stream up, and joins again if it is the replica."""

    follower_queue_bytes_max: int = 16 * MIB
    """A replica that lags by more is let go; it drops its cache and rejoins at the current VDL."""

    replica_pending_bytes_max: int = 256 * MIB
    """Redo above VDL that a replica keeps; a larger transaction makes it join again afterwards."""

    hot_window_s: float = 0.0
    """For so long the past stays readable on the storage nodes (`engine.volume.window`); 0: not at all.
    Each node keeps the window's log in memory, indexed: about 300 bytes for each page that a commit
    changes."""

    hot_window_redo_bytes: int = 16 * MIB
    """More redo than that makes the window shorter: some 100,000 small commits."""

    import_bytes_max: int = 4096 * MIB
