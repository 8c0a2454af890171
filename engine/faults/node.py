"""A clock that is wrong, protocol steps at which the process dies, and the runtime with all of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.faults.disk import FaultyDisk
from engine.faults.transport import FaultyTransport
from engine.faults.watch import FaultWatch
from engine.ports import Clock, Runtime
from engine.steps import Mark, Step, Steps


class FaultyClock:
    """Clock port whose wall clock may be off; its steady one never is."""

    def __init__(self, inner: Clock, watch: FaultWatch) -> None:
        self._inner = inner
        self._watch = watch

    def monotonic(self) -> float:
        return self._inner.monotonic()

    def wall_us(self) -> int:
        return self._inner.wall_us() + self._watch.table.skew_us


class FaultySteps:
    """Steps at which this process ends itself, by the signal that nobody can catch."""

    def __init__(self, inner: Steps, watch: FaultWatch) -> None:
        self._inner = inner
        self._watch = watch
        self._taken: dict[int, int] = {}

    def before(self, step: Step) -> None:
        self._at("before", step)
        self._inner.before(step)

    def after(self, step: Step) -> None:
        self._inner.after(step)
        self._at("after", step)

    def mark(self, mark: Mark) -> None:
        self._inner.mark(mark)

    def _at(self, when: str, step: Step) -> None:
        for fault in self._watch.table.crashes:
            if (fault.step, fault.when) != (step.value, when):
                continue
            self._taken[fault.id] = self._taken.get(fault.id, 0) + 1
            if self._taken[fault.id] >= fault.nth:
                self._watch.spend(fault)
                os.kill(os.getpid(), signal.SIGKILL)


def on_isolation(runtime: Runtime, call: Callable[[bool], None]) -> None:
    """Have `call(isolated)` called for the clients that do not come by the transport port."""
    if isinstance(runtime.transport, FaultyTransport):
        runtime.transport.watch.tell_isolation(call)


def faulty(runtime: Runtime, path: Path, name: str) -> Runtime:
    """`runtime` of node `name` with every port able to misbehave; wants a running loop."""
    watch = FaultWatch(path, name, runtime.rng)
    watch.start()
    return replace(
        runtime,
        clock=FaultyClock(runtime.clock, watch),
        disk=FaultyDisk(runtime.disk, watch),
        transport=FaultyTransport(runtime.transport, watch),
        steps=FaultySteps(runtime.steps, watch),
    )
