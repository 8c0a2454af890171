"""A crash tears the log at any byte: what was acked is there, what was not is cut or whole, never half."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.log.frame import build_frame, encode_record, split_frames
from engine.log.header import MAX_FRAME
from engine.log.record import Moves
from engine.storage.walfile import Damage, Found, mark, scan_file
from engine.types import CommitMark
from tests.storage.harness import FaultyDisk, Log, Node, Writer, as_before

MARK = len(mark(1, 0))


class Torn:
    """A node's folder with three frames acked and two more that no fdatasync has covered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = Log(seed=5)
        self.frames = self.log.frames(5)
        self.ends = list(self.log.commits)
        self.whole = b""
        self.acked_bytes = 0
        self.copies = 0

    async def prepare(self) -> Torn:
        disk = FaultyDisk(self.root / "first")
        node = await Node(self.root / "first", disk=disk).open()
        await node.assign()
        await node.fence(1)
        await node.append(*self.frames[:3])
        self.acked_bytes = len(node.wal_bytes()) - MARK
        writer = Writer(node)
        disk.gate.clear()
        writer.send(*self.frames[3:])
        await disk.syncing.wait()
        self.whole = node.wal_bytes()
        shutil.copytree(node.folder, self.root / "crashed")
        disk.gate.set()
        await writer.ack()
        await writer.close()
        await node.close()
        return self

    def frame_ends(self) -> list[int]:
        """Where in the file each of the two frames ends."""
        first = self.acked_bytes + MARK + len(self.frames[3])
        return [first, first + len(self.frames[4])]

    async def restarted(self, wal: bytes) -> Node:
        self.copies += 1
        folder = self.root / f"copy-{self.copies}"
        shutil.copytree(self.root / "crashed", folder)
        (folder / "wal" / "00000001.wal").write_bytes(wal)
        return await Node(folder).open()

    async def check(self, wal: bytes, whole_frames: int, why: str) -> None:
        """A node over `wal` has the acked frames and `whole_frames` of the others, and goes on."""
        node = await self.restarted(wal)
        reached = self.ends[2 + whole_frames]
        assert node.segment().scl == reached, why
        assert not node.segment().row.damaged, why
        expected = [self.log.page_at(page, reached) for page in range(6)]
        assert await node.read(range(6), reached, pg_lsn=reached) == expected, why
        ack = await node.append(*self.frames[3:])
        assert ack.segments[0].scl == self.log.last, why
        await node.kill()
        again = await Node(node.folder).open()
        assert again.segment().scl == self.log.last, why
        assert await again.read(range(6), self.log.last) == [
            self.log.page_at(page, self.log.last) for page in range(6)
        ], why
        await again.kill()
        shutil.rmtree(node.folder)


async def test_the_tail_cut_at_every_byte(tmp_path: Path) -> None:
    torn = await Torn(tmp_path).prepare()
    assert torn.frame_ends()[1] == len(torn.whole)
    for cut in range(torn.acked_bytes, len(torn.whole) + 1):
        whole_frames = sum(end <= cut for end in torn.frame_ends())
        await torn.check(torn.whole[:cut], whole_frames, f"cut at {cut}")


async def test_the_tail_with_a_hole_of_zeros(tmp_path: Path) -> None:
    """The file system wrote the file's length and its later blocks, not the earlier ones."""
    torn = await Torn(tmp_path).prepare()
    for cut in range(torn.acked_bytes + MARK, len(torn.whole), 17):
        whole_frames = sum(end <= cut for end in torn.frame_ends())
        zeros = torn.whole[:cut] + bytes(len(torn.whole) - cut)
        if zeros != torn.whole:
            await torn.check(zeros, whole_frames, f"zeros from {cut}")
    first, second = torn.frame_ends()
    behind = torn.whole[: first - len(torn.frames[3])] + bytes(len(torn.frames[3]))
    behind += torn.whole[first:second]
    await torn.check(behind, 0, "only the second frame was written: it must go too")


async def test_every_byte_of_an_unsynced_frame_matters(tmp_path: Path) -> None:
    torn = await Torn(tmp_path).prepare()
    for at in range(torn.acked_bytes + MARK, len(torn.whole)):
        data = bytearray(torn.whole)
        data[at] ^= 0x40
        scanned = scan_file(bytes(data), 1, last=True)
        whole_frames = sum(end <= at for end in torn.frame_ends())
        assert len(scanned.items) == 3 + whole_frames, at
        assert all(isinstance(item, Found) for item in scanned.items), at
        assert scanned.torn_at == (torn.frame_ends()[0] if whole_frames else _start(torn)), at


async def test_every_byte_below_the_mark_is_damage_and_not_torn(tmp_path: Path) -> None:
    torn = await Torn(tmp_path).prepare()
    frames = len(list(split_frames(b"".join(torn.frames))))
    for at in range(torn.acked_bytes):
        data = bytearray(torn.whole)
        data[at] ^= 0x40
        scanned = scan_file(bytes(data), 1, last=True)
        bad = [item for item in scanned.items if isinstance(item, Damage)]
        assert scanned.torn_at is None, at
        assert bad or _in_a_mark(torn, at), at
        # What follows the damage is found again: one frame is lost, no more.
        assert len(scanned.items) - len(bad) >= frames - 1, at


def _start(torn: Torn) -> int:
    return torn.acked_bytes + MARK


def _in_a_mark(torn: Torn, at: int) -> bool:
    return not any(
        isinstance(item, Found)
        and item.location.offset <= at < item.location.offset + item.location.length
        for item in scan_file(torn.whole, 1, last=True).items
    )


def test_a_rotten_frame_names_its_pages_and_is_not_searched_for_minutes() -> None:
    erased = build_frame(
        volume=1,
        pg=0,
        epoch=1,
        prev_pg_lsn=0,
        first_lsn=1,
        last_lsn=1,
        records=[b"\xff" * (MAX_FRAME - 100)],
    )
    for frame, pages in ((Log().commit([1, 7])[0], (1, 7)), (erased, ())):
        rotten = frame[:-1] + bytes([frame[-1] ^ 1])
        (damage,) = scan_file(rotten + mark(1, len(rotten)), 1, last=True).items
        assert isinstance(damage, Damage)
        assert damage.pages == pages


@pytest.mark.parametrize("form", [bytes, as_before], ids=["now", "before"])
def test_a_rotten_header_costs_one_frame_whatever_follows(form: Callable[[bytes], bytes]) -> None:
    """Plain frames and frames with moves in them are found again behind it, in either format."""
    parts = [form(_frame(lsn, moves=((0, 9, 40),) if lsn % 3 == 2 else ())) for lsn in range(1, 8)]
    for rotten in range(len(parts)):
        data = bytearray(b"".join(parts))
        data[sum(map(len, parts[:rotten])) + 10] ^= 0x10
        data += mark(1, len(data))
        items = scan_file(bytes(data), 1, last=True).items
        assert [isinstance(item, Found) for item in items] == [n != rotten for n in range(7)]


def _frame(lsn: int, moves: Moves) -> bytes:
    record = encode_record(
        lsn=lsn,
        prev_lsn=lsn - 1,
        prev_pg_lsn=lsn - 1,
        page=2,
        full=False,
        moves=moves,
        ranges=((7, b"seven"),),
        commit=CommitMark(lsn, 1, 1),
    )
    return build_frame(
        volume=1, pg=0, epoch=1, prev_pg_lsn=lsn - 1, first_lsn=lsn, last_lsn=lsn, records=[record]
    )
