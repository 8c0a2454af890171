"""Waiting until what a running cluster has committed is in its archive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.cli.client import cluster_status
from cluster.cli.console import err
from cluster.cli.errors import CommandFailed
from cluster.cli.report import OPEN
from cluster.local.archiving import ArchiveState, load_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, Layout
from engine.archive.catalogue import Target, generations
from engine.types import LSN

PATIENCE_S = 60.0
"""And as long as two rounds of the archiver take."""

POLL_S = 0.1


async def wait_archived(folder: Folder, layout: Layout, cluster: ClusterSpec) -> LSN:
    """The newest commit of when this was called, once the archiver has said that it is in the archive.

    Raises CommandFailed if that takes too long, saying why; NotRunning.
    """
    deadline = _deadline(layout)
    with err.status(f"waiting until the archive has all that is in {cluster.name} now"):
        wanted = await _newest_commit(folder, layout, cluster.name, deadline)
        late = await _until(folder, cluster, deadline, lambda said: said.upto >= wanted)
    if late is not None:
        upto, why = late
        raise CommandFailed(
            f"the newest commit of {cluster.name} is {wanted}, and its archive ends at LSN "
            f"{upto}{why}; `--to-lsn {upto}` takes what is there"
        )
    return wanted


async def wait_for_moment(
    folder: Folder, layout: Layout, cluster: ClusterSpec, target: Target
) -> None:
    """Until the archiver has said that all that was committed by `target`, a moment that is past, is in the
    archive.

    Raises CommandFailed if that takes too long, saying why.
    """

    def reached(said: ArchiveState) -> bool:
        if target.lsn is not None:
            return said.upto >= target.lsn
        return said.known_us >= (target.time_us or 0)

    with err.status(f"waiting until the archive of {cluster.name} reaches to then"):
        late = await _until(folder, cluster, _deadline(layout), reached)
    if late is not None:
        upto, why = late
        raise CommandFailed(
            f"the archive of {cluster.name} does not reach to then yet; it ends at LSN {upto}{why}"
        )


def _deadline(layout: Layout) -> float:
    return time.monotonic() + PATIENCE_S + 2 * layout.archive_every_s


async def _until(
    folder: Folder, cluster: ClusterSpec, deadline: float, reached: Callable[[ArchiveState], bool]
) -> tuple[LSN, str] | None:
    """None once the cluster's archiver has said so; else up to where the archive goes, and ": why"."""
    while True:
        said = load_archive_state(folder, cluster.name)
        ours = said is not None and bool(generations(cluster.archive, [f"{said.archive}/"]))
        if said is not None and ours and reached(said):
            return None
        if time.monotonic() > deadline:
            upto = said.upto if said is not None and ours else 0
            return upto, f": {said.why}" if said is not None and said.why else ""
        await asyncio.sleep(POLL_S)


async def _newest_commit(folder: Folder, layout: Layout, cluster: str, deadline: float) -> LSN:
    """Of the open writer, which may first have to be named."""
    while True:
        for report in (await cluster_status(folder, layout, cluster)).instances:
            if report.view.role == "writer" and report.status.state in OPEN:
                return report.status.read_lsn
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"{cluster} has no writer that tells what the newest commit is; see `sextet status`, or "
                "say with --to-time or --to-lsn which state is meant"
            )
        await asyncio.sleep(POLL_S)
