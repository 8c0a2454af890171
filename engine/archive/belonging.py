"""Whether an archive is of this volume's past, or of another one.

An old copy of a data folder that is put back, or two copies that both run, have a volume whose history
ends before that of its archive, and goes on otherwise. LSNs are used again then, and what such a volume
commits would chain to an archive that it does not belong to: every object whole, and every restore wrong.
In one history an LSN is never used twice, so what nodes have at the archive's newest commit says it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from engine.archive.source import Forgotten, Source, Standing
from engine.log.frame import index_frame
from engine.types import CommitMark


def contradict(newest: CommitMark, frames: Iterable[bytes]) -> bool:
    """Whether a log with these frames cannot have had that commit. Pure."""
    for frame in frames:
        for ref in index_frame(frame):
            if ref.lsn == newest.lsn and ref.commit != newest:
                return True
            if ref.prev_lsn < newest.lsn < ref.lsn:
                return True
    return False


async def has_other_past(source: Source, standing: Standing, newest: CommitMark) -> bool:
    """Whether nodes have something else where an archive has `newest`, or pass over it.

    False as well if their hot logs do not reach back to it: then they have heard from this archive.
    """
    after = newest.lsn - 1
    groups = [pg for pg in sorted(source.memberships) if standing.ahead(pg, after)]
    found = await asyncio.gather(
        *(source.frames(standing, pg, after, standing.vdl, bytes_max=1) for pg in groups),
        return_exceptions=True,  # else the others would go on behind our back
    )
    for frames in found:
        if isinstance(frames, Forgotten):
            continue
        if isinstance(frames, BaseException):
            raise frames
        if contradict(newest, frames):
            return True
    return False
