"""`sextet up`: make the installation if there is none, start it, wait until it answers SQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from cluster.cli.console import err, out, size
from cluster.cli.down import stop_installation
from cluster.cli.errors import CommandFailed
from cluster.cli.ready import Readiness, wait_ready
from cluster.local.create import move_endpoints, new_layout, with_free_ports
from cluster.local.files import tail_of
from cluster.local.folder import Folder
from cluster.local.layout import (
    DEFAULT_MAX_STORAGE,
    DEFAULT_PORT,
    DEFAULT_READERS,
    MAIN,
    Layout,
    load,
    parse_size,
    save,
)
from cluster.local.state import is_locked, running_state
from engine.errors import SextetError

LEFTOVERS_WAIT_S = 15.0
LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class UpOptions:
    """As given; None where the user did not say."""

    readers: int | None = None
    port: int | None = None
    max_storage: str | None = None
    foreground: bool = False


def bring_up(folder: Folder, options: UpOptions) -> None:
    """Raises CommandFailed after a failed start, with everything stopped again; ConfigError."""
    started_at = time.monotonic()
    if running_state(folder) is not None:
        _show_running(folder, options)
        return
    layout = prepare_layout(folder, options)
    save(folder.data, layout)
    supervisor = _start_supervisor(folder, foreground=options.foreground)
    try:
        missing = wait_ready(folder, layout, supervisor_ended=lambda: supervisor.poll() is not None)
    except SextetError as error:
        _report_failure(folder, error)
        _stop(folder, supervisor)
        raise CommandFailed(
            f"the cluster in {folder.data} did not start; everything is stopped again"
        ) from error
    except KeyboardInterrupt:
        _stop(folder, supervisor)
        raise
    _announce(layout, f"up in {time.monotonic() - started_at:.1f} s")
    _warn(folder, missing)
    if options.foreground:
        _stay(supervisor)


def prepare_layout(folder: Folder, options: UpOptions) -> Layout:
    """The layout to start: a new one, or the folder's own on ports that are free today."""
    _wait_for_leftovers(folder)
    folder.make()
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
        )
    _refuse_changes(old, options)
    if options.port is not None:
        old = move_endpoints(old, MAIN, options.port)
    return with_free_ports(old)


def _refuse_changes(layout: Layout, options: UpOptions) -> None:
    """What is decided when a cluster is made cannot be had by starting it differently."""
    main = layout.cluster(MAIN)
    readers = len(main.instances) - 1
    if options.readers not in (None, readers):
        raise CommandFailed(
            f"this cluster has {readers} readers; --readers counts only when a cluster is made"
        )
    if (
        options.max_storage is not None
        and parse_size(options.max_storage) != main.max_storage_bytes
    ):
        raise CommandFailed(
            f"this cluster's maximum storage is {size(main.max_storage_bytes)}; --max-storage "
            "counts only when a cluster is made"
        )


def _wait_for_leftovers(folder: Folder) -> None:
    """After a supervisor was killed its processes end by themselves; ports are free only then."""
    deadline = time.monotonic() + LEFTOVERS_WAIT_S
    while is_locked(folder) and running_state(folder) is None:
        if time.monotonic() > deadline:
            stop_installation(folder)
            return
        time.sleep(0.05)


def _start_supervisor(folder: Folder, *, foreground: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "cluster.local.supervisor", "--data", str(folder.data)]
    if foreground:
        command.append("--with-parent")
    with folder.log("supervisor").open("ab") as output:
        # A session of its own: neither Ctrl-C nor a closed terminal reaches the cluster.
        return subprocess.Popen(
            command,
            cwd=folder.data,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(folder: Folder, supervisor: subprocess.Popen[bytes]) -> None:
    """End what we have just started; it may not have written yet who it is."""
    supervisor.terminate()
    supervisor.wait()
    stop_installation(folder)


def _stay(supervisor: subprocess.Popen[bytes]) -> None:
    """Until the supervisor ends; Ctrl-C and SIGTERM end it."""

    def stop(_number: int, _frame: object) -> None:
        supervisor.terminate()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    out.print("[dim]Ctrl-C stops the cluster[/dim]")
    status = supervisor.wait()
    out.print("stopped")
    if status != 0:
        raise CommandFailed(f"the supervisor ended with status {status}")


def _show_running(folder: Folder, options: UpOptions) -> None:
    layout = load(folder.data)
    assert layout is not None, "a supervisor runs without a layout"
    main = layout.cluster(MAIN)
    _refuse_changes(layout, options)
    if options.port not in (None, main.writer_port):
        raise CommandFailed(
            f"the cluster is running on port {main.writer_port}; to move it, `sextet down` first"
        )
    missing = wait_ready(folder, layout, supervisor_ended=lambda: running_state(folder) is None)
    _announce(layout, "is running already")
    _warn(folder, missing)


def _announce(layout: Layout, how: str) -> None:
    main = layout.cluster(MAIN)
    out.print(f"cluster [bold]{main.name}[/bold] {how}")
    out.print(f"  writer  {main.writer_url}", soft_wrap=True)
    out.print(f"  reader  {main.reader_url}", soft_wrap=True)
    out.print("try next")
    out.print(f"  psql {main.writer_url}", soft_wrap=True)
    out.print("  sextet status    sextet sql    sextet down")


def _warn(folder: Folder, missing: list[str]) -> None:
    """The cluster works, but not with everyone."""
    for name in missing:
        err.print(f"[yellow]![/yellow] {name} does not run; see {folder.log(name)}", soft_wrap=True)


def _report_failure(folder: Folder, error: SextetError) -> None:
    err.print(f"[bold red]the start failed[/bold red]: {error}", soft_wrap=True)
    guilty = error.component if isinstance(error, Readiness) else "supervisor"
    path = folder.log(guilty)
    lines = tail_of(path, LOG_LINES)
    if lines:
        err.print(f"the last lines of {path}:", soft_wrap=True)
        for line in lines:
            err.print(f"  {line}", markup=False, soft_wrap=True)
    err.print(f"put that right, then run `sextet up` again (all logs: {path.parent}{os.sep})")
