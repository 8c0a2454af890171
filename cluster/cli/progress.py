"""A progress bar of things that are counted; for commands that may take long, and at a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cluster.cli.console import err


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; what it gives is called with (done, of how many)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as show:
        task = show.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            show.update(task, completed=done, total=total)

        yield progress
