"""What a recovery asks of a segment looks at the log's tail only, and finds what a look at all would."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.log.frame import build_frame, encode_record, index_frame
from engine.log.header import read_header
from engine.storage.pagestore import SegmentRow
from engine.storage.segment import Points, Segment
from engine.storage.walfile import Location
from engine.types import LSN, CommitMark, Member, Membership, SegmentId, Truncation

MEMBERS = tuple(
    Member(f"storage-{n}", f"az{(n + 1) // 2}", f"127.0.0.1:{n}", "disk") for n in range(1, 7)
)
ROW = SegmentRow(SegmentId(1, 0), "disk", Membership(0, 1, MEMBERS))


class LooksAtAll(Segment):
    def _above(self, lsn: LSN) -> int:
        return 0


def frames(rng: random.Random, epoch: int, first: LSN, prev: LSN, count: int) -> list[bytes]:
    """A group's frames; LSNs in between went to other groups."""
    made = []
    lsn = first
    for _ in range(count):
        lsn += rng.choice((0, 0, 1, 5))
        start, before, records = lsn, prev, []
        for _ in range(rng.randint(1, 4)):
            commit = CommitMark(lsn, 0, 10) if rng.random() < 0.5 else None
            records.append(
                encode_record(
                    lsn=lsn,
                    prev_lsn=lsn - 1,
                    prev_pg_lsn=prev,
                    page=rng.randrange(6),
                    full=False,
                    moves=(),
                    ranges=[(0, b"x")],
                    commit=commit,
                )
            )
            prev, lsn = lsn, lsn + 1
        made.append(
            build_frame(
                volume=1,
                pg=0,
                epoch=epoch,
                prev_pg_lsn=before,
                first_lsn=start,
                last_lsn=prev,
                records=records,
            )
        )
    return made


def fill(segment: Segment, arrived: list[bytes]) -> None:
    for number, frame in enumerate(arrived):
        header = read_header(frame)
        if not segment.holds(header):
            segment.add(header, index_frame(frame), Location(1, number, header.length, 0))


def held(segment: Segment) -> object:
    return (
        [(f.first, f.last, f.epoch, f.runs) for f in segment.frames],
        {page: [r.lsn for r in known] for page, known in sorted(segment.index.items())},
        segment.commits,
        (segment.scl, segment.chain.pending, segment.durable_scl),
        segment.runs_above_vdl(),
    )


@given(seed=st.integers(0, 2**32))
def test_a_truncation_finds_in_the_tail_what_it_would_find_in_all(seed: int) -> None:
    rng = random.Random(seed)
    old = frames(rng, 1, 1, 0, rng.randint(1, 12))
    last = read_header(old[-1]).last_lsn
    low = rng.randint(0, last)
    high = last + rng.randint(1, 20)
    kept = [read_header(f).last_lsn for f in old if read_header(f).last_lsn <= low]
    newer = frames(rng, 2, high + 1, max(kept, default=0), rng.randint(0, 4))
    arrived = [f for f in (*old, *newer) if rng.random() < 0.9]
    rng.shuffle(arrived)
    applied = rng.choice((0, *kept))
    row = replace(ROW, applied=applied, floor=applied)
    vdl = rng.randint(applied, max(applied, low))
    quick, slow = (kind(row, Points(vdl=vdl)) for kind in (Segment, LooksAtAll))
    for segment in (quick, slow):
        fill(segment, arrived)
        segment.durable_scl = segment.scl
    assert held(quick) == held(slow)
    truncation = Truncation(2, low, high)
    assert quick.cut(truncation) == slow.cut(truncation)
    assert held(quick) == held(slow)
    left = [r for known in quick.index.values() for r in known]
    assert not any(truncation.annuls(lsn=r.lsn, epoch=r.frame.epoch) for r in left)
