"""Watching an installation or a cluster come up: who listens, who keeps dying, and the first SQL on both
endpoints. One cluster that does not come up does not take the others down with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from cluster.local.components import ARCHIVER, AUTOSCALE, endpoint_name
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, Layout
from cluster.local.ports import answers
from cluster.local.state import SupervisorState, running_state
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


class _Clusters:
    """Which clusters answer SQL on both endpoints, and which are given up; the others are waited for."""

    def __init__(self, specs: Sequence[ClusterSpec], deadline: float) -> None:
        self._selects = {
            spec.name: [_FirstSelect(url, deadline) for url in (spec.writer_url, spec.reader_url)]
            for spec in specs
        }
        self._specs = {spec.name: spec for spec in specs}
        self.given_up: dict[str, Readiness] = {}

    def __enter__(self) -> Self:
        for select in self._all():
            select.start()
        return self

    def __exit__(self, *_: object) -> None:
        for select in self._all():
            select.done.set()

    def _all(self) -> list[_FirstSelect]:
        return [select for selects in self._selects.values() for select in selects]

    @property
    def steps(self) -> tuple[int, int]:
        """How many endpoints answer, of how many."""
        return sum(select.done.is_set() for select in self._all()), len(self._all())

    @property
    def waited_for(self) -> list[ClusterSpec]:
        return [
            self._specs[name]
            for name, selects in self._selects.items()
            if name not in self.given_up and not all(select.done.is_set() for select in selects)
        ]

    def give_up(self, spec: ClusterSpec, why: Readiness) -> None:
        """It goes on trying, if another one may work. Raises `why` if all are given up."""
        self.given_up[spec.name] = why
        if len(self.given_up) == len(self._specs):
            raise why

    def too_late(
        self, spec: ClusterSpec, ports: Mapping[str, int], listening: set[str], timeout: float
    ) -> Readiness:
        """What keeps it."""
        missing = [name for name in ports if name not in listening]
        if missing:
            return Readiness(f"{missing[0]} does not listen after {timeout:.0f} s", missing[0])
        late = next(s for s in self._selects[spec.name] if not s.done.is_set())
        return Readiness(
            f"no SQL at {late.url} after {timeout:.0f} s: {late.error}", spec.writer_first
        )


def wait_ready(
    folder: Folder,
    layout: Layout,
    *,
    supervisor_ended: Callable[[], bool],
    show: Show = lambda _done, _of, _what: None,
    timeout: float = READY_S,
) -> list[str]:
    """Wait until both endpoints of every cluster that is to run answer SQL.

    Returns the components that do not listen even so, normally none, and those that keep a cluster from
    answering while another one does. Raises Readiness if the supervisor ends, a component of the fleet
    keeps dying, or no cluster answers within `timeout` seconds or ever will.
    """
    deadline = time.monotonic() + timeout
    ports = _ports(layout)
    listening: set[str] = set()
    answered_at: float | None = None
    with _Clusters(layout.running, deadline) as clusters:
        while True:
            listening |= {n for n, port in ports.items() if n not in listening and answers(port)}
            done, of = clusters.steps
            show(len(listening) + done, len(ports) + of, _what_next(ports, listening))
            waited_for = clusters.waited_for
            missing = [name for name in ports if name not in listening]
            if not waited_for and (layout.running or _fleet_is_up(layout, listening)):
                answered_at = answered_at or time.monotonic()
                if not missing or time.monotonic() > answered_at + STRAGGLERS_S:
                    silent = [error.component for error in clusters.given_up.values()]
                    return list(dict.fromkeys([*missing, *silent]))
            elif time.monotonic() > deadline:
                if not layout.running:
                    raise Readiness(
                        f"{missing[0]} does not listen after {timeout:.0f} s", missing[0]
                    )
                for spec in waited_for:
                    clusters.give_up(spec, clusters.too_late(spec, ports, listening, timeout))
            else:
                _raise_if_hopeless(folder, listening, layout, clusters)
            if supervisor_ended():
                raise Readiness("the supervisor ended")
            time.sleep(POLL_S)


def wait_for_sql(folder: Folder, spec: ClusterSpec, *, timeout: float = READY_S) -> None:
    """Wait until both endpoints of one cluster of an installation that runs answer SQL.

    Raises Readiness.
    """
    deadline = time.monotonic() + timeout
    ports = _ports_of(spec)
    listening: set[str] = set()
    with _Clusters((spec,), deadline) as clusters:
        while clusters.waited_for:
            listening |= {n for n, port in ports.items() if n not in listening and answers(port)}
            if time.monotonic() > deadline:
                raise clusters.too_late(spec, ports, listening, timeout)
            if (state := running_state(folder)) is None:
                raise Readiness("the supervisor ended")
            for child in _ending(state, listening):
                if child in ports:
                    raise Readiness(f"{child} keeps ending", child)
            time.sleep(POLL_S)


def _ports(layout: Layout) -> Mapping[str, int]:
    """What every component listens on, in the order in which they are needed."""
    found = {"control": layout.control_port}
    found |= {node.name: node.port for node in layout.storage}
    for cluster in layout.running:
        found |= _ports_of(cluster)
    return found


def _ports_of(cluster: ClusterSpec) -> dict[str, int]:
    found = {instance.name: instance.port for instance in cluster.instances}
    return found | {endpoint_name(cluster.name): cluster.writer_port}


def _fleet_is_up(layout: Layout, listening: set[str]) -> bool:
    """Without a cluster there is no SQL that would say so."""
    nodes = sum(node.name in listening for node in layout.storage)
    return "control" in listening and nodes >= len(layout.storage) - (COPIES - WRITE)


def _what_next(ports: Mapping[str, int], listening: set[str]) -> str:
    missing = [name for name in ports if name not in listening]
    if not missing:
        return "first SQL"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return missing[0] + more


def _ending(state: SupervisorState, listening: set[str]) -> list[str]:
    """Who is started again and again and has never listened. Auto-scaling and archivers never do, and
    nobody waits for them."""
    return [
        child.name
        for child in state.children
        if child.name not in listening
        and child.restarts >= RESTARTS_MAX
        and not child.name.startswith((AUTOSCALE, ARCHIVER))
    ]


def _raise_if_hopeless(
    folder: Folder, listening: set[str], layout: Layout, clusters: _Clusters
) -> None:
    """A cluster whose process keeps ending is given up; without the fleet there is none."""
    state = running_state(folder)  # of this start, not what an earlier one left behind
    ending = _ending(state, listening) if state is not None else []
    # A write quorum does without two storage nodes, and so does a start.
    nodes = [name for name in ending if name.startswith("storage-")]
    owners = {name: spec for spec in layout.running for name in _ports_of(spec)}
    for name in ending:
        why = Readiness(f"{name} keeps ending", name)
        if name in owners:
            if owners[name] in clusters.waited_for:
                clusters.give_up(owners[name], why)
        elif name not in nodes or len(nodes) > COPIES - WRITE:
            raise why
