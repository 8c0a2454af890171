"""Checking an archive before it is needed: every object that a restore might read."""

from __future__ import annotations

from engine.archive.bases import decode_part, part_key
from engine.archive.chunks import Chunk, check_follows, records_of
from engine.archive.restore import Archive, Progress
from engine.errors import SextetError


async def verify(
    archive: Archive, progress: Progress = lambda _done, _total: None
) -> tuple[list[str], int]:
    """(what is wrong, each naming the object; how many objects were looked at).

    Every chunk from the oldest that a restore can begin with, that each follows the one before it and that
    its records chain; every complete base with all of its parts.
    """
    wrong: list[str] = []
    first = max(1, await archive.first_usable())
    numbers = range(first, archive.listing.newest + 1)
    done, total = 0, len(numbers) + len(archive.listing.bases)
    before: Chunk | None = None
    for number in numbers:
        try:
            chunk = await archive.chunk(number)
            if before is not None:
                check_follows(chunk, before)
            for _ in records_of(chunk):
                pass
            before = chunk
        except SextetError as error:
            wrong.append(str(error))
            before = None
        done += 1
        progress(done, total)
    for number in archive.listing.bases:
        try:
            base = await archive.base(number)
        except SextetError as error:
            wrong.append(str(error))
            continue
        total += len(base.parts)
        for index, part in enumerate(base.parts):
            key = part_key(archive.name, number, index)
            try:
                decode_part(key, await archive.read(key), base, part)
            except SextetError as error:
                wrong.append(str(error))
            done += 1
        done += 1
        progress(done, total)
    return wrong, done
