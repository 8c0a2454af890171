"""`sextet import FILE`: a SQLite database into the empty volume, as one commit.

Checked before (the file), by the writer (the volume is empty, every page has come) and after (through
SQL on both endpoints). The writer commits all pages in one MTR, so whatever breaks, the volume is
empty or complete.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psycopg
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cluster.cli.client import channel_to, cluster_status, running_layout, writer_of
from cluster.cli.connect import connect, describe, endpoint_url
from cluster.cli.console import err, out, size
from cluster.cli.errors import CommandFailed, NotRunning
from cluster.cli.sqlitefile import importable
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from engine.errors import SextetError, Unavailable
from engine.net.methods import IMPORT
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import instance_pb2 as pb
from engine.types import PAGE_SIZE

CHUNK_PAGES = 64
PATIENCE_S = 60.0
PATIENCE_S_PER_BYTE = 1 / (256 * 1024)
"""What takes longer than a minute and another second for each 256 KiB is given up."""

WRITER_S = 10.0
"""A writer that was just started or named is available before, and the control plane has seen it."""

FOLLOW_S = 30.0
POLL_S = 0.1


def import_file(folder: Folder, cluster: str, path: Path) -> None:
    """Raises CommandFailed with the reason if it refuses; then nothing has changed."""
    layout = running_layout(folder)
    spec = layout.running_cluster(cluster)
    with importable(path, folder.run) as database:
        total = database.stat().st_size
        if total > spec.max_pages * PAGE_SIZE:
            raise CommandFailed(
                f"{path} has {size(total)}, the cluster may have {size(spec.max_pages * PAGE_SIZE)}; "
                "raise that with `sextet storage limit`"
            )
        reply = asyncio.run(_send(folder, layout, cluster, database, total))
    out.print(
        f"{size(total)} imported as commit {reply.commit_lsn}, {size(reply.redo_bytes)} of redo"
    )
    asyncio.run(_wait_followed(folder, layout, cluster, reply.commit_lsn))
    for reader in (False, True):
        _check_endpoint(folder, cluster, total, reader=reader)


def patience(total: int) -> float:
    """Seconds that something with so many bytes may take."""
    return PATIENCE_S + total * PATIENCE_S_PER_BYTE


async def _writer(folder: Folder, layout: Layout, cluster: str) -> cpb.InstanceReport:
    """Raises CommandFailed, NotRunning: why there is none for WRITER_S."""
    deadline = time.monotonic() + WRITER_S
    while True:
        try:
            return writer_of(await cluster_status(folder, layout, cluster))
        except (CommandFailed, NotRunning):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_S)


async def _send(
    folder: Folder, layout: Layout, cluster: str, database: Path, total: int
) -> pb.ImportReply:
    """Stream the pages to the writer and wait until they are durable."""
    writer = await _writer(folder, layout, cluster)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    show = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    async with channel_to(writer.view.address) as channel:
        stream = channel.stream(IMPORT)
        complete = False
        try:
            with show, database.open("rb") as file:
                task = show.add_task("sending", total=total)
                pages = total // PAGE_SIZE
                while chunk := file.read(CHUNK_PAGES * PAGE_SIZE):
                    await stream.send(pb.ImportChunk(page_count=pages, pages=chunk))
                    show.update(task, advance=len(chunk))
                await stream.done_sending()
                complete = True
                show.update(task, description="making durable")
                async with asyncio.timeout(patience(total)):
                    return await channel.collect(IMPORT, stream)
        except (TimeoutError, Unavailable) as error:
            if not complete:
                raise CommandFailed(f"nothing was imported: {error}") from error
            raise CommandFailed(
                "the writer went away; whether the import took place is unknown: look with "
                "`sextet sql -c 'SELECT count(*) FROM sqlite_schema'`"
            ) from error
        except SextetError as error:
            raise CommandFailed(f"nothing was imported: {error}") from error
        finally:
            stream.close()


async def _wait_followed(folder: Folder, layout: Layout, cluster: str, lsn: int) -> None:
    """Until every replica that answers shows the import; a replica that hangs is only mentioned."""
    deadline = time.monotonic() + FOLLOW_S
    while True:
        status = await cluster_status(folder, layout, cluster)
        behind = [
            r.view.name
            for r in status.instances
            if r.view.role != "writer" and r.HasField("status") and r.status.read_lsn < lsn
        ]
        if not behind:
            return
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"imported, but {', '.join(behind)} does not show it after {FOLLOW_S:.0f} s; "
                "see `sextet status`"
            )
        await asyncio.sleep(POLL_S)


def _check_endpoint(folder: Folder, cluster: str, total: int, *, reader: bool) -> None:
    """Raises CommandFailed if the database fails its integrity check through SQL."""
    url = endpoint_url(folder, cluster, reader=reader)
    try:
        with err.status(f"integrity check at {url}"), connect(url) as connection:
            # A replica reads every page from storage for it, which may take longer than a default.
            connection.execute(f"SET statement_timeout = {patience(total) * 1000:.0f}")
            rows = connection.execute("PRAGMA integrity_check").fetchall()
    except psycopg.Error as error:
        raise CommandFailed(f"imported, but not checked at {url}: {describe(error)}") from error
    if rows != [("ok",)]:
        raise CommandFailed(f"imported, but the integrity check at {url} says: {rows[0][0]}")
    out.print(f"integrity check at {url}: ok", soft_wrap=True)
