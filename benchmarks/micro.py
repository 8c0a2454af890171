"""What each step of a commit costs in one process, in microseconds of CPU.

    python -m benchmarks.micro [--seconds 0.5] [--only NAME]

Each line is the least of five rounds of `--seconds`: what the code needs, without what else the machine was
doing. The page is one with rows of 100 bytes, of which a one-row UPDATE changes one and the header.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.ladder.memory import engine_in_memory
from benchmarks.local import save
from engine.log.apply import apply_record
from engine.log.diff import diff_page
from engine.log.frame import build_frame, decode_frame, encode_record, index_frame
from engine.log.header import read_header
from engine.net.disk import OsDisk
from engine.net.pb import storage_pb2 as pb
from engine.pgwire import codec
from engine.storage.pagestore import SegmentRow
from engine.storage.segment import Points, Segment
from engine.storage.walfile import Location
from engine.types import PAGE_SIZE, CommitMark, Member, Membership, SegmentId
from engine.volume.durability import DurabilityTracker
from engine.volume.quorum import write_quorum

ROUNDS = 5
RECORDS = 16
"""In a frame of several commits."""

SIX = tuple(Member(f"s{n}", f"az{n // 2}", f"i{n}", f"127.0.0.1:{n}") for n in range(6))
MEMBERSHIP = Membership(0, 1, SIX)


def pages() -> tuple[bytes, bytes]:
    """A page before and after a one-row UPDATE."""
    before = bytearray(random.Random(1).randbytes(PAGE_SIZE))
    after = bytearray(before)
    after[24:28] = b"\0\0\1\2"
    after[2000:2004] = b"\0\0\3\4"
    return bytes(before), bytes(after)


BEFORE, AFTER = pages()
CHANGED = diff_page(BEFORE, AFTER)


def record(lsn: int) -> bytes:
    commit = CommitMark(lsn, 1_790_000_000_000_000, 1000)
    full, moves, ranges = CHANGED
    return encode_record(
        lsn=lsn,
        prev_lsn=lsn - 1,
        prev_pg_lsn=lsn - 1,
        page=7,
        full=full,
        moves=moves,
        ranges=ranges,
        commit=commit,
    )


def frame(first: int = 1, records: int = RECORDS) -> bytes:
    return build_frame(
        volume=1,
        pg=0,
        epoch=1,
        prev_pg_lsn=first - 1,
        first_lsn=first,
        last_lsn=first + records - 1,
        records=[record(first + n) for n in range(records)],
    )


FRAME = frame()
RECORD = decode_frame(FRAME)[0]
REQUEST = pb.AppendRequest(volume=1, epoch=1, vdl=1, pgmrpl=1)
REQUEST.pgs.add(pg=0, membership_epoch=1, frames=FRAME)
BIND = codec.message(
    b"B", b"\0P_0\0" + b"\0\0" + b"\0\2" + b"\0\0\0\0041234" + b"\0\0\0\00542000" + b"\0\0"
)
EXECUTE = codec.message(b"E", b"\0\0\0\0\0") + codec.message(b"S")


def decode_client() -> None:
    decoder = codec.Decoder()
    decoder.feed(BIND + EXECUTE)
    while decoder.next() is not None:
        pass


def answer_client() -> bytes:
    return codec.message(b"2") + codec.data_row([b"4711"]) + codec.command_complete("SELECT 1")


class Tracking:
    """One commit, acknowledged by six nodes."""

    def __init__(self) -> None:
        self._tracker = DurabilityTracker(CommitMark(0, 0, 0))
        self._tracker.add_group(0, write_quorum(MEMBERSHIP))
        self._lsn = 0

    def __call__(self) -> None:
        self._lsn = lsn = self._lsn + 1
        self._tracker.sent(0, first=lsn, last=lsn)
        self._tracker.committed(CommitMark(lsn, lsn, 1000))
        for member in SIX:
            self._tracker.acked(0, member.node, lsn)


PLAIN: dict[str, Callable[[], Any]] = {
    "diff two pages": lambda: diff_page(BEFORE, AFTER),
    "encode a record": lambda: record(1000),
    f"build a frame of {RECORDS} records": lambda: build_frame(
        volume=1,
        pg=0,
        epoch=1,
        prev_pg_lsn=0,
        first_lsn=1,
        last_lsn=RECORDS,
        records=[b"x" * 40] * RECORDS,
    ),
    f"index a frame of {RECORDS} (storage)": lambda: index_frame(FRAME),
    f"decode a frame of {RECORDS} (replica)": lambda: decode_frame(FRAME),
    "apply a record to a page": lambda: apply_record(BEFORE, RECORD),
    "serialize an append request": REQUEST.SerializeToString,
    "quorum: a commit and six acks": Tracking(),
    "decode Bind, Execute, Sync": decode_client,
    "encode a row and its tag": answer_client,
}


async def sql_lines(
    measure: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[None]],
) -> None:
    """Statements through session, SQLite and VFS, without network and storage."""
    engine = engine_in_memory()
    session = engine.session()

    async def run(sql: str, *values: Any) -> None:
        cursor = await session.execute(await session.prepare(sql), values)
        await cursor.fetch()

    await run("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT)")
    await run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        " INSERT INTO account SELECT i, 0, 'filler to make the row 100 bytes wide' FROM n"
    )
    rng = random.Random(2)
    await measure(
        "SQL: SELECT one row by key",
        lambda: run("SELECT balance FROM account WHERE id = $1", rng.randrange(1, 100_001)),
    )
    await measure(
        "SQL: UPDATE one row by key, commit",
        lambda: run(
            "UPDATE account SET balance = balance + 1 WHERE id = $1", rng.randrange(1, 100_001)
        ),
    )
    await engine.close()


async def storage_lines(
    measure: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[None]],
) -> None:
    """One batch at a storage node: into its segment's indexes; and written and flushed to the disk, which
    is waiting more than it is work."""
    segment = Segment(SegmentRow(SegmentId(1, 0), "i", MEMBERSHIP), Points())
    frames = [frame(1 + n * RECORDS) for n in range(64)]
    taken = 0

    async def take_in() -> None:
        nonlocal segment, taken
        if taken % len(frames) == 0:
            segment = Segment(SegmentRow(SegmentId(1, 0), "i", MEMBERSHIP), Points())
        body = frames[taken % len(frames)]
        header = read_header(body)
        segment.add(header, index_frame(body), Location(1, 0, len(body), 0))
        taken += 1

    await measure(f"storage: take in a frame of {RECORDS}", take_in)
    with tempfile.TemporaryDirectory(prefix="sextet-bench-", dir=Path.cwd()) as folder:
        file = OsDisk(Path(folder)).open_append("log")

        async def flush() -> None:
            file.append(FRAME)
            await file.sync()

        await measure(f"storage: append and sync {len(FRAME)} bytes", flush)
        file.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="", metavar="NAME")
    arguments = parser.parse_args()
    found: dict[str, float] = {}

    def note(name: str, best_s: float) -> None:
        found[name] = round(best_s * 1e6, 2)
        print(f"{name:42} {best_s * 1e6:9.2f} µs", flush=True)

    for name, call in PLAIN.items():
        if arguments.only in name:
            note(name, min(_plain(call, arguments.seconds) for _ in range(ROUNDS)))

    async def measure(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        if arguments.only in name:
            note(name, min([await _awaited(call, arguments.seconds) for _ in range(ROUNDS)]))

    await sql_lines(measure)
    await storage_lines(measure)
    save("micro", {"microseconds": found})


def _plain(call: Callable[[], Any], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(50):
            call()
        count += 50
    return took / count


async def _awaited(call: Callable[[], Awaitable[Any]], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(50):
            await call()
        count += 50
    return took / count


if __name__ == "__main__":
    asyncio.run(main())
