"""One local cluster that lives as long as a `with` block."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.chaos.well import missing
from cluster.faults.directory import prepare
from cluster.faults.kit import FaultKit
from cluster.local.create import new_layout, with_free_ports
from cluster.local.files import tail_of
from cluster.local.folder import Folder
from cluster.local.layout import MAIN, READERS_MAX, Layout, load, save
from cluster.local.ports import is_free
from cluster.local.processes import ProcessId, wait_until_gone
from cluster.local.ready import Readiness, wait_ready
from cluster.local.sizes import parse_size
from cluster.local.starting import start_supervisor, stop_started, wait_for_leftovers
from cluster.local.state import load_state, running_state
from cluster.local.stopping import StillRunning, stop_installation
from cluster.local.store import with_archives
from engine.errors import ConfigError, SextetError

PORTS = range(20_000, 31_000)
"""Endpoints of a new cluster take two neighbours of these: below what the system gives to clients."""

HEALTHY_S = 60.0
POLL_S = 0.05
LOG_LINES = 30
GONE_S = 5.0


class ClusterDown(SextetError):
    """The cluster did not start, or what was waited for did not come; the message ends with the log."""


def did_not_come(what: str, timeout_s: float, why: object) -> ClusterDown:
    return ClusterDown(f"not within {timeout_s:g} s: {what} {why}".rstrip())


class LocalCluster:
    """A writer, replicas, six storage nodes in three zones, a control plane: each a process of its own.

    Nothing is shared with other clusters on this machine: ports are free ones, the folder a temporary
    one, and both are given back at the end, with every process. If the process that uses this class
    dies, the cluster stops by itself.

    Every call returns when it is done. In an event loop use `AsyncLocalCluster`: there the rest of the
    program goes on meanwhile.

    `folder`: keep the data there and find it again next time; a temporary folder by default.
    `port`: of the writer endpoint, the reader endpoint has the next one; free ones by default.
    `max_storage`: the database's largest size, such as "512M".

    Raises ConfigError for arguments that cannot be.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        folder: str | os.PathLike[str] | None = None,
        port: int | None = None,
        max_storage: str = "1G",
    ) -> None:
        if not 0 <= replicas <= READERS_MAX:
            raise ConfigError(f"{replicas} replicas cannot be; choose 0 to {READERS_MAX}")
        self._replicas = replicas
        self._port = port
        self._max_bytes = parse_size(max_storage)
        self._kept = None if folder is None else Path(folder)
        self._folder: Folder | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._seen: set[ProcessId] = set()
        self._fault: FaultKit | None = None

    # -- its life

    def start(self) -> Self:
        """Start, and return once both endpoints answer SQL. Raises ClusterDown, ConfigError."""
        self._launch()
        self._await_sql()
        return self

    def stop(self) -> None:
        """End every process and delete a temporary folder. Stopping twice is no error.

        Raises StillRunning if a process survives even SIGKILL.
        """
        folder, self._folder, self._fault = self._folder, None, None
        if folder is None:
            return
        try:
            self._note(folder)
            stop_installation(folder)
            if self._supervisor is not None:
                self._supervisor.wait(GONE_S)
            self._end_stragglers()
        finally:
            self._supervisor = None
            if self._kept is None:
                shutil.rmtree(folder.data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be cancelled, and what it has started must go.
            await asyncio.wait([starting])
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _launch(self) -> None:
        if self._folder is not None:
            raise ConfigError("this cluster is running already")
        data = self._kept or Path(tempfile.mkdtemp(prefix="sextet-"))
        folder = Folder.at(data)
        folder.make()
        if running_state(folder) is not None:
            raise ConfigError(f"a cluster is running in {folder.data} already")
        try:
            wait_for_leftovers(folder)
            layout = self._layout_of(folder)
            save(folder.data, layout)
            prepare(folder, layout, allow=True)
            self._supervisor = start_supervisor(folder, with_parent=True)
        except BaseException:
            if self._kept is None:
                shutil.rmtree(folder.data, ignore_errors=True)
            raise
        self._folder = folder
        self._fault = FaultKit(folder)

    def _layout_of(self, folder: Folder) -> Layout:
        old = load(folder.data)
        if old is not None:
            layout = with_free_ports(old)
        else:
            port = _free_pair() if self._port is None else self._port
            layout = new_layout(
                port=port, readers=self._replicas, max_storage_bytes=self._max_bytes
            )
        return with_archives(folder, layout)

    def _await_sql(self) -> None:
        folder, supervisor = self._running(), self._supervisor
        assert supervisor is not None
        layout = load(folder.data)
        assert layout is not None
        try:
            wait_ready(folder, layout, supervisor_ended=lambda: supervisor.poll() is not None)
        except BaseException as error:
            guilty = error.component if isinstance(error, Readiness) else "supervisor"
            lines = tail_of(folder.log(guilty), LOG_LINES)
            stop_started(folder, supervisor)
            self.stop()
            if not isinstance(error, SextetError):
                raise
            message = "\n  ".join([f"the cluster did not start: {error}", *lines])
            raise ClusterDown(message) from error
        self._note(folder)

    def _running(self) -> Folder:
        if self._folder is None:
            raise ClusterDown("this cluster is not running; use it inside `with LocalCluster()`")
        return self._folder

    def _note(self, folder: Folder) -> None:
        """Remember every process that runs now."""
        state = load_state(folder)
        if state is not None:
            self._seen.update(state.living())

    def _end_stragglers(self) -> None:
        left = wait_until_gone(self._seen, timeout=GONE_S)
        for process in left:
            process.send(signal.SIGKILL)
        if left := wait_until_gone(left, timeout=GONE_S):
            raise StillRunning(f"still running: {', '.join(str(p.pid) for p in left)}")
        self._seen.clear()

    # -- what an application needs

    @property
    def writer_url(self) -> str:
        """For any PostgreSQL client: always the current writer."""
        return self._layout().cluster(MAIN).writer_url

    @property
    def reader_url(self) -> str:
        """For any PostgreSQL client: a replica with few connections."""
        return self._layout().cluster(MAIN).reader_url

    # -- what a test needs

    @property
    def fault(self) -> FaultKit:
        """Break it: `fault.kill("writer")`, `fault.az_down("az2")`, `fault.heal()`, and more."""
        self._running()
        assert self._fault is not None
        return self._fault

    @property
    def folder(self) -> Path:
        """Everything of this cluster: data, logs, catalog."""
        return self._running().data

    @property
    def writer(self) -> str:
        """The name of the instance that is writer now."""
        return self.fault.resolve("writer")[0]

    def sextet(self, *arguments: object, timeout_s: float = 120.0) -> str:
        """Run `sextet ARGUMENTS` on this cluster; what it printed.

        Raises ClusterDown if it fails or takes longer than `timeout_s`.
        """
        command = " ".join(["sextet", *map(str, arguments)])
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "cluster.cli.app", *map(str, arguments)],
                env={**os.environ, "SEXTET_DATA": str(self._running().data), "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterDown(f"`{command}` did not end within {timeout_s:g} s") from error
        if done.returncode != 0:
            raise ClusterDown(f"`{command}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `sextet status --json` says."""
        found: dict[str, Any] = json.loads(self.sextet("status", "--json"))
        return found

    def logs(self, name: str, lines: int = LOG_LINES) -> str:
        """The last lines of a node's log: "main-1", "storage-3", "control", "supervisor"."""
        return "\n".join(tail_of(self._running().log(name), lines))

    def until_healthy(self, timeout_s: float = HEALTHY_S) -> None:
        """Return once every instance and storage node is up and every group has six whole copies.

        A node that lost its disk is replaced or filled again first.

        Heal faults before (`fault.heal()`). Raises ClusterDown, naming what is missing.
        """
        self.until(lambda: not self.missing(), "a healthy cluster", timeout_s, self.missing)

    def until(
        self,
        true: Callable[[], bool],
        what: str,
        timeout_s: float = HEALTHY_S,
        why: Callable[[], object] = lambda: "",
    ) -> None:
        """Return as soon as `true()` is. Raises ClusterDown with `what`, and what `why()` says."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise did_not_come(what, timeout_s, why())
            time.sleep(POLL_S)
        self._note(self._running())

    def missing(self) -> list[str]:
        """What `until_healthy` waits for, in words: empty if all is well."""
        try:
            report = self.status()
        except ClusterDown as error:
            return [str(error)]
        return missing(report)

    def _layout(self) -> Layout:
        layout = load(self._running().data)
        assert layout is not None
        return layout


def _free_pair() -> int:
    """A port that is free, as is the next; at random, so that test runs side by side do not meet."""
    rng = random.Random(f"{os.getpid()} {time.monotonic_ns()}")
    for _ in range(1000):
        port = rng.choice(PORTS)
        if is_free(port) and is_free(port + 1):
            return port
    raise ConfigError(f"no two free ports between {PORTS.start} and {PORTS.stop}")
