"""Watching an installation come up: who listens, who keeps dying, and the first SQL on both endpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.local.components import AUTOSCALE, endpoint_name
from cluster.local.folder import Folder
from cluster.local.layout import MAIN, Layout
from cluster.local.ports import answers
from cluster.local.state import running_state
from engine.errors import SextetError
from engine.volume.quorum import COPIES, WRITE

Show = Callable[[int, int, str], None]
"""Told how many of how many steps are done, and what is waited for."""

READY_S = 60.0
STRAGGLERS_S = 3.0
"""How long we wait for the last components once SQL is answered; quorums do not need them."""

POLL_S = 0.05
RESTARTS_MAX = 6
"""A component that was started again so often without ever listening will not come up."""


class Readiness(SextetError):
    """The start failed; `component` names whose log tells why."""

    def __init__(self, message: str, component: str = "supervisor") -> None:
        super().__init__(message)
        self.component = component


@dataclass
class _FirstSelect:
    """`SELECT 1` on one endpoint, in a thread of its own: the endpoint holds us until it can."""

    url: str
    deadline: float
    error: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        import psycopg

        while not self.done.is_set() and time.monotonic() < self.deadline:
            try:
                with psycopg.connect(self.url, autocommit=True, connect_timeout=15) as connection:
                    connection.execute("SELECT 1")
            except psycopg.Error as error:
                self.error = (
                    str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
                )
                self.done.wait(POLL_S)
            else:
                self.done.set()


def wait_ready(
    folder: Folder,
    layout: Layout,
    *,
    supervisor_ended: Callable[[], bool],
    show: Show = lambda _done, _of, _what: None,
    timeout: float = READY_S,
) -> list[str]:
    """Wait until both endpoints of cluster "main" answer SQL.

    Returns the components that do not listen even so, normally none. Raises Readiness if the
    supervisor ends, a component keeps dying, or `timeout` seconds pass.
    """
    deadline = time.monotonic() + timeout
    main = layout.cluster(MAIN)
    ports = _ports(layout)
    selects = [_FirstSelect(url, deadline) for url in (main.writer_url, main.reader_url)]
    for select in selects:
        select.start()
    listening: set[str] = set()
    answered_at: float | None = None
    try:
        while True:
            listening |= {n for n, port in ports.items() if n not in listening and answers(port)}
            ready = sum(select.done.is_set() for select in selects)
            show(len(listening) + ready, len(ports) + len(selects), _what_next(ports, listening))
            if ready == len(selects):
                answered_at = answered_at or time.monotonic()
                missing = [name for name in ports if name not in listening]
                if not missing or time.monotonic() > answered_at + STRAGGLERS_S:
                    return missing
            elif time.monotonic() > deadline:
                raise _too_late(ports, listening, selects, timeout)
            else:
                _raise_if_hopeless(folder, listening)
            if supervisor_ended():
                raise Readiness("the supervisor ended")
            time.sleep(POLL_S)
    finally:
        for select in selects:
            select.done.set()


def _ports(layout: Layout) -> Mapping[str, int]:
    """What every component listens on, in the order in which they are needed."""
    found = {"control": layout.control_port}
    found |= {node.name: node.port for node in layout.storage}
    main = layout.cluster(MAIN)
    found |= {instance.name: instance.port for instance in main.instances}
    return found | {endpoint_name(main.name): main.writer_port}


def _what_next(ports: Mapping[str, int], listening: set[str]) -> str:
    missing = [name for name in ports if name not in listening]
    if not missing:
        return "first SQL"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return missing[0] + more


def _raise_if_hopeless(folder: Folder, listening: set[str]) -> None:
    state = running_state(folder)  # of this start, not what an earlier one left behind
    ending = [
        child.name
        for child in (state.children if state is not None else ())
        if child.name not in listening
        and child.restarts >= RESTARTS_MAX
        and not child.name.startswith(AUTOSCALE)  # it never listens, and nobody waits for it
    ]
    # A write quorum does without two storage nodes, and so does a start.
    nodes = [name for name in ending if name.startswith("storage-")]
    for name in ending:
        if name not in nodes or len(nodes) > COPIES - WRITE:
            raise Readiness(f"{name} keeps ending", name)


def _too_late(
    ports: Mapping[str, int], listening: set[str], selects: list[_FirstSelect], timeout: float
) -> Readiness:
    missing = [name for name in ports if name not in listening]
    if missing:
        return Readiness(f"{missing[0]} does not listen after {timeout:.0f} s", missing[0])
    late = next(select for select in selects if not select.done.is_set())
    return Readiness(f"no SQL at {late.url} after {timeout:.0f} s: {late.error}", f"{MAIN}-1")
