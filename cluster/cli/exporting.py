"""`sextet export FILE`: a consistent copy of the database at one read point.

A replica sends the pages; the writer only if no replica can. The file appears under its name when it
is complete, checked and durable, never before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cluster.cli.client import channel_to, cluster_status, running_layout
from cluster.cli.console import err, out, size
from cluster.cli.errors import CommandFailed
from cluster.cli.sqlitefile import check_integrity, open_read_only
from cluster.local.files import sync_folder
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from engine.errors import SextetError
from engine.net.methods import EXPORT
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import instance_pb2 as pb
from engine.net.pb.storage_pb2 import CommitPoint
from engine.types import LSN, PAGE_SIZE

SILENCE_S = 60.0
"""An instance that sends no page for so long is given up."""


def export_file(folder: Folder, cluster: str, path: Path, *, force: bool) -> None:
    """Raises CommandFailed with the reason; then there is no new file and an old one is untouched."""
    layout = running_layout(folder)
    layout.running_cluster(cluster)
    with written(path, force=force) as temporary:
        source, read_lsn, pages = asyncio.run(_receive(folder, layout, cluster, temporary))
    out.print(
        f"{size(pages * PAGE_SIZE)} written to {path}: the database at LSN {read_lsn}, from {source}",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def written(path: Path, *, force: bool) -> Iterator[Path]:
    """A name beside `path` for the block to write a database to, which is then checked and given its own
    name, durably. Raises CommandFailed; whatever fails, `path` is as it was."""
    _refuse_bad_target(path, force=force)
    temporary = path.with_name(f".{path.name}.sextet-{os.getpid()}")
    try:
        yield temporary
        if temporary.stat().st_size:
            with closing(open_read_only(temporary)) as database:
                check_integrity(database, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _put_in_place(temporary, path, force=force)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_bad_target(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise CommandFailed(f"{path} is a folder; name the file to write")
    if path.exists() and not force:
        raise CommandFailed(f"{path} exists; choose another name or replace it with --force")
    if not path.absolute().parent.is_dir():
        raise CommandFailed(f"there is no folder {path.absolute().parent}")


def _put_in_place(temporary: Path, path: Path, *, force: bool) -> None:
    """Give the finished file its name, durably; without `force` only if the name is still free."""
    if force:
        temporary.replace(path)
    else:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            raise CommandFailed(f"{path} has appeared meanwhile; it is left alone") from None
    sync_folder(path.absolute().parent)


def _sources(status: cpb.ClusterStatusReply) -> list[cpb.InstanceReport]:
    """Whom to ask, in order: the replica that is furthest, other replicas, the writer."""
    able = [r for r in status.instances if r.status.state == "available"]
    if not able:
        raise CommandFailed("no instance is available; see `sextet status`")
    return sorted(able, key=lambda r: (r.view.role == "writer", -r.status.read_lsn, r.view.name))


async def _receive(
    folder: Folder, layout: Layout, cluster: str, temporary: Path
) -> tuple[str, LSN, int]:
    """All pages into `temporary`. Returns (instance, read point, pages)."""
    able = _sources(await cluster_status(folder, layout, cluster))
    for number, report in enumerate(able, start=1):
        try:
            read_lsn, pages = await receive_from(report.view.address, temporary)
        except (SextetError, TimeoutError) as error:
            reason = str(error) or "it fell silent"
            err.print(f"{report.view.name}: {reason}", style="dim", markup=False, soft_wrap=True)
            if number == len(able):
                raise CommandFailed(f"nothing was exported: {reason}") from error
        else:
            return report.view.name, read_lsn, pages
    raise AssertionError("there is at least one source")


async def receive_from(
    address: str, temporary: Path, as_of: CommitPoint | None = None
) -> tuple[LSN, int]:
    """All pages of the newest state, or as of an earlier commit, into `temporary`, which is replaced.

    Returns (read point, pages). Raises CommandFailed, TimeoutError, and what the instance raises.
    """
    columns = (TextColumn("receiving"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    show = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    async with channel_to(address) as channel:
        stream = channel.stream(EXPORT, pb.ExportRequest(as_of=as_of))
        try:
            with show, temporary.open("wb") as file:
                first = await asyncio.wait_for(stream.recv(), SILENCE_S)
                if first is None:
                    raise CommandFailed(f"{address} sent nothing")
                task = show.add_task("", total=first.page_count * PAGE_SIZE)
                while (chunk := await asyncio.wait_for(stream.recv(), SILENCE_S)) is not None:
                    file.write(chunk.pages)
                    show.update(task, advance=len(chunk.pages))
                if file.tell() != first.page_count * PAGE_SIZE:
                    raise CommandFailed(
                        f"{file.tell()} bytes came, {first.page_count * PAGE_SIZE} were announced"
                    )
                return first.read_lsn, first.page_count
        finally:
            stream.close()
