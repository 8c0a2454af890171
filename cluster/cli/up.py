"""`sextet up`: make the installation if there is none, start it, wait until it answers SQL."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.cli.console import days, err, out, size
from cluster.cli.errors import CommandFailed
from cluster.faults.directory import prepare
from cluster.local.backtracking import parse_window, window_text
from cluster.local.create import move_endpoints, new_layout, with_free_ports
from cluster.local.files import in_turn, tail_of
from cluster.local.folder import Folder
from cluster.local.layout import (
    DEFAULT_MAX_STORAGE,
    DEFAULT_PORT,
    DEFAULT_READERS,
    DEFAULT_RETENTION_DAYS,
    MAIN,
    ClusterState,
    Layout,
    load,
    save,
)
from cluster.local.ready import READY_S, Readiness, Show, wait_ready
from cluster.local.sizes import parse_size
from cluster.local.starting import start_supervisor, stop_started, wait_for_leftovers
from cluster.local.state import running_state
from cluster.local.stopping import STOP_S
from cluster.local.store import missing_for, store_name, store_of, with_archives
from engine.errors import SextetError
from engine.faults.file import read

ANOTHER_UP_S = READY_S + STOP_S
"""How long another `sextet up` on this folder may take, a failing one included."""

LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class UpOptions:
    """As given; None where the user did not say."""

    readers: int | None = None
    port: int | None = None
    max_storage: str | None = None
    foreground: bool = False
    faults: bool | None = None
    archive: str | None = None
    archive_every_s: float | None = None
    hot_window_s: float | None = None
    retention_days: int | None = None
    backtrack_window: str | None = None


def bring_up(folder: Folder, options: UpOptions) -> None:
    """Raises CommandFailed after a failed start, with everything stopped again; ConfigError."""
    with _alone(folder):
        if running_state(folder) is not None:
            _show_running(folder, options)
            return
        supervisor = _start(folder, options)
    if options.foreground:
        _stay(supervisor)


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """No two `up` on one folder at once: the second waits and then finds the cluster running.

    Raises ConfigError if the other one takes too long.
    """
    folder.make()
    busy = (
        f"another `sextet up` has been at work in {folder.data} for {ANOTHER_UP_S:.0f} s; "
        "end it, then try again"
    )
    with in_turn(folder.run / "starting", ANOTHER_UP_S, busy):
        yield


def _start(folder: Folder, options: UpOptions) -> subprocess.Popen[bytes]:
    """The supervisor of the cluster, which answers SQL; whatever goes wrong, nothing is left."""
    started_at = time.monotonic()
    layout = prepare_layout(folder, options)
    save(folder.data, layout)
    prepare(folder, layout, allow=options.faults)
    supervisor = start_supervisor(folder, with_parent=options.foreground)
    try:
        with _progress() as show:
            missing = wait_ready(
                folder, layout, supervisor_ended=lambda: supervisor.poll() is not None, show=show
            )
    except SextetError as error:
        _report_failure(folder, error)
        stop_started(folder, supervisor)
        raise CommandFailed(
            f"the cluster in {folder.data} did not start; everything is stopped again"
        ) from error
    except BaseException:  # Ctrl-C, or SIGTERM as cluster.cli.app turns it into an exit
        err.print("interrupted; stopping what has started")
        stop_started(folder, supervisor)
        raise
    _announce(folder, layout, f"up in {time.monotonic() - started_at:.1f} s")
    _warn(folder, missing)
    if lacking := missing_for(layout.store):
        err.print(
            f"[yellow]![/yellow] nothing can be archived to {layout.store}: {lacking}; `sextet down`, set "
            "that, and start again",
            soft_wrap=True,
        )
    return supervisor


def prepare_layout(folder: Folder, options: UpOptions) -> Layout:
    """The layout to start: a new one, or the folder's own on ports that are free today."""
    layout = _layout_to_start(folder, options)
    if options.archive_every_s is not None:
        layout = replace(layout, archive_every_s=options.archive_every_s)
    if options.hot_window_s is not None:
        layout = replace(layout, hot_window_s=options.hot_window_s)
    store = None if options.archive is None else store_name(options.archive)
    return with_archives(folder, layout, store)


def _layout_to_start(folder: Folder, options: UpOptions) -> Layout:
    wait_for_leftovers(folder)
    old = load(folder.data)
    if old is None:
        return new_layout(
            port=DEFAULT_PORT if options.port is None else options.port,
            readers=DEFAULT_READERS if options.readers is None else options.readers,
            max_storage_bytes=(
                DEFAULT_MAX_STORAGE
                if options.max_storage is None
                else parse_size(options.max_storage)
            ),
            retention_days=(
                DEFAULT_RETENTION_DAYS if options.retention_days is None else options.retention_days
            ),
            backtrack_window_s=_window_s(options) or 0,
        )
    _refuse_changes(old, options)
    if options.port is not None:
        old = move_endpoints(old, old.clusters[0].name, options.port)
    return with_free_ports(old)


def _window_s(options: UpOptions) -> int | None:
    return None if options.backtrack_window is None else parse_window(options.backtrack_window)


def _refuse_other_faults(folder: Folder, options: UpOptions) -> None:
    """Processes that run were told already whether there may be faults."""
    if options.faults not in (None, read(folder.faults).allowed):
        raise CommandFailed("whether faults are allowed counts from the start; `sextet down` first")


def _refuse_changes(layout: Layout, options: UpOptions) -> None:
    """What is decided when a cluster is made cannot be had by starting it differently. All options are
    about the first cluster, which is main as long as nobody deletes it."""
    first = layout.clusters[0]
    readers = sum(not instance.auto for instance in first.instances) - 1
    if options.readers not in (None, readers):
        raise CommandFailed(
            f"this cluster has {readers} readers; --readers counts only when a cluster is made"
        )
    if (
        options.max_storage is not None
        and parse_size(options.max_storage) != first.max_storage_bytes
    ):
        raise CommandFailed(
            f"this cluster's maximum storage is {size(first.max_storage_bytes)}; --max-storage "
            "counts only when a cluster is made; `sextet storage limit` changes it"
        )
    if options.retention_days not in (None, first.retention_days):
        raise CommandFailed(
            f"this cluster's retention is {days(first.retention_days)}; --retention counts only when a "
            f"cluster is made; `sextet backup retention {first.name} DAYS` changes it"
        )
    if _window_s(options) not in (None, first.backtrack_window_s):
        window = first.backtrack_window_s
        kept = f"a backtrack window of {window_text(window)}" if window else "no backtrack window"
        raise CommandFailed(
            f"this cluster has {kept}; --backtrack-window counts only when a cluster is made"
        )


def _stay(supervisor: subprocess.Popen[bytes]) -> None:
    """Until the supervisor ends; Ctrl-C and SIGTERM end it."""

    def stop(_number: int, _frame: object) -> None:
        supervisor.terminate()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    out.print("[dim]Ctrl-C stops the cluster[/dim]")
    status = supervisor.wait()
    out.print("stopped")
    if status != 0:
        raise CommandFailed(f"the supervisor ended with status {status}")


def _show_running(folder: Folder, options: UpOptions) -> None:
    layout = load(folder.data)
    assert layout is not None, "a supervisor runs without a layout"
    first = layout.clusters[0]
    _refuse_changes(layout, options)
    _refuse_other_faults(folder, options)
    if options.archive is not None and store_name(options.archive) != store_of(folder, layout):
        raise CommandFailed("where the log is archived counts from the start; `sextet down` first")
    if options.archive_every_s not in (None, layout.archive_every_s):
        raise CommandFailed("how often is archived counts from the start; `sextet down` first")
    if options.hot_window_s not in (None, layout.hot_window_s):
        raise CommandFailed("the hot window counts from the start; `sextet down` first")
    if options.port not in (None, first.writer_port):
        raise CommandFailed(
            f"the cluster is running on port {first.writer_port}; to move it, `sextet down` first"
        )
    with _progress() as show:
        missing = wait_ready(
            folder, layout, supervisor_ended=lambda: running_state(folder) is None, show=show
        )
    _announce(folder, layout, "is running already")
    _warn(folder, missing)


def _announce(folder: Folder, layout: Layout, how: str) -> None:
    for spec in layout.running:
        out.print(f"cluster [bold]{spec.name}[/bold] {how}")
        out.print(f"  writer  {spec.writer_url}", soft_wrap=True)
        out.print(f"  reader  {spec.reader_url}", soft_wrap=True)
    for spec in layout.clusters:
        if not spec.runs:
            out.print(
                f"cluster [bold]{spec.name}[/bold] {_AT_REST[spec.state]}; see `sextet cluster list`"
            )
    out.print("try next")
    for spec in layout.running[:1]:
        out.print(f"  psql {spec.writer_url}", soft_wrap=True)
    for command in _to_try(layout):
        out.print(f"  {command_line(folder, command)}", markup=False, soft_wrap=True)


_AT_REST = {
    ClusterState.STOPPED: "stays stopped",
    ClusterState.CLONING: "is being cloned",
    ClusterState.DELETING: "is being deleted",
}


def _to_try(layout: Layout) -> tuple[str, ...]:
    if not layout.running:
        return ("cluster list", "down")
    first = layout.running[0].name
    option = "" if first == MAIN else f" --cluster {first}"
    return (f"status{option}", f"sql{option}", "down")


def command_line(folder: Folder, command: str) -> str:
    """`sextet COMMAND` for this folder, as it works when it is typed where we were called."""
    program = "sextet"
    if shutil.which(program) is None:  # after `make up` nobody has put .venv/bin on the path
        program = os.path.relpath(Path(sys.executable).with_name(program))
    words = [program, *command.split()]
    if Folder.at(Path(os.environ.get("SEXTET_DATA") or ".sextet")) != folder:
        words += ["--data", str(folder.data)]
    return shlex.join(words)


def _warn(folder: Folder, missing: list[str]) -> None:
    """The cluster works, but not with everyone."""
    for name in missing:
        err.print(
            f"[yellow]![/yellow] {name} does not run; see {escape(str(folder.log(name)))}",
            soft_wrap=True,
        )


def _report_failure(folder: Folder, error: SextetError) -> None:
    err.print(f"[bold red]the start failed[/bold red]: {escape(str(error))}", soft_wrap=True)
    guilty = error.component if isinstance(error, Readiness) else "supervisor"
    path = folder.log(guilty)
    lines = tail_of(path, LOG_LINES)
    if lines:
        err.print(f"the last lines of {path}:", markup=False, soft_wrap=True)
        for line in lines:
            err.print(f"  {line}", markup=False, soft_wrap=True)
    advice = f"put that right, then run `sextet up` again (all logs: {path.parent}{os.sep})"
    err.print(advice, markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Show]:
    """A progress bar that leaves nothing behind; silent where there is no terminal."""
    columns = (
        TextColumn("starting"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, of, what: progress.update(
            task, completed=done, total=of, description=what
        )
