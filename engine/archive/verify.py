"""Checking an archive before it is needed: every object that a restore might read."""

from __future__ import annotations

from engine.archive.bases import check_base
from engine.archive.chunks import Chunk, check_follows, chunk_key, records_of
from engine.archive.restore import Archive, Progress
from engine.errors import SextetError
from engine.types import LSN


async def verify(
    archive: Archive,
    progress: Progress = lambda _done, _total: None,
    *,
    told: LSN = 0,
) -> tuple[list[str], int]:
    """(what is wrong, each naming the object; how many objects were looked at).

    `told`: storage nodes have heard that the log is archived up to there. Without that an archive that has
    lost its very last objects looks like one that ends earlier: nothing else says how many there were.

    Every chunk from the oldest that a restore can begin with, that each follows the one before it and that
    its records chain; every complete base from there on, with all of its parts, and that it is the state
    at its chunk's end.
    """
    wrong: list[str] = []
    try:
        first = await archive.first_usable()
    except SextetError as error:
        wrong.append(str(error))
        first = archive.listing.chunks[0]
    numbers = range(max(1, first), archive.listing.newest + 1)
    bases = [number for number in archive.listing.bases if number >= first]
    done, total = 0, len(numbers) + len(bases)
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
            _note(wrong, error)
            before = None
        done += 1
        progress(done, total)
    for number in bases:
        done += 1
        try:
            base = await archive.base(number)
        except SextetError as error:
            _note(wrong, error)
            continue
        try:
            check_base(base, await archive.chunk(number))
        except SextetError as error:
            _note(wrong, error)
        total += len(base.parts)
        for part in range(len(base.parts)):
            try:
                await archive.base_part(base, part)
            except SextetError as error:
                _note(wrong, error)
            done += 1
            progress(done, total)
    if before is not None and before.head.upto < told:
        wrong.append(
            f"object {chunk_key(archive.name, before.head.number + 1)} is missing: archive "
            f"{archive.name} ends at LSN {before.head.upto}, and storage nodes have heard of {told}"
        )
    return wrong, done


def _note(wrong: list[str], error: SextetError) -> None:
    """Once: a chunk that is no good is looked at for its base again."""
    if str(error) not in wrong:
        wrong.append(str(error))
