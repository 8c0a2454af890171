"""The archiver over real storage nodes and a real writer in virtual time: one history, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from cluster.sim.restores import Still
from cluster.sim.world import ARCHIVER, WALL_START_US
from engine.archive.bases import decode_base, index_key
from engine.archive.catalogue import Target
from engine.archive.chunks import chunk_key, decode_chunk
from engine.archive.restore import Archive
from engine.archive.source import Source, Standing
from engine.archive.verify import verify
from engine.errors import Corrupt, Unavailable
from engine.storage.volume import Volume
from engine.types import LSN
from tests.archive.town import BASES, CONFIG, SECOND, Town, look, play, rows_at


def looked_at(town: Town, name: str = "main", *, every: int = 1) -> list[int]:
    """As `look`, when the town is gone; how many records each chunk has."""
    found = asyncio.run(look(town, name, every=every))
    return [chunk.head.upto - chunk.head.after for chunk in found.chunks]


def test_everything_is_archived_and_every_moment_restored() -> None:
    async def act(town: Town) -> None:
        for _ in range(12):
            await town.write(3)
            await asyncio.sleep(0.1)
        await town.archived()
        assert town.archiver is not None
        assert town.archiver.state == "archiving"

    town = play(act)
    assert len(looked_at(town)) >= 4
    assert town.names() == ["main"]
    assert town.listing().bases == ()


def test_a_transaction_larger_than_a_chunk_has_several() -> None:
    async def act(town: Town) -> None:
        await town.write(3)
        await town.archived()
        town.hold_down()
        texts = [random.Random(n).randbytes(1500).hex() for n in range(40)]  # redo as large
        values = ", ".join(f"('{text}')" for text in texts)
        await town.run(f"INSERT INTO t (text) VALUES {values}")
        town.rows += 40
        town.note()
        town.let_go()
        await town.archived()

    town = play(act, config=replace(BASES, chunk_bytes_max=4096))
    looked_at(town)
    chunks = asyncio.run(look(town)).chunks
    assert [c.head.commits for c in chunks].count(0) >= 2, "chunks that end in the middle of it"
    assert all(b.head.newest == a.head.newest for a, b in pairwise(chunks) if not b.head.commits)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", [1, 2])
def test_killed_at_every_create(when: str, every: int) -> None:
    """Before the object is there, or when it is and nobody has said so."""
    tries: dict[str, int] = {}

    async def act(town: Town) -> None:
        def kill(at: str, key: str) -> None:
            if at != when:
                return
            tries[key] = tries.get(key, 0) + 1
            if tries[key] == 1 and int(key.split("/")[2]) % every == 0:
                town.world.loop.call_soon(town.world.kill, town.process())
                if when == "before":
                    raise Unavailable("it never arrived")

        town.bucket.on_create = kill
        for _ in range(8):
            await town.write(4)
            await asyncio.sleep(0.3)
        await town.archived()
        await town.until(lambda: bool(town.listing().bases))

    town = play(act, config=BASES)
    assert town.process().lives > 4
    assert len(looked_at(town, every=3)) >= 4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_at_once_write_one_history(seed: int) -> None:
    made = {ARCHIVER: 0, SECOND: 0}

    async def act(town: Town) -> None:
        for n in range(20):
            await town.write(3)
            await asyncio.sleep(0.15)
            if n % 7 == 3:  # one is cut off for a while, and goes on with what it believed
                other = (ARCHIVER, SECOND)[n % 2]
                town.world.pause(town.process(other))
                town.world.loop.call_later(1.0, town.world.resume, town.process(other))
        await asyncio.sleep(1.5)
        await town.archived()
        for name in made:
            made[name] = town.process(name).node.counters["chunks"]

    town = play(act, config=BASES, archivers=2, seed=seed)
    sizes = looked_at(town, every=4)
    assert sum(made.values()) == len(sizes)
    assert all(made.values()), "both were at work"
    assert town.names() == ["main"]


# -- the store is away


def test_log_is_kept_until_it_is_archived_and_goes_then() -> None:
    async def act(town: Town) -> None:
        await town.write(5)
        await town.archived()
        await asyncio.sleep(1.0)
        end = town.vdl
        town.bucket.unreachable = True
        for _ in range(8):
            await town.write(20)
            await asyncio.sleep(0.4)
        await asyncio.sleep(3.0)  # enough for all to become pages, and its log superfluous
        assert town.vdl > end + 300
        assert max(town.log_begins()) <= end, "nobody has dropped what is not archived"
        assert town.archiver is not None
        assert "does not answer" in town.archiver.state
        town.bucket.unreachable = False
        await town.archived()
        assert town.archiver.state == "archiving"
        await town.until(lambda: min(town.log_begins()) > end)
        for _ in range(4):  # and goes on doing so
            await town.write(10)
            await asyncio.sleep(0.4)
        await town.until(lambda: min(town.log_begins()) > end + 300)

    looked_at(play(act), every=40)


def test_an_answer_that_is_lost_makes_no_second_object() -> None:
    """Half of what is sent to an unreachable store arrives."""

    async def act(town: Town) -> None:
        for n in range(24):
            town.bucket.unreachable = n % 3 == 1
            await town.write(2)
            await asyncio.sleep(0.5)
        town.bucket.unreachable = False
        await town.archived()

    assert len(looked_at(play(act, config=BASES), every=4)) >= 5


# -- bases


def volumes(town: Town) -> list[Volume]:
    """Each storage node's."""
    return [v for p in town.world.storage if p.node for v in p.node.state.volumes.values()]


def chunk_end(town: Town, number: int) -> LSN:
    key = chunk_key("main", number)
    return decode_chunk(key, town.bucket.objects[key]).head.upto


def test_bases_are_made_and_used() -> None:
    async def act(town: Town) -> None:
        for _ in range(12):
            await town.write(8)
            await asyncio.sleep(0.4)
        await town.archived()
        await asyncio.sleep(1.0)

    town = play(act, config=BASES)
    bases = town.listing().bases
    assert len(bases) >= 2
    looked_at(town, every=5)

    async def use() -> None:
        archive = await Archive.open(Still(town.bucket), "main")
        for number in bases:
            mark = (await archive.base(number)).commit
            plan = await archive.plan(Target(lsn=mark.lsn))
            assert (plan.base, plan.last, plan.commit) == (number, number, mark)
        # Without the log before the first base nothing changes from there on.
        for number in range(1, bases[0]):
            town.bucket.delete(chunk_key("main", number))
        await look(town, every=5)

    asyncio.run(use())


def test_a_base_that_broke_off_is_no_base() -> None:
    """Another one is made; of the first there are only parts, which nobody reads."""
    broken: list[str] = []

    async def act(town: Town) -> None:
        def kill(when: str, key: str) -> None:
            if when == "before" and key.endswith("/index") and not broken:
                broken.append(key)
                town.world.loop.call_soon(town.world.kill, town.process())
                raise Unavailable("it never arrived")

        town.bucket.on_create = kill
        for _ in range(12):
            await town.write(8)
            await asyncio.sleep(0.4)
        await town.archived()
        await town.until(lambda: bool(town.listing().bases))

    town = play(act, config=BASES)
    looked_at(town, every=9)
    prefix = broken[0].removesuffix("index")
    assert any(key.startswith(prefix) for key in town.bucket.objects)


def test_storage_keeps_what_a_base_under_way_reads() -> None:
    """The archive goes on meanwhile, and nobody is told."""
    kept: list[bool] = []

    async def act(town: Town) -> None:
        def note(when: str, key: str) -> None:
            archiver = town.archiver
            if when == "before" and key.endswith("/index") and archiver is not None:
                made_at = chunk_end(town, int(key.split("/")[2]))
                told = max(v.points.archived for v in volumes(town))
                assert told <= made_at
                kept.append(told < archiver.upto)

        town.bucket.on_create = note
        for _ in range(40):
            await town.write(2)
            await asyncio.sleep(0.02)
        await town.archived()
        end = town.vdl
        await town.until(lambda: min(v.points.archived for v in volumes(town)) == end)

    town = play(act, config=replace(BASES, round_s=0.01, pages_per_read=1))
    assert any(kept)
    looked_at(town, every=20)


def test_no_base_is_made_of_what_nobody_gives() -> None:
    """With four nodes away nobody knows who is complete."""

    async def act(town: Town) -> None:
        town.hold_down()
        await town.write(30)
        await asyncio.sleep(1.0)  # the other two have everything, which they cannot prove
        for n in range(1, 5):
            town.hold_down(f"storage-{n}")
        town.let_go()
        await asyncio.sleep(8.0)
        assert town.listing().newest, "the log is archived from whoever has it"
        assert town.listing().bases == ()
        for n in range(1, 5):
            town.let_go(f"storage-{n}")
        await town.until(lambda: bool(town.listing().bases))
        await town.archived()

    looked_at(play(act, config=BASES), every=5)


def test_retention_deletes_while_everything_goes_on() -> None:
    async def act(town: Town) -> None:
        for _ in range(30):
            await town.write(6)
            await asyncio.sleep(0.4)
        await town.archived()
        assert town.archiver is not None
        assert town.archiver.counters["deleted"] > 10
        await town.until(lambda: town.listing().chunks[0] == town.listing().bases[0])
        town.note()

    town = play(act, config=replace(BASES, retention_s=4.0))
    looked_at(town, every=15)
    listing = town.listing()
    assert listing.chunks[0] == listing.bases[0] > 1
    end_us = town.noted[-1][0]

    async def window_us() -> int:
        archive = await Archive.open(Still(town.bucket), "main")
        return (await archive.window()).earliest.time_us

    assert asyncio.run(window_us()) <= end_us - 4_000_000, "no less than was promised"


def test_as_clocks_move_on_exactly_what_no_restore_needs_any_more_goes() -> None:
    """Not for an archiver whose own clock alone is ahead."""
    hour_us = 3600 * 1_000_000
    seen: list[set[str]] = []

    def number(key: str) -> int:
        return int(key.split("/")[2])

    async def another(town: Town) -> int:
        """A base more; until when the newest one knows of everything, in microseconds."""
        last = town.listing().bases[-1:]
        while town.listing().bases[-1:] == last:
            await town.write(4)
            await asyncio.sleep(0.1)
        await town.archived()
        await asyncio.sleep(1.0)  # and what was begun meanwhile
        return known(town)[town.listing().bases[-1]]

    def known(town: Town) -> dict[int, int]:
        keys = {n: index_key("main", n) for n in town.listing().bases}
        return {n: decode_base(key, town.bucket.objects[key]).known_us for n, key in keys.items()}

    async def act(town: Town) -> None:
        await another(town)
        await asyncio.sleep(3.0)
        second_us = await another(town)
        await asyncio.sleep(3.0)
        await another(town)
        before = set(town.bucket.objects)
        second = max(n for n, known_us in known(town).items() if known_us <= second_us)
        third = town.listing().bases[-1]
        assert second < third
        town.process().skew_us += 48 * hour_us
        await asyncio.sleep(2.0)
        assert set(town.bucket.objects) == before, "the archive's end is as it was"
        writer = town.world.writer()
        assert writer is not None
        town.process().skew_us -= 48 * hour_us
        now_us = WALL_START_US + int(town.world.loop.time() * 1e6)
        for process in (town.process(), writer):  # a window that begins after the second base
            process.skew_us += second_us + hour_us + 500_000 - now_us
        await asyncio.sleep(1.0)
        assert set(town.bucket.objects) == {key for key in before if number(key) >= second}
        for process in (town.process(), writer):
            process.skew_us += 48 * hour_us
        await asyncio.sleep(1.0)
        assert set(town.bucket.objects) == {key for key in before if number(key) >= third}
        seen.append(before)

    town = play(act, config=replace(BASES, retention_s=3600.0, retire_every_s=0.25, idle_s=1e9))
    assert len(seen[0]) > len(town.bucket.objects) > 2
    assert (asyncio.run(verified(town)))[0] == []


async def verified(town: Town) -> tuple[list[str], int]:
    return await verify(await Archive.open(Still(town.bucket), "main"))


def test_a_base_that_cannot_be_read_does_not_stop_retention() -> None:
    async def act(town: Town) -> None:
        while len(town.listing().bases) < 2:
            await town.write(4)
            await asyncio.sleep(0.1)
        first = index_key("main", town.listing().bases[0])
        town.bucket.objects[first] = b""
        await town.until(lambda: first not in town.bucket.objects)
        await town.until(lambda: town.listing().chunks[0] == town.listing().bases[0])

    play(act, config=replace(BASES, retention_s=3.0, retire_every_s=0.25))


def test_retention_needs_no_new_base() -> None:
    """Time alone makes the log before a base too old, and a shorter retention does."""

    async def act(town: Town) -> None:
        for _ in range(8):
            await town.write(8)
            await asyncio.sleep(0.4)
        await town.archived()
        await asyncio.sleep(1.0)  # and a base that was begun meanwhile
        archiver = town.archiver
        assert archiver is not None
        bases = len(town.listing().bases)
        assert bases >= 2
        await asyncio.sleep(20.0)
        assert town.listing().chunks[0] == 1, "all of it is within an hour"
        assert len(town.listing().bases) == bases
        archiver.retention_s = 5.0
        await town.until(lambda: town.listing().chunks[0] == town.listing().bases[0] > 1)

    town = play(act, config=replace(BASES, retention_s=3600.0, retire_every_s=3.0))
    looked_at(town, every=15)
    assert len(town.listing().bases) == 1


def test_an_archive_that_says_little_for_long_gets_a_base_as_well() -> None:
    async def act(town: Town) -> None:
        await town.write(3)
        await town.archived()
        await asyncio.sleep(30.0)
        assert len(town.listing().chunks) > 20
        assert town.listing().bases[-1] >= 20

    config = replace(CONFIG, idle_s=1.0, base_chunks_max=10)
    looked_at(play(act, config=config))


# -- silence


def test_what_was_not_committed_is_known_too() -> None:
    async def act(town: Town) -> None:
        await town.write(3)
        await town.archived()
        chunks = town.listing().newest
        await asyncio.sleep(10.0)
        idle = town.listing().newest - chunks
        assert 3 <= idle <= 5, "one for each two seconds"
        town.note()
        await asyncio.sleep(3.0)
        await town.write(1)
        await town.archived()

    town = play(act, config=replace(CONFIG, idle_s=2.0))
    sizes = looked_at(town)
    assert sizes.count(0) >= 4
    chunks = asyncio.run(look(town)).chunks
    assert all(a.head.known_us <= b.head.known_us for a, b in pairwise(chunks))


def test_what_is_in_flight_is_not_said_to_be_known() -> None:
    async def act(town: Town) -> None:
        for _ in range(80):
            await town.write(1)
            await asyncio.sleep(0.03)
        await town.archived()

    town = play(act, config=replace(CONFIG, idle_s=0.0, round_s=0.005))
    assert looked_at(town, every=5).count(0) > 5


def test_a_superseded_writer_is_not_believed() -> None:
    """It says that nothing was committed. Storage has heard of another one."""

    async def act(town: Town) -> None:
        await town.write(1)
        await town.archived()
        await asyncio.sleep(1.0)
        archiver = town.archiver
        assert archiver is not None
        known_us = archiver.known_us
        await archiver._say_idle(Standing(epochs={"storage-1": 1, "storage-2": 2}))
        assert archiver.known_us == known_us
        await archiver._say_idle(Standing(epochs={"storage-1": 1, "storage-2": 1}))
        assert archiver.known_us > known_us

    play(act, config=replace(CONFIG, round_s=0.5))


def test_idle_chunks_need_a_writer_that_says_so() -> None:
    async def act(town: Town) -> None:
        await town.write(3)
        await town.archived()
        town.hold_down("main-1")
        await asyncio.sleep(1.0)
        chunks = town.listing().newest
        await asyncio.sleep(10.0)
        assert town.listing().newest == chunks
        town.let_go("main-1")
        await town.until(lambda: town.listing().newest > chunks)

    play(act, config=replace(CONFIG, idle_s=2.0))


# -- an archive that cannot be continued


async def forget(town: Town) -> None:
    """With no archiver at work, storage believes that somebody has archived all, and drops it."""
    end = town.vdl
    for process in town.world.storage:
        for volume in process.node.state.volumes.values():
            volume.learn_points(archived=1 << 60)
    while min(town.log_begins()) <= end:  # a file at a time
        await town.write(10)
        await asyncio.sleep(0.4)
    for process in town.world.storage:  # as storage nodes that were started again
        for volume in process.node.state.volumes.values():
            volume.points.archived = 0


@pytest.mark.parametrize("archivers", [1, 2])
def test_another_archive_begins_with_a_base(archivers: int) -> None:
    ends: list[int] = []

    async def act(town: Town) -> None:
        await town.write(10)
        await town.archived()
        names = (ARCHIVER, SECOND)[:archivers]
        for name in names:
            town.hold_down(name)
        ends.append(town.listing().newest)
        await forget(town)
        for name in names:
            town.let_go(name)
        for _ in range(30):  # the writer always has something in flight
            await town.write(2)
            await asyncio.sleep(0.05)
        await town.archived()
        await town.until(lambda: bool(town.listing("main.2").bases))
        assert town.archiver is not None
        assert town.archiver.archive == "main.2"
        town.world.kill(town.process())
        await asyncio.sleep(2.0)
        await town.write(5)
        await town.archived()

    town = play(act, archivers=archivers)
    assert town.names() == ["main", "main.2"]
    assert town.listing().newest == ends[0], "the first is left as it was"
    assert town.listing("main.2").bases[0] == 1
    looked_at(town, every=7)
    looked_at(town, "main.2", every=7)
    last = asyncio.run(look(town, "main.2", every=1000)).archive
    assert asyncio.run(rows_at(last, Target())) == town.rows


def test_who_was_left_behind_goes_on_with_what_others_have_archived() -> None:
    """What it would archive next is in no hot log any more, because it is archived."""

    async def act(town: Town) -> None:
        await town.write(10)
        await town.archived()
        await town.until(lambda: town.process(SECOND).node.upto == town.vdl)
        network = town.world.network
        paths = [
            path
            for storage in town.world.storage
            for path in ((SECOND, storage.name), (storage.name, SECOND))
        ]
        for path in paths:
            network.cut(*path)
        end = town.vdl
        while min(town.log_begins()) <= end:
            await town.write(10)
            await town.archived()
        town.hold_down()
        for path in paths:
            network.mend(*path)
        await town.write(5)
        await town.until(lambda: town.process(SECOND).node.upto == town.vdl)

    town = play(act, archivers=2)
    assert town.names() == ["main"]
    looked_at(town, every=7)


def test_a_rotten_frame_of_who_has_most_does_not_stop_archiving() -> None:
    """It leaves it out; others have it. Nobody repairs it meanwhile."""

    async def act(town: Town) -> None:
        await town.write(4)
        await town.archived()
        town.hold_down()
        await town.write(4)
        await asyncio.sleep(0.2)
        first = town.process("storage-1").node
        kept = type(first.state).frame_bytes
        for segment in (s for _, s in first.state.segments()):
            rotten = segment.frames[-1]

            def frame_bytes(ref: Any, rotten: Any = rotten, **options: Any) -> Any:
                if ref is rotten:
                    raise Corrupt("rotten")
                return kept(first.state, ref, **options)

            first.state.frame_bytes = frame_bytes
        town.let_go()
        await town.until(
            lambda: town.archiver is not None and town.archiver.upto == town.vdl, seconds=5.0
        )

    looked_at(play(act))


def test_the_first_object_of_another_archive_may_be_there_though_nobody_said_so() -> None:
    """Its answer was lost: it is found, and no third archive begins."""

    async def act(town: Town) -> None:
        await town.write(10)
        await town.archived()
        town.hold_down()
        await forget(town)

        def lose(when: str, key: str) -> None:
            if when == "after" and key == chunk_key("main.2", 1):
                raise Unavailable("the answer is lost")

        town.bucket.on_create = lose
        town.let_go()
        await town.write(3)
        await town.archived()
        await town.until(lambda: bool(town.listing("main.2").bases))

    town = play(act)
    assert town.names() == ["main", "main.2"]
    looked_at(town, "main.2")


def test_a_last_chunk_that_is_damaged_ends_its_archive() -> None:
    async def act(town: Town) -> None:
        await town.write(10)
        await town.archived()
        town.hold_down()
        key = chunk_key("main", town.listing().newest)
        town.bucket.objects[key] = town.bucket.objects[key][:-1]
        await town.write(3)
        town.let_go()
        await town.archived()
        await town.until(lambda: bool(town.listing("main.2").bases))

    town = play(act)
    assert town.names() == ["main", "main.2"]
    looked_at(town, "main.2")


def test_another_base_leads_past_a_hole() -> None:
    async def act(town: Town) -> None:
        for _ in range(4):
            await town.write(10)
            await town.archived()
        town.hold_down()
        town.bucket.delete(chunk_key("main", 2))
        town.let_go()
        await town.write(3)
        await town.archived()
        await town.until(lambda: bool(town.listing().bases))
        await town.write(3)
        await town.archived()

    town = play(act)

    async def restore() -> None:
        archive = await Archive.open(Still(town.bucket), "main")
        upto = (await archive.chunk(archive.listing.newest)).head.upto
        assert await rows_at(archive, Target(lsn=upto)) == town.rows

    assert town.names() == ["main"]
    asyncio.run(restore())


def test_a_damaged_base_does_not_stop_archiving() -> None:
    async def act(town: Town) -> None:
        for _ in range(6):
            await town.write(8)
            await asyncio.sleep(0.4)
        await town.until(lambda: bool(town.listing().bases))
        town.hold_down()
        town.bucket.objects[index_key("main", town.listing().bases[-1])] = b""
        town.let_go()
        await town.write(3)
        await town.archived()

    assert play(act, config=BASES).names() == ["main"]


# -- a volume that is older than its archiver


def test_the_first_archive_of_a_volume_with_a_past_begins_with_a_base(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As an installation of before there were archives. That is no mishap, and is not told as one."""

    async def act(town: Town) -> None:
        town.hold_down()
        town.bucket.objects.clear()
        await town.write(10)
        await forget(town)
        with caplog.at_level("INFO"):
            town.let_go()
            for _ in range(5):
                await town.write(2)
                await asyncio.sleep(0.2)
            await town.archived()
            await town.until(lambda: bool(town.listing().bases))
        await town.write(3)
        await town.archived()

    town = play(act)
    assert town.names() == ["main"]
    assert town.listing().bases[0] == 1
    looked_at(town)
    last = asyncio.run(look(town, every=1000)).archive
    assert asyncio.run(rows_at(last, Target())) == town.rows
    of_archiver = [r for r in caplog.records if r.name == "engine.archive.archiver"]
    assert any("begins with a base: the volume has a past" in r.message for r in of_archiver)
    assert [r for r in of_archiver if r.levelname == "ERROR"] == []


def test_earlier_archives_go_once_the_newest_has_the_whole_window() -> None:
    async def act(town: Town) -> None:
        await town.write(10)
        await town.archived()
        town.hold_down()
        await forget(town)
        town.let_go()
        await town.write(3)
        await town.archived()
        await town.until(lambda: bool(town.listing("main.2").bases))
        await asyncio.sleep(4.0)
        assert town.names() == ["main", "main.2"]
        await town.until(lambda: town.names() == ["main.2"])

    town = play(act, config=replace(CONFIG, retention_s=10.0, retire_every_s=2.0))
    looked_at(town, "main.2")


@pytest.mark.parametrize("at", ["ahead", "behind", "same"])
def test_an_older_copy_of_the_volume_does_not_go_on_with_its_archive(at: str) -> None:
    """As when a data folder is put back: LSNs are used again for something else."""
    ends: list[int] = []
    taken: dict[str, bytes] = {}

    async def act(town: Town) -> None:
        """Another installation's archive, which has the same name and has gone on further or not."""
        await town.write({"ahead": 30, "behind": 4, "same": 10}[at])
        await town.archived()
        taken.update(town.bucket.objects)

    async def later(town: Town) -> None:
        town.hold_down()
        town.bucket.objects.clear()
        town.bucket.objects.update(taken)
        ends.append(town.listing().newest)
        await asyncio.sleep(0.7)  # the same commits, at other times
        await town.write(10)
        town.let_go()
        await town.until(lambda: bool(town.listing("main.2").bases))
        await town.write(30)
        await town.archived()

    play(act)
    town = play(later)
    assert town.names() == ["main", "main.2"]
    assert town.listing().newest == ends[0], "the first is left as it was"
    looked_at(town, "main.2", every=7)
    last = asyncio.run(look(town, "main.2", every=1000)).archive
    assert asyncio.run(rows_at(last, Target())) == town.rows


def test_while_nothing_happens_three_nodes_are_asked_and_all_if_one_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    look = Source.look

    async def noted(
        source: Source, archived: LSN, among: Collection[str] | None = None
    ) -> Standing:
        asked.append(6 if among is None else len(among))
        return await look(source, archived, among)

    monkeypatch.setattr(Source, "look", noted)

    async def act(town: Town) -> None:
        for _ in range(2):
            asked.clear()
            await town.write()
            await town.archived()
            assert 6 in asked
            await asyncio.sleep(1.0)
            asked.clear()
            await asyncio.sleep(2.0)
            assert asked.count(3) >= 8
            assert asked.count(6) <= 1  # now and then all of them
        town.process("storage-2").held_down = True
        town.world.kill(town.process("storage-2"))
        asked.clear()
        await asyncio.sleep(2.0)
        assert set(asked) == {3, 6}
        await town.write()
        await town.archived()

    looked_at(play(act))
