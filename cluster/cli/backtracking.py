"""`sextet backtrack`: find the commit, get the database as it was then, have the writer put it back.

The past comes from the storage nodes while they still serve it, and else from the archive: as a file that
is made and checked before anybody is disturbed. The writer puts its pages back by one commit
(`engine.instance.backtrack`), so going forward again is the same command with a later LSN.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cluster.cli.archived import wait_for_moment
from cluster.cli.archives import find, opened
from cluster.cli.client import channel_to, cluster_status, running_layout, writer_of
from cluster.cli.console import err, out
from cluster.cli.errors import CommandFailed
from cluster.cli.exporting import receive_from
from cluster.cli.importing import CHUNK_PAGES, patience
from cluster.cli.progress import counting
from cluster.cli.room import room
from cluster.cli.sqlitefile import check_integrity, open_read_only
from cluster.cli.up import command_line
from cluster.local.backtracking import window_text
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, Layout
from engine.archive.catalogue import Target
from engine.archive.restore import Archive, shown
from engine.errors import ConfigError, SextetError, Unavailable
from engine.moments import parse_time
from engine.net.methods import BACKTRACK, COMMIT_AT, RECORD_EVENT
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import instance_pb2 as pb
from engine.types import LSN, PAGE_SIZE, CommitMark
from engine.volume.fencing import commit_from_pb, commit_to_pb

SEND_S = 60.0
"""The writer may have to fetch the pages it compares with from storage, which gives up before."""

EVENT_S = 5.0
COMMIT_AT_S = 20.0
"""The control plane gives up before."""


@dataclass(frozen=True, slots=True)
class BacktrackOptions:
    """As given; None where the user did not say."""

    to_time: str | None
    to_lsn: int | None
    yes: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when a cluster may be backtracked (Unix microseconds), and its newest commit."""

    cluster: str
    length_s: int
    now_us: int
    newest: LSN

    @property
    def earliest_us(self) -> int:
        return self.now_us - self.length_s * 1_000_000

    def __str__(self) -> str:
        return (
            f"{self.cluster} can be backtracked to any moment of the last {window_text(self.length_s)}, "
            f"from {shown(self.earliest_us)} to {shown(self.now_us)} (LSN {self.newest})"
        )


class OutsideWindow(ConfigError):
    """There is such a moment, but a cluster is not backtracked to it."""


def target_of(options: BacktrackOptions, *, now: datetime) -> Target:
    """Raises ConfigError unless exactly one moment was named."""
    if (options.to_time is None) is (options.to_lsn is None):
        raise ConfigError("say to when: one of --to-time and --to-lsn")
    if options.to_time is not None:
        return Target(time_us=parse_time(options.to_time, now=now))
    return Target(lsn=options.to_lsn)


def check_target(target: Target, window: Window) -> None:
    """Raises ConfigError for a moment that cannot be in the window, whatever commits there were."""
    if target.lsn is not None:
        if target.lsn < 1:
            raise ConfigError(f"{target.lsn} is no LSN; the first one is 1")
        if target.lsn > window.newest:
            raise OutsideWindow(f"LSN {target.lsn} is yet to come: {window}")
        return
    time_us = target.time_us or 0
    if time_us > window.now_us:
        raise OutsideWindow(f"that is yet to come: {window}")
    if time_us < window.earliest_us:
        raise OutsideWindow(f"that is too long ago: {window}")


def backtrack(folder: Folder, cluster: str, options: BacktrackOptions) -> None:
    """Raises NotRunning, ConfigError, CommandFailed, Unavailable, ObjectMissing, Corrupt, FormatError: then
    nothing is changed, unless it says that this is unknown."""
    target = target_of(options, now=datetime.now(UTC))
    layout = running_layout(folder)
    spec = layout.running_cluster(cluster)
    if not spec.backtrack_window_s:
        raise ConfigError(
            f"{cluster} cannot be backtracked: that has to be enabled when a cluster is made, with "
            f"`--backtrack-window`. `sextet restore {cluster} NEW` makes a new cluster of an earlier moment"
        )
    if not options.yes and not sys.stdin.isatty():
        raise CommandFailed(
            f"this changes {cluster} in place and closes every connection to it; say so with --yes"
        )
    source, commit = asyncio.run(_find(folder, layout, spec, target))
    what = f"LSN {commit.lsn}, committed {shown(commit.time_us)}"
    if not options.yes and not typer.confirm(
        f"Put {cluster} back to {what}, and close every connection to it?"
    ):
        raise CommandFailed("nothing is changed")
    with room(folder.run) as own:
        reply = asyncio.run(_put_back(folder, layout, spec, source, commit, own))
    _report(folder, cluster, commit, reply)


# -- the past


class Source(Protocol):
    """Where an earlier state may come from."""

    async def last(self, target: Target) -> CommitMark:
        """The last commit at or before then; LSN 0 if there was none. Raises SextetError."""

    async def fetch(self, commit: CommitMark, path: Path) -> None:
        """Write the database as of `commit` to a new file. Raises SextetError."""


class HotWindow:
    """The storage nodes, as far back as they serve reads: for that nobody has to wait for the archive."""

    def __init__(self, folder: Folder, layout: Layout, spec: ClusterSpec) -> None:
        self._folder = folder
        self._layout = layout
        self._cluster = spec.name

    async def last(self, target: Target) -> CommitMark:
        request = cpb.CommitAtRequest(
            cluster=self._cluster, at_lsn=target.lsn or 0, at_time_us=target.time_us or 0
        )
        async with channel_to(self._layout.control_address) as control:
            commit = (await control.call(COMMIT_AT, request, timeout=COMMIT_AT_S)).commit
        return commit_from_pb(commit)

    async def fetch(self, commit: CommitMark, path: Path) -> None:
        # From the writer: it has most of these pages cached, and compares them afterwards.
        writer = writer_of(await cluster_status(self._folder, self._layout, self._cluster))
        await receive_from(writer.view.address, path, as_of=commit_to_pb(commit))


class InArchive:
    """The cluster's archive."""

    def __init__(self, folder: Folder, layout: Layout, spec: ClusterSpec) -> None:
        self._folder = folder
        self._layout = layout
        self._spec = spec

    async def last(self, target: Target) -> CommitMark:
        await wait_for_moment(self._folder, self._layout, self._spec, target)
        async with self._opened() as archive:
            return (await archive.plan(await _as_archived(archive, target))).commit

    async def fetch(self, commit: CommitMark, path: Path) -> None:
        target = Target(lsn=commit.lsn)
        await wait_for_moment(self._folder, self._layout, self._spec, target)
        async with self._opened() as archive:
            with counting("reading objects") as progress:
                await archive.restore(await archive.plan(target), path, progress)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Archive]:
        async with opened(self._folder, None) as objects:
            yield await find(self._folder, objects, self._spec.name)


async def _as_archived(archive: Archive, target: Target) -> Target:
    """While nobody commits, objects say only once a minute up to when they have everything. The archiver
    says so all the time, and it has been asked; so a later moment is that of the last object."""
    if target.time_us is None:
        return target
    return replace(target, time_us=min(target.time_us, (await archive.window()).known_us))


async def _find(
    folder: Folder, layout: Layout, spec: ClusterSpec, target: Target
) -> tuple[Source, CommitMark]:
    """The commit, and who has its state. Raises ConfigError if that is no moment of the window."""
    writer = writer_of(await cluster_status(folder, layout, spec.name)).status
    window = Window(spec.name, spec.backtrack_window_s, writer.wall_us, writer.read_lsn)
    check_target(target, window)
    hot, archive = HotWindow(folder, layout, spec), InArchive(folder, layout, spec)
    try:
        return hot, await _within(hot, target, window)
    except OutsideWindow:
        raise
    except (ConfigError, Unavailable):  # too long ago for them, or they do not know now
        return archive, await _within(archive, target, window)


async def _within(source: Source, target: Target, window: Window) -> CommitMark:
    """Raises OutsideWindow; and SextetError if the source does not say."""
    commit = await source.last(target)
    if not commit.lsn:
        raise OutsideWindow(f"nothing was in {window.cluster} yet at that moment: {window}")
    if target.lsn is not None and commit.time_us < window.earliest_us:
        # It may have been the newest one for long.
        first = await source.last(Target(time_us=window.earliest_us))
        if commit.lsn < first.lsn:
            raise OutsideWindow(
                f"LSN {target.lsn} is too long ago: {window}; the first of these states is that of LSN "
                f"{first.lsn}"
            )
    return commit


# -- putting it back


async def _put_back(
    folder: Folder,
    layout: Layout,
    spec: ClusterSpec,
    source: Source,
    commit: CommitMark,
    own: Path,
) -> pb.BacktrackReply:
    path = own / "past.db"
    try:
        await source.fetch(commit, path)
    except (SextetError, TimeoutError) as error:
        if not isinstance(source, HotWindow):
            raise
        why = str(error) or "it fell silent"  # or they let go of it meanwhile
        err.print(f"from the archive, since {why}", style="dim", markup=False, soft_wrap=True)
        path = own / "archived.db"
        await InArchive(folder, layout, spec).fetch(commit, path)
    with err.status("checking the database"), closing(open_read_only(path)) as database:
        check_integrity(database, path)
    reply = await _send(folder, layout, spec.name, commit, path)
    if reply.HasField("commit"):
        await _record(layout, spec.name, commit, reply)
    return reply


async def _send(
    folder: Folder, layout: Layout, cluster: str, commit: CommitMark, path: Path
) -> pb.BacktrackReply:
    """Stream the pages to the writer, and wait until they are durable."""
    writer = writer_of(await cluster_status(folder, layout, cluster))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    show = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    total = commit.pages * PAGE_SIZE
    async with channel_to(writer.view.address) as channel:
        stream = channel.stream(BACKTRACK)
        complete = False
        try:
            with show, path.open("rb") as file:
                task = show.add_task("comparing", total=total)
                while chunk := file.read(CHUNK_PAGES * PAGE_SIZE):
                    async with asyncio.timeout(SEND_S):
                        await stream.send(pb.BacktrackChunk(past=commit_to_pb(commit), pages=chunk))
                    show.update(task, advance=len(chunk))
                await stream.done_sending()
                complete = True
                show.update(task, description="making durable")
                async with asyncio.timeout(patience(total)):
                    return await channel.collect(BACKTRACK, stream)
        except (TimeoutError, Unavailable) as error:
            if not complete:
                why = str(error) or "the writer is silent"
                raise CommandFailed(f"nothing is changed: {why}") from error
            raise CommandFailed(
                f"the writer went away; whether {cluster} is put back is unknown. The same again with "
                f"`--to-lsn {commit.lsn}` does it, or says that nothing differs"
            ) from error
        except SextetError as error:
            raise CommandFailed(f"{cluster} is not put back: {error}") from error
        finally:
            stream.close()


async def _record(
    layout: Layout, cluster: str, commit: CommitMark, reply: pb.BacktrackReply
) -> None:
    """For `sextet events`; the control plane may be away."""
    what = (
        f"backtracked to LSN {commit.lsn}, committed {shown(commit.time_us)}; as commit "
        f"{reply.commit.lsn}"
    )
    try:
        async with channel_to(layout.control_address) as control:
            request = cpb.RecordEventRequest(subject=cluster, what=what)
            await control.call(RECORD_EVENT, request, timeout=EVENT_S)
    except SextetError as error:
        err.print(f"`sextet events` will not show it: {error}", style="dim", markup=False)


def _report(folder: Folder, cluster: str, commit: CommitMark, reply: pb.BacktrackReply) -> None:
    then = f"LSN {commit.lsn}, committed {shown(commit.time_us)}, the last commit at or before then"
    if not reply.HasField("commit"):
        out.print(
            f"cluster [bold]{cluster}[/bold] is as it was at {then}: nothing differs. Connections "
            "to its writer were closed to see that",
            soft_wrap=True,
        )
        return
    out.print(f"cluster [bold]{cluster}[/bold] is as it was at {then}", soft_wrap=True)
    out.print(
        f"  {reply.changed_pages} of {max(commit.pages, reply.before.pages)} pages differed; they are "
        f"commit {reply.commit.lsn}, and every connection was closed",
        soft_wrap=True,
    )
    forward = command_line(folder, f"backtrack {cluster} --to-lsn {reply.before.lsn}")
    out.print("forward again")
    out.print(f"  {forward}", markup=False, soft_wrap=True)
    if reply.unclosed:
        err.print(
            f"[yellow]![/yellow] {', '.join(reply.unclosed)} did not say that its clients' connections are "
            "closed; they see the same as all others once it follows the writer",
            soft_wrap=True,
        )
