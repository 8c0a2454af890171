"""`sextet log NODE`: the redo records in a storage node's hot log, decoded."""

from __future__ import annotations

import asyncio
import datetime
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cluster.cli.client import channel_to, running_layout
from cluster.cli.console import err, narrow_table, out, print_json
from cluster.cli.errors import CommandFailed
from cluster.local.folder import Folder
from cluster.local.layout import address
from engine.errors import Unavailable
from engine.log.frame import decode_frame, split_frames
from engine.log.record import Record
from engine.net.methods import FETCH_FRAMES, STORAGE_STATUS
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel
from engine.types import LSN, PageNo, PgNo
from engine.volume.geometry import pg_of

STATUS_TIMEOUT_S = 5.0
RANGES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which records: from LSN `start` on, of one page or all, at most `limit`."""

    start: LSN
    page: PageNo | None
    limit: int
    volume: int | None


def show_log(folder: Folder, node: str, query: LogQuery, *, as_json: bool) -> None:
    """Print them, oldest first. Raises NotRunning, ConfigError, CommandFailed."""
    layout = running_layout(folder)
    where = address(layout.storage_node(node).port)
    try:
        records, hot_from = asyncio.run(_collect(where, query))
    except Unavailable as error:
        raise CommandFailed(f"{node} does not answer: {error}; see `sextet status`") from error
    if as_json:
        print_json([record_to_json(record) for record in records])
        return
    if records:
        out.print(_table(records))
    else:
        err.print("no such record is in the hot log")
    if hot_from > 0 and query.start <= hot_from:
        err.print(
            f"[dim]records up to LSN {hot_from} have left the hot log: they are pages now[/dim]"
        )
    if len(records) == query.limit:
        err.print(f"[dim]more follow: --from {records[-1].lsn + 1}, or raise --limit[/dim]")


async def _collect(where: str, query: LogQuery) -> tuple[list[Record], LSN]:
    """The records in LSN order, and the LSN up to which some group's hot log has been emptied."""
    async with channel_to(where) as channel:
        status = await channel.call(
            STORAGE_STATUS, pb.StorageStatusRequest(), timeout=STATUS_TIMEOUT_S
        )
        segments = _segments(status, query)
        volume = segments[0].volume
        groups = [await _records(channel, volume, s.pg, query) for s in segments]
    merged = heapq.merge(*groups, key=lambda record: record.lsn)
    records = [record for record, _ in zip(merged, range(query.limit), strict=False)]
    return records, max(s.hot_from for s in segments)


def _segments(status: pb.StorageStatusReply, query: LogQuery) -> list[pb.SegmentStatus]:
    """Those to look into, all of one volume."""
    volumes = sorted({s.volume for s in status.segments})
    volume = query.volume if query.volume is not None else min(volumes, default=0)
    if query.volume is None and len(volumes) > 1:
        raise CommandFailed(f"{status.node} keeps volumes {volumes}; choose one with --volume")
    wanted = None if query.page is None else pg_of(query.page)
    found = [s for s in status.segments if s.volume == volume and wanted in (None, s.pg)]
    if not found:
        what = f"volume {volume}" if wanted is None else f"protection group {wanted}"
        raise CommandFailed(f"{status.node} keeps no segment of {what}")
    return sorted(found, key=lambda s: s.pg)


async def _records(channel: Channel, volume: int, pg: PgNo, query: LogQuery) -> list[Record]:
    """One group's records, no more than are asked for."""
    request = pb.FetchFramesRequest(volume=volume, pg=pg, after=max(0, query.start - 1))
    stream = channel.stream(FETCH_FRAMES, request)
    found: list[Record] = []
    try:
        while len(found) < query.limit and (chunk := await stream.recv()) is not None:
            for _, frame in split_frames(chunk.frames):
                found += [record for record in decode_frame(frame) if _wanted(record, query)]
    finally:
        stream.close()
    return found[: query.limit]


def _wanted(record: Record, query: LogQuery) -> bool:
    return record.lsn >= query.start and query.page in (None, record.page)


# -- showing


def record_to_json(record: Record) -> dict[str, Any]:
    """Everything about a record but the bytes themselves. Keys are an interface."""
    commit = record.commit
    return {
        "lsn": record.lsn,
        "prev_lsn": record.prev_lsn,
        "prev_pg_lsn": record.prev_pg_lsn,
        "epoch": record.epoch,
        "page": record.page,
        "full": record.full,
        "moves": [list(move) for move in record.moves],
        "ranges": [[offset, len(data)] for offset, data in record.ranges],
        "bytes": sum(len(data) for _, data in record.ranges),
        "commit": None if commit is None else {"time_us": commit.time_us, "pages": commit.pages},
    }


def _table(records: Iterable[Record]) -> Table:
    right = ("LSN", "prev", "prev in PG", "epoch", "page", "bytes")
    table = narrow_table(right, right=right)
    table.add_column("offset+bytes", min_width=12)
    table.add_column("CPL: time, pages", no_wrap=True)
    for record in records:
        table.add_row(
            *(str(record.lsn), str(record.prev_lsn), str(record.prev_pg_lsn), str(record.epoch)),
            *(str(record.page), str(sum(len(data) for _, data in record.ranges))),
            ranges_text(record),
            commit_text(record),
        )
    return table


def ranges_text(record: Record) -> str:
    """Moves, as `to+bytes<from`, and the changed ranges, the first few of them; "all:" where the rest of
    the page is zero."""
    parts = [f"{offset}+{length}<{source}" for offset, length, source in record.moves]
    parts += [f"{offset}+{len(data)}" for offset, data in record.ranges[:RANGES_SHOWN]]
    if len(record.ranges) > RANGES_SHOWN:
        parts.append(f"… {len(record.ranges) - RANGES_SHOWN} more")
    text = " ".join(parts)
    return f"all: {text}" if record.full else text


def commit_text(record: Record) -> str:
    if record.commit is None:
        return ""
    time = datetime.datetime.fromtimestamp(record.commit.time_us / 1e6, tz=datetime.UTC)
    return f"{time:%H:%M:%S}.{time.microsecond // 1000:03}Z, {record.commit.pages}"
