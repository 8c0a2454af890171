"""What an archiver believes of what storage nodes say. Nodes that answer as told, and a real `Source`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.archive.source import Forgotten, Source, Standing
from engine.errors import Corrupt, Unavailable
from engine.log.frame import decode_frame, trim_frame
from engine.net.pb import storage_pb2 as pb
from engine.types import PAGE_SIZE, Member, Membership, Replacement, Truncation
from engine.volume.quorum import read_quorum
from tests.archive.books import VOLUME, frame_of, ledger_of

NAMES = [f"storage-{n}" for n in range(1, 7)]
MEMBERS = tuple(Member(name, "az1", name, "first") for name in NAMES)
MEMBERSHIP = Membership(0, 1, MEMBERS)
LEDGER = ledger_of([((n % 3,), n) for n in range(8)])
FRAMES = [frame_of([record]) for record in LEDGER.records]


class Nodes:
    """Both a fleet and the channels to it. A node's address is its name."""

    def __init__(self) -> None:
        self.scls = dict.fromkeys(NAMES, 8)
        self.epochs = dict.fromkeys(NAMES, 1)
        self.truncations: dict[str, list[Truncation]] = {name: [] for name in NAMES}
        self.away: set[str] = set()
        self.damaged: set[str] = set()
        self.hot_from = dict.fromkeys(NAMES, 0)
        self.rotten: set[str] = set()
        self.asked: list[str] = []
        self.source = Source(self, VOLUME, "archive")  # type: ignore[arg-type]
        self.source.memberships = {0: MEMBERSHIP}

    def to(self, address: str) -> _Channel:
        return _Channel(self, address)

    async def standing(self) -> Standing:
        return await self.source.look(0)


class _Channel:
    def __init__(self, nodes: Nodes, name: str) -> None:
        self.nodes = nodes
        self.name = name

    async def call(self, _method: Any, request: Any, *, timeout: float) -> Any:
        nodes, name = self.nodes, self.name
        if name in nodes.away:
            raise Unavailable(f"{name} is away")
        if isinstance(request, pb.GossipRequest):
            truncations = [
                pb.TruncationRange(epoch=t.epoch, low=t.low, high=t.high)
                for t in nodes.truncations[name]
            ]
            volume = pb.GossipVolume(
                volume=VOLUME,
                epoch=nodes.epochs[name],
                vdl=nodes.scls[name],
                truncations=truncations,
            )
            segment = pb.GossipSegment(
                volume=VOLUME, pg=0, scl=nodes.scls[name], damaged=name in nodes.damaged
            )
            return pb.GossipReply(volumes=[volume], segments=[segment])
        nodes.asked.append(name)
        if name in nodes.rotten:
            raise Corrupt(f"page 0 is rotten on {name}")
        assert (request.pg_lsn, request.epoch) == (nodes.scls[name], nodes.epochs[name])
        image = name.encode().ljust(PAGE_SIZE, b"\0")
        return pb.ReadPagesReply(pages=[pb.PageImage(page=p, image=image) for p in request.pages])

    def stream(self, _method: Any, request: pb.FetchFramesRequest) -> _Frames:
        return _Frames(self.nodes, self.name, request)


class _Frames:
    def __init__(self, nodes: Nodes, name: str, request: pb.FetchFramesRequest) -> None:
        nodes.asked.append(name)
        if name in nodes.away:
            raise Unavailable(f"{name} is away")
        wanted = [f for f in FRAMES if request.after < decode_frame(f)[-1].lsn <= request.upto]
        hot = nodes.hot_from[name]
        self._chunks = [
            pb.FramesChunk(frames=b"".join(wanted[n : n + 2]), hot_from=hot)
            for n in range(0, max(1, len(wanted)), 2)
        ]

    async def recv(self) -> pb.FramesChunk | None:
        return self._chunks.pop(0) if self._chunks else None

    def close(self) -> None: ...


# -- who is complete


async def complete(nodes: Nodes) -> list[str]:
    return (await nodes.standing()).complete(0)


async def test_who_has_most_of_three_is_complete() -> None:
    nodes = Nodes()
    assert await complete(nodes) == NAMES
    nodes.scls |= {"storage-1": 3, "storage-2": 7, "storage-3": 7, "storage-4": 7, "storage-5": 1}
    assert await complete(nodes) == ["storage-6"]
    nodes.away = {"storage-6", "storage-4"}
    assert await complete(nodes) == ["storage-2", "storage-3"]
    nodes.away |= {"storage-2"}
    assert await complete(nodes) == ["storage-3"]
    nodes.away |= {"storage-3"}
    assert await complete(nodes) == [], "both of them may lack what the four others have"


async def test_the_damaged_are_not_counted() -> None:
    nodes = Nodes()
    nodes.damaged = {"storage-1", "storage-2", "storage-3"}
    assert await complete(nodes) == NAMES[3:]
    nodes.damaged |= {"storage-4"}
    assert await complete(nodes) == []


async def test_who_does_not_know_the_newest_recovery_has_too_much() -> None:
    """It holds more than anybody, and all of that was annulled."""
    nodes = Nodes()
    nodes.scls["storage-1"] = 99
    for name in NAMES[1:]:
        nodes.truncations[name], nodes.epochs[name] = [Truncation(2, 8, 1000)], 2
    assert await complete(nodes) == NAMES[1:]
    nodes.away = set(NAMES[1:4])
    assert await complete(nodes) == [], "and it is no witness for what the others have"


async def test_while_a_member_is_replaced_either_six_will_do() -> None:
    nodes = Nodes()
    new = Member("storage-7", "az1", "storage-7", "first")
    nodes.source.memberships = {
        0: replace(MEMBERSHIP, replacing=Replacement(old=MEMBERS[0], new=new))
    }
    for known in (nodes.scls, nodes.epochs, nodes.hot_from):
        known["storage-7"] = 1
    nodes.scls["storage-7"] = 8
    nodes.truncations["storage-7"] = []
    nodes.away = {"storage-3", "storage-4", "storage-5"}
    assert await complete(nodes) == ["storage-1", "storage-2", "storage-6", "storage-7"]
    nodes.away |= {"storage-6"}
    assert await complete(nodes) == [], "storage-1 and storage-7 are not of the same six"


# -- pages


async def test_pages_come_from_who_is_complete() -> None:
    nodes = Nodes()
    nodes.scls |= dict.fromkeys(NAMES[:4], 5)
    nodes.rotten = {"storage-5"}
    standing = await nodes.standing()
    pages = await nodes.source.pages(standing, [0, 1], 8)
    assert [page.rstrip(b"\0") for page in pages] == [b"storage-6"] * 2
    assert nodes.asked == ["storage-5", "storage-6"]


@pytest.mark.parametrize("away", [4, 6])
async def test_pages_of_nobody_are_no_zeros(away: int) -> None:
    nodes = Nodes()
    nodes.away = set(NAMES[:away])
    with pytest.raises(Unavailable, match="too few answer"):
        await nodes.source.pages(await nodes.standing(), [0], 8)
    assert nodes.asked == []


async def test_rotten_everywhere_says_so() -> None:
    nodes = Nodes()
    nodes.rotten = set(NAMES)
    standing = await nodes.standing()
    with pytest.raises(Corrupt, match="storage-1"):
        await nodes.source.pages(standing, [0], 8)
    nodes.away = {"storage-3"}
    with pytest.raises(Unavailable, match="page 0 is rotten on storage-1; "):
        await nodes.source.pages(standing, [0], 8)


# -- frames


async def frames(nodes: Nodes, after: int = 0, *, bytes_max: int = 1 << 20) -> list[bytes]:
    return await nodes.source.frames(await nodes.standing(), 0, after, 8, bytes_max=bytes_max)


async def test_frames_come_from_the_first_that_has_them() -> None:
    nodes = Nodes()
    assert await frames(nodes) == FRAMES
    assert await frames(nodes, 5) == FRAMES[5:]
    assert await frames(nodes, bytes_max=1) == FRAMES[:2], "a message at least"
    assert await frames(nodes, 8) == []
    nodes.scls["storage-4"] = 9
    nodes.asked.clear()
    assert await frames(nodes) == FRAMES
    assert nodes.asked == ["storage-4"], "who has most is asked first"


async def test_frames_are_cut_by_the_newest_recovery_that_anybody_knows() -> None:
    nodes = Nodes()
    nodes.truncations["storage-6"], nodes.epochs["storage-6"] = [Truncation(2, 5, 1000)], 2
    assert await frames(nodes) == FRAMES[:5]
    whole = frame_of(LEDGER.records[:1])
    assert trim_frame(whole, 5) == whole


@pytest.mark.parametrize("forgetful", range(7))
async def test_a_log_is_forgotten_when_a_write_quorum_says_so(forgetful: int) -> None:
    """Fewer may have been filled by a copy of pages, while those who are away have all of it."""
    nodes = Nodes()
    nodes.hot_from |= dict.fromkeys(NAMES[:forgetful], 4)
    if forgetful < 6:
        assert await frames(nodes) == FRAMES
    nodes.away = set(NAMES[forgetful:])
    if forgetful < 4:
        assert await frames(nodes) == []
    else:
        with pytest.raises(Forgotten, match="group 0: nobody's log reaches back to LSN 0"):
            await frames(nodes)
    assert bool(await frames(nodes, 4)) == bool(forgetful)


async def test_members_may_change_in_the_middle_of_a_round() -> None:
    nodes = Nodes()
    standing = await nodes.standing()
    nodes.source.memberships = {}
    assert await nodes.source.frames(standing, 0, 0, 8, bytes_max=1 << 20) == FRAMES
    assert len(await nodes.source.pages(standing, [0], 8)) == 1


def test_few_are_a_read_quorum_and_others_the_next_time() -> None:
    nodes = Nodes()
    few = [nodes.source.few(turn) for turn in range(4)]
    assert few[0] == few[2] == NAMES[:3]
    assert few[1] == few[3] == NAMES[3:]
    new = Member("storage-7", "az1", "storage-7", "first")
    nodes.source.memberships = {0: replace(MEMBERSHIP, replacing=Replacement(MEMBERS[0], new))}
    for turn in range(20):
        asked = nodes.source.few(turn)
        assert read_quorum(nodes.source.memberships[0]).satisfied(asked)
        assert len(asked) <= 4


async def test_only_those_few_are_asked() -> None:
    nodes = Nodes()
    standing = await nodes.source.look(0, NAMES[1:4])
    assert sorted(standing.epochs) == NAMES[1:4]
    assert not standing.all_asked
    assert (await nodes.standing()).all_asked
