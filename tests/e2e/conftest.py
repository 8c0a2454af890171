"""A real cluster for end-to-end tests: own processes in a temporary folder, and none left afterwards.

`cluster` is shared by the tests of one module and running; `new_cluster` makes fresh ones. However a
test ends, its cluster is taken down and every process that it ever had is checked to be gone, by pid
and start time. A survivor is killed and fails the test.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from cluster.cli.errors import NotRunning
from cluster.cli.failover import events
from cluster.cli.status import gather
from cluster.local.files import tail_of
from cluster.local.folder import Folder
from cluster.local.layout import Layout, load
from cluster.local.ports import is_free
from cluster.local.processes import ProcessId, wait_until_gone
from cluster.local.state import is_locked, load_state
from engine.errors import SextetError

T = TypeVar("T")

WAIT_S = 30.0
POLL_S = 0.05
PORTS_NEEDED = 40
LOG_LINES = 40


class LocalCluster:
    """A cluster in folder `data`, driven by the `sextet` command as a user would."""

    def __init__(self, data: Path, port: int) -> None:
        self.folder = Folder.at(data)
        self.port = port
        self._seen: set[ProcessId] = set()

    # -- the command

    def sextet(
        self, *arguments: object, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `sextet ARGUMENTS` on this folder; with `check` it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli.app", *map(str, arguments)],
            env={**os.environ, "SEXTET_DATA": str(self.folder.data), "COLUMNS": "200"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.note()
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def up(self, *options: object) -> str:
        """Start (again); returns what `sextet up` printed."""
        return self.sextet("up", "--port", self.port, *options).stdout

    def down(self) -> str:
        return self.sextet("down").stdout

    def status(self) -> dict[str, Any]:
        """What `sextet status --json` prints, without starting a Python for it: tests poll this."""
        return self._told(lambda: gather(self.folder, "main"))

    def events(self) -> list[str]:
        """What `sextet events` prints, oldest first, as "SUBJECT: WHAT"."""
        found = self._told(lambda: events(self.folder, 1000))
        return [f"{event.subject}: {event.what}" for event in found]

    def _told(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A control plane that was killed is there again in a moment."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                answer = asyncio.run(ask())
            except NotRunning:
                assert time.monotonic() < deadline, "the control plane does not answer"
                time.sleep(POLL_S)
            else:
                self.note()
                return answer

    # -- SQL

    @property
    def layout(self) -> Layout:
        layout = load(self.folder.data)
        assert layout is not None
        return layout

    def url(self, *, reader: bool = False, of: str = "main") -> str:
        spec = self.layout.cluster(of)
        return spec.reader_url if reader else spec.writer_url

    def connect(
        self, *, reader: bool = False, of: str = "main"
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection through an endpoint. The caller closes it."""
        return psycopg.connect(self.url(reader=reader, of=of), autocommit=True, connect_timeout=15)

    def query(self, sql: str, *, reader: bool = False, of: str = "main") -> list[tuple[Any, ...]]:
        """All rows of one statement over a connection of its own; [] if it returns none."""
        with self.connect(reader=reader, of=of) as connection:
            cursor = connection.execute(sql)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    # -- processes

    def process(self, name: str) -> ProcessId:
        """The component's process, once the supervisor has one running."""
        self.note()
        return self.until(lambda: self._process(name), f"{name} runs")

    def _process(self, name: str) -> ProcessId | None:
        state = load_state(self.folder)
        child = state.child(name) if state is not None else None
        return (
            child.process if child is not None and child.process and child.process.alive else None
        )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> ProcessId:
        """Signal a component (kill -9 by default) and return who it was."""
        process = self.process(name)
        assert process.send(number)
        return process

    def until_restarted(self, name: str, old: ProcessId) -> ProcessId:
        """The process that the supervisor started in the place of `old`."""

        def other() -> ProcessId | None:
            process = self._process(name)
            return process if process != old else None

        return self.until(other, f"{name} was restarted")

    def until(self, true: Callable[[], Any], what: str, *, seconds: float = WAIT_S) -> Any:
        """The first true answer; fails with `what` after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (answer := true()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(POLL_S)
        self.note()
        return answer

    def until_sql(
        self, sql: str, expected: object, *, reader: bool = False, of: str = "main"
    ) -> None:
        """Until the statement returns these rows, riding out connections that are cut."""
        last: object = None

        def answers() -> bool:
            nonlocal last
            try:
                last = self.query(sql, reader=reader, of=of)
            except psycopg.Error as error:
                last = error
            return last == expected

        try:
            self.until(answers, sql)
        except AssertionError:
            raise AssertionError(f"{sql}: expected {expected}, got {last!r}") from None

    # -- when a test fails

    def story(self) -> str:
        """What the cluster has to say to a failed test: its last events, the last lines of its logs."""
        lines = []
        try:
            for event in asyncio.run(events(self.folder, 20)):
                at = time.strftime("%H:%M:%S", time.gmtime(event.time_us / 1e6))
                lines.append(
                    f"{at}.{event.time_us % 1_000_000 // 1000:03} {event.subject}: {event.what}"
                )
        except SextetError as error:
            lines.append(f"no events: {error}")
        for path in sorted(self.folder.log("x").parent.glob("*.log")):
            lines += [f"--- {path.name}", *tail_of(path, 4)]
        return "\n".join(lines)

    # -- the end

    def note(self) -> None:
        """Remember every process that runs now."""
        state = load_state(self.folder)
        if state is not None:
            self._seen.update(state.living())

    def finish(self) -> None:
        """Take it down and see that nobody is left; kill and report whoever is."""
        self.note()
        try:
            if self.folder.data.exists():
                self.sextet("down")
        finally:
            for path in sorted(self.folder.log("x").parent.glob("*.log")):
                print(f"--- {path.name}", *tail_of(path, LOG_LINES), sep="\n")
            left = wait_until_gone(self._seen, timeout=1.0)
            for process in left:
                process.send(signal.SIGKILL)
        assert not left, f"processes left after `sextet down`: {left}"
        assert not is_locked(self.folder), "a process that nobody knows of is left"


_RUNNING: list[LocalCluster] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"what {c.folder.data} says", c.story()) for c in _RUNNING]
    return report


def free_port() -> int:
    """A port with many free ones above it; random, so that parallel test runs do not meet."""
    rng = random.Random(f"{os.getpid()} {time.monotonic_ns()}")
    for _ in range(200):
        port = rng.randrange(20_000, 32_000)
        if all(is_free(port + n) for n in range(PORTS_NEEDED)):
            return port
    raise AssertionError("no free ports")


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Call it with options of `sextet up`, as often as needed; `start=False` only prepares it."""
    made: list[LocalCluster] = []

    def make(*options: object, start: bool = True) -> LocalCluster:
        cluster = LocalCluster(tmp_path / f"cluster-{len(made)}", free_port())
        made.append(cluster)
        _RUNNING.append(cluster)
        if start:
            cluster.up(*options)
        return cluster

    yield make
    for cluster in made:
        _RUNNING.remove(cluster)
        cluster.finish()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One running cluster for all tests of a module; each uses tables of its own."""
    made = LocalCluster(tmp_path_factory.mktemp("sextet") / "data", free_port())
    try:
        _RUNNING.append(made)
        made.up()
        yield made
    finally:
        _RUNNING.remove(made)
        made.finish()
