"""The parent of every process of an installation: starts them, restarts what dies, stops them.

It knows nothing else. It speaks no gRPC and reads no catalog, so it shares no failure with what it
restarts: a dead control plane or an exhausted port cannot keep it from doing its work. It has loaded its
children's modules, because they are forks of it (`cluster.local.spawn`), and runs nothing of them.

Invariants
- One supervisor per data folder, and none while a process of an earlier one is left: the lock is
  inherited by every child (`cluster.local.state`).
- Children are ended by pid while they are our unreaped children, so a pid is never a stranger's.
- A child that breaks its promise to be heard again hangs (`engine.pulse`): it is ended, so that it
  starts again. Whom a fault has stopped does not hang.
- A child that keeps dying is started less and less often, but never given up: what is wrong may be
  put right meanwhile. One that lived for UP_S counts as healthy again.
- Whom an active fault holds down is not started, and whom it has stopped is woken when its time is
  over, whether or not the command that began it still lives (`cluster.local.holds`).
- Nobody outlives it: children ask the kernel for SIGTERM when their parent dies.

`python -m cluster.local.supervisor --data DIR`. SIGTERM and SIGINT stop everything in order; SIGHUP
reads cluster.json again, starts what is new there and stops what is gone; it also makes us look at the
active faults at once.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from cluster.local.components import Component, components_of
from cluster.local.folder import Folder
from cluster.local.holds import Holds
from cluster.local.layout import load
from cluster.local.processes import ProcessId, end_all
from cluster.local.signals import SignalQueue
from cluster.local.spawn import Process, preload, start
from cluster.local.state import (
    ChildState,
    SupervisorState,
    load_state,
    running_state,
    save_state,
    take_lock,
)
from engine.errors import ConfigError, SextetError
from engine.faults.bells import take_down
from engine.pulse import PULSE, Listener

log = logging.getLogger("supervisor")

RESTART_FIRST_S = 0.05
RESTART_LIMIT_S = 5.0
RESTART_KILLED_LIMIT_S = 0.2
"""After SIGKILL: somebody outside ended it, which says nothing about whether it can run."""

UP_S = 1.0
"""A child that lived this long starts again without delay: it costs at most one start a second."""

STOP_GRACE_S = 7.0
"""From SIGTERM to SIGKILL; longer than a node's own STOP_S."""

LATE_S = 2.0
"""Who is started late is started so long after it is wanted: as a rule the others answer SQL by then."""

LISTEN_S = 1.0
"""How often it is looked at who hangs."""

WAKE_LIMIT_S = 3600.0
"""No wait is longer, whatever is due: the system has limits to what it can wait for."""

LOCK_WAIT_S = 15.0
LOG_BYTES_MAX = 16 * 1024 * 1024
"""A component's log above this is set aside as NAME.log.1 when it starts again."""

_PR_SET_PDEATHSIG = 1
SUPERVISED = "SEXTET_SUPERVISED"  # engine.net.process reads it; importing that would cost grpc


class _Child:
    """One component: a process, or the time of its next start."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.process: Process | None = None
        self.identity: ProcessId | None = None
        self.started_at = 0.0
        self.start_at = time.monotonic() + LATE_S if component.late else 0.0
        self.delay = RESTART_FIRST_S
        self.restarts = -1
        self.exit_status: int | None = None
        self.kill_at: float | None = None  # set once it has been told to stop
        self.wanted_again = False  # after that
        self.paused = False  # SIGSTOP was sent for a fault
        self.pulse: Listener | None = None

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def running(self) -> bool:
        return self.process is not None

    def signal(self, number: signal.Signals) -> None:
        # Not reaped yet, so the pid is still ours even if the process has just died.
        if self.process is not None:
            self.process.send_signal(number)

    def forget_pulse(self) -> None:
        if self.pulse is not None:
            self.pulse.close()
            self.pulse = None

    def state(self) -> ChildState:
        return ChildState(self.name, self.identity, max(0, self.restarts), self.exit_status)


class Supervisor:
    """Keeps `components` running until SIGTERM. `lock` is inherited by every child."""

    def __init__(self, folder: Folder, components: Iterable[Component], *, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._children = {c.name: _Child(c) for c in components}
        self._holds = Holds(folder.faults)
        self._loaded: frozenset[str] = frozenset()  # modules of children that can be forked
        self._stopping = False
        self._listen_at = 0.0
        self._published: SupervisorState | None = None  # None: what is written may be old
        self._me = ProcessId.of(os.getpid())
        self._signals = SignalQueue((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def run(self) -> None:
        """Start everything and keep it running; returns once all of it has been stopped."""
        self._publish()  # commands are to know of us meanwhile
        self._loaded = preload([c.component.command for c in self._children.values()])
        self._handle(self._signals.wait(0))
        while not self._stopping:
            self._obey_faults()
            self._end_who_hangs()
            self._start_due()
            self._publish()
            self._handle(self._signals.wait(self._next_wake()))
        self._stop_all()

    # -- the loop's steps

    def _handle(self, came: set[signal.Signals]) -> None:
        self._reap()
        if signal.SIGTERM in came or signal.SIGINT in came:
            self._stopping = True
        if signal.SIGHUP in came:
            self._reload()

    def _next_wake(self) -> float | None:
        """Seconds until a start, a kill or the end of a fault is due, None if only a signal can matter."""
        now = time.monotonic()
        times = [self._listen_at - now] if any(c.running for c in self._children.values()) else []
        times += [c.kill_at - now for c in self._children.values() if c.kill_at is not None]
        for child in self._children.values():
            ends = self._holds.next_end(child.name)
            if ends is not None:
                times.append(ends)
            if not child.running and not self._holds.held(child.name):
                times.append(child.start_at - now)
        return max(0.0, min(*times, WAKE_LIMIT_S)) if times else None

    def _obey_faults(self) -> None:
        """End whom a fault holds down and yet runs; stop and wake whom one stops."""
        self._holds.refresh()
        for child in self._children.values():
            if not child.running:
                continue
            if self._holds.held(child.name):
                child.signal(signal.SIGKILL)
            paused = self._holds.paused(child.name)
            if paused != child.paused:
                child.signal(signal.SIGSTOP if paused else signal.SIGCONT)
                child.paused = paused

    def _end_who_hangs(self) -> None:
        now = time.monotonic()
        if now < self._listen_at:
            return
        self._listen_at = now + LISTEN_S
        for child in self._children.values():
            if child.pulse is None:
                continue
            if child.paused:
                child.pulse.excuse()
            elif (silent := child.pulse.look(now)) is not None:
                log.warning("! %s hangs: not heard for %.0f s; ending it", child.name, silent)
                child.signal(signal.SIGKILL)

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if not child.running and child.start_at <= now:
                if not self._holds.held(child.name):
                    self._start(child)
            elif child.kill_at is not None and child.kill_at <= now:
                child.signal(signal.SIGKILL)
                child.kill_at = now + STOP_GRACE_S

    def _start(self, child: _Child) -> None:
        child.restarts += 1
        child.started_at = time.monotonic()
        try:
            child.pulse = Listener()
            pulse = child.pulse.writer
            with self._open_log(child.name) as output:
                child.process = start(
                    child.component.command,
                    loaded=self._loaded,
                    folder=self._folder.data,
                    environment={
                        **os.environ,
                        SUPERVISED: str(os.getpid()),
                        PULSE: str(pulse),
                        **self._holds.environment(),
                    },
                    output=output,
                    passed=(self._lock, pulse),
                )
        except OSError as error:
            log.error("! %s cannot be started: %s", child.name, error)
            child.forget_pulse()
            self._again_later(child)
            return
        child.pulse.born()
        child.identity = ProcessId.of(child.process.pid)
        log.info("> %s started, pid %d", child.name, child.process.pid)

    def _open_log(self, name: str) -> BinaryIO:
        path = self._folder.log(name)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if child.process is None or (status := child.process.poll()) is None:
                continue
            child.exit_status = status
            log.info("< %s, pid %d, %s", child.name, child.process.pid, _how(status))
            child.process = child.identity = None
            child.paused = False
            child.forget_pulse()
            if child.kill_at is not None and not child.wanted_again:
                del self._children[child.name]  # it was told to go
            else:
                child.kill_at, child.wanted_again = None, False
                self._again_later(child)

    def _again_later(self, child: _Child) -> None:
        now = time.monotonic()
        if now - child.started_at >= UP_S:
            child.delay = RESTART_FIRST_S
        if child.exit_status == -signal.SIGKILL:
            child.delay = min(child.delay, RESTART_KILLED_LIMIT_S)
        child.start_at = now + child.delay
        if not self._stopping:
            log.info("= %s starts again in %.2f s", child.name, child.delay)
        child.delay = min(RESTART_LIMIT_S, child.delay * 2)

    def _reload(self) -> None:
        try:
            layout = load(self._folder.data)
            if layout is None:
                raise ConfigError(f"{self._folder.data} has no layout any more")
        except SextetError as error:
            log.error("! cannot read the layout, nothing changes: %s", error)
            return
        wanted = {c.name: c for c in components_of(self._folder, layout)}
        self._loaded |= preload([c.command for c in wanted.values()])
        for name, component in wanted.items():
            child = self._children.get(name)
            if child is not None:
                child.component = component  # counts from its next start
                child.wanted_again = child.kill_at is not None
            else:
                self._children[name] = _Child(component)
        for child in [c for name, c in self._children.items() if name not in wanted]:
            self._dismiss(child)

    def _dismiss(self, child: _Child) -> None:
        if not child.running:
            del self._children[child.name]
            return
        child.wanted_again = False
        if child.kill_at is None:
            child.kill_at = time.monotonic() + STOP_GRACE_S
            child.signal(signal.SIGTERM)

    # -- the end

    def _stop_all(self) -> None:
        self._publish()
        for child in self._children.values():
            if child.paused:  # it would not hear SIGTERM
                child.signal(signal.SIGCONT)
        for stage in sorted({c.component.stage for c in self._children.values()}):
            self._stop([c for c in self._children.values() if c.component.stage == stage])
        take_down(self._folder.faults.with_suffix(""))
        self._publish()
        log.info("= all stopped")

    def _stop(self, children: list[_Child]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in children:
                child.signal(number)
            deadline = time.monotonic() + STOP_GRACE_S
            while any(c.running for c in children) and time.monotonic() < deadline:
                self._signals.wait(deadline - time.monotonic())
                self._reap()
            for child in [c for c in children if c.running]:
                log.warning("! %s is still there after %s", child.name, number.name)

    def _publish(self) -> None:
        """Write down what runs, if that has changed; on a full disk again and again until it succeeds."""
        assert self._me is not None
        children = tuple(child.state() for child in self._children.values())
        state = SupervisorState(self._me, self._stopping, children)
        if state == self._published:
            return
        try:
            save_state(self._folder, state)
        except OSError as error:
            if self._published is not None:
                log.error("! cannot write down what runs, commands see it as it was: %s", error)
            self._published = None
            return
        self._published = state


def _how(status: int) -> str:
    return f"exited with {status}" if status >= 0 else f"was killed by {_signal_name(-status)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# -- starting it


def acquire(folder: Folder, wait: float = LOCK_WAIT_S) -> int:
    """The installation's lock, after the remains of a supervisor that was killed are gone.

    Raises ConfigError if another supervisor is at work, or if leftovers will not go.
    """
    deadline = time.monotonic() + wait
    while (lock := take_lock(folder)) is None:
        if (running := running_state(folder)) is not None:
            raise ConfigError(
                f"{folder.data} is already running under supervisor {running.process.pid}"
            )
        previous = load_state(folder)
        if previous is not None:
            end_all(previous.living(), STOP_GRACE_S)
        if time.monotonic() > deadline:
            raise ConfigError(
                f"a process of an earlier run still holds {folder.lock}; find it with "
                f"`fuser {folder.lock}` and end it"
            )
        time.sleep(0.05)
    return lock


def _die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) for SIGTERM when the parent dies; then everything is stopped in order."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"supervisor: whoever started this, pid {parent}, has gone already")


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster.local.supervisor", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--with-parent", type=int, metavar="PID", help="our parent: stop when it dies"
    )
    arguments = parser.parse_args()
    folder = Folder.at(arguments.data)
    if arguments.with_parent is not None:
        _die_with_parent(arguments.with_parent)
    logging.basicConfig(
        stream=sys.stderr,
        level="INFO",
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    try:
        layout = load(folder.data)
        if layout is None:
            raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
        folder.make()
        lock = acquire(folder)
        Supervisor(folder, components_of(folder, layout), lock=lock).run()
    except SextetError as error:
        sys.exit(f"supervisor: {error}")


if __name__ == "__main__":
    main()
