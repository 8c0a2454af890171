"""What a storage node may be tuned with. Units are in the names: `_s` seconds, `_bytes` bytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StorageConfig:
    wal_file_bytes: int = 16 * MIB
    """A WAL file is closed at the first sync past this size."""

    frame_cache_bytes: int = 32 * MIB
    """Frames kept in memory; others are read back from the log when a page needs them."""

    acks_queued_max: int = 256
    """Append requests of one stream received and not acked yet; beyond it the stream waits."""

    pending_frames_max: int = 4096
    """Frames of one segment waiting ahead of a gap; beyond it redo is refused, gossip fills."""

    pages_per_read_max: int = 4096
    """Pages in one ReadPages request: a reply stays far below the transport's message limit."""

    gossip_s: float = 0.5
    gossip_hurry_s: float = 0.05
    """Pause between gossip rounds, normally and while a segment has a gap or is damaged."""

    gossip_calm_times: int = 3
    """It is so many times as long while no redo comes and nobody has had anything new to say."""

    coalesce_s: float = 1.0
    coalesce_bytes: int = 4 * MIB
    coalesce_rounds: int = 10
    coalesce_busy_rounds: int = 60
    coalesce_page_records: int = 4096
    """Redo becomes pages when it has gathered this much, or has waited this many pauses: the second
    number while more has come in each pause, as a page that changes often then becomes fewer versions.
    Or when some page has so many records that applying them would hold up a read. Nothing counts as busy
    while all redo that waits is more than half of the frames kept in memory."""

    archived: bool = False
    """Somebody archives the log: what has not been archived stays."""

    coalesce_pages_per_batch: int = 128
    """Page versions per transaction; the loop serves others between two of them."""

    scrub_s: float = 1.0
    scrub_items: int = 128
    """Every pause, this many page versions and as many frames are checked."""

    scrub_pass_s: float = 30.0
    """So much time at least is between the beginnings of two passes through all page versions, or all
    frames. Of more than 15 MiB of pages a pass takes longer by itself."""

    register_limit_s: float = 2.0
    peer_timeout_s: float = 5.0
    chunk_bytes: int = MIB
    """Bytes per message when frames or pages are streamed."""
