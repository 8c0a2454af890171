"""`sextet clone SOURCE NEW`: `cluster.local.cloning` with words around it, and full copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from cluster.cli.client import running_layout
from cluster.cli.clusters import announce, not_ready
from cluster.cli.console import err, out
from cluster.cli.errors import CommandFailed
from cluster.cli.exporting import export_file
from cluster.cli.importing import import_file
from cluster.cli.options import DEFAULT_PAST, Past
from cluster.cli.room import room
from cluster.local.cloning import Cloned, FullCopy, clone_cluster, is_begun
from cluster.local.folder import Folder
from cluster.local.layout import ForkSpec
from cluster.local.ready import Readiness
from engine.archive.restore import shown
from engine.moments import parse_moment
from engine.types import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class CloneOptions:
    """As given; None where the user did not say."""

    at: str | None
    readers: int
    port: int | None
    past: Past = DEFAULT_PAST


def fork_of(source: str, at: str | None, *, now: datetime) -> ForkSpec:
    """Of the newest commit, of an LSN, or of a time. Raises ConfigError."""
    if at is None:
        return ForkSpec(source)
    moment = parse_moment(at, now=now)
    return ForkSpec(source, at_lsn=moment.lsn or 0, at_time_us=moment.time_us or 0)


def clone(folder: Folder, source: str, name: str, options: CloneOptions) -> None:
    """Raises NotRunning, ConfigError, CommandFailed, Unavailable."""
    fork = fork_of(source, options.at, now=datetime.now(UTC))
    layout = running_layout(folder)
    if is_begun(layout, source, name):
        out.print(f"going on with {name} as an earlier command has begun it")
    began = time.monotonic()
    try:
        made = clone_cluster(
            folder,
            fork,
            name,
            full_copy=_full_copy(folder, fork, name),
            readers=options.readers,
            port=options.port,
            retention_days=options.past.retention_days,
            backtrack_window_s=options.past.window_s,
        )
    except Readiness as error:
        advice = f"the same command again, or `sextet cluster delete {name}`"
        raise not_ready(folder, error, advice) from error
    whole_s = time.monotonic() - began
    announce(made.spec, f"is {_what(source, made)}; it answers SQL after {whole_s:.1f} s")


def _what(source: str, made: Cloned) -> str:
    commit = made.commit
    if commit is None:
        return f"a full copy of {source}"
    if not commit.lsn:
        return f"a clone of {source}, which is empty"
    size_mib = commit.pages * PAGE_SIZE / 1024**2
    return (
        f"a clone of {source} as of LSN {commit.lsn}, committed {shown(commit.time_us)}: "
        f"{size_mib:.1f} MiB shared in {made.volume_s:.2f} s"
    )


def _full_copy(folder: Folder, fork: ForkSpec, name: str) -> FullCopy:
    @contextmanager
    def copy(why: str) -> Iterator[Callable[[], None]]:
        """A file of the source's newest state, which is imported once the new cluster is there."""
        if fork.at_lsn or fork.at_time_us:
            raise CommandFailed(
                f"{why}; a full copy has the newest state only. Without --at there will be one; an "
                "earlier state comes from an archive, see `sextet restore`"
            )
        err.print(f"[yellow]![/yellow] {escape(why)}: {name} becomes a full copy", soft_wrap=True)
        with room(folder.run) as own:
            path = own / f"{name}.db"
            export_file(folder, fork.source, path, force=False)
            yield lambda: _bring(folder, fork.source, name, path)

    return copy


def _bring(folder: Folder, source: str, name: str, path: Path) -> None:
    if not path.stat().st_size:
        return  # nothing was ever written there
    try:
        import_file(folder, name, path)
    except CommandFailed as error:
        raise CommandFailed(
            f"{error}; if an earlier command was killed while it copied, remove what it left with "
            f"`sextet cluster delete {name}` and clone {source} again"
        ) from error
