"""Carrying faults out from outside: signals, files, and waiting until everybody knows.

Processes are signalled by identity, never by number. Whoever must stay down is also held by the
supervisor (`cluster.local.holds`), so a process that it was about to start is not missed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from cluster.faults.catalogue import Kind
from cluster.faults.rot import Rotten, lock_pages, rot_log, rot_page
from cluster.local.folder import Folder
from cluster.local.processes import ProcessId, wait_until_gone
from cluster.local.state import SupervisorState, running_state
from engine.errors import ConfigError
from engine.faults.effects import effects_path, read_effects
from engine.faults.file import ActiveFault, changing

SEEN_S = 2.0
GONE_S = 10.0
POLL_S = 0.01


class Carrier:
    """`out` carries one fault out that is in the file already, if it lasts."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def out(self, fault: ActiveFault) -> ActiveFault:
        """What it was in the end. Raises ConfigError if it changed nothing: nobody was running, nothing
        was stored."""
        if fault.step:
            return fault  # the process itself, when it gets there
        match fault.kind:
            case Kind.KILL | Kind.AZ_DOWN:
                self._kill(fault)
            case Kind.PAUSE:
                self._pause(fault)
            case Kind.WIPE:
                self._wipe(fault)
            case Kind.ROT_LOG | Kind.ROT_PAGE:
                return self._rot(fault)
        return fault

    # -- processes

    def processes(self, names: Collection[str]) -> list[ProcessId]:
        """Those of the named components that run now."""
        state = self._state()
        found = (child.process for child in state.children if child.name in names)
        return [process for process in found if process is not None and process.alive]

    def _state(self) -> SupervisorState:
        state = running_state(self._folder)
        if state is None:
            raise ConfigError(f"no cluster is running in {self._folder.data}")
        return state

    def _tell_supervisor(self) -> None:
        self._state().process.send(signal.SIGHUP)

    def _signal(self, fault: ActiveFault, number: signal.Signals) -> list[ProcessId]:
        reached = [p for p in self.processes(fault.names) if p.send(number)]
        if not reached and fault.id == 0:
            raise ConfigError(f"{fault.target} is not running: nothing was done to it")
        return reached

    def _pause(self, fault: ActiveFault) -> None:
        """The supervisor stops them: who is not stopped by it, it would not wake either."""
        running = self.processes(fault.names)
        self._tell_supervisor()
        _until_stopped(running, until=fault.until)

    def _kill(self, fault: ActiveFault) -> None:
        killed = self._signal(fault, signal.SIGKILL)
        if fault.id == 0:
            wait_until_gone(killed, GONE_S)
            return
        self._tell_supervisor()
        self._until_down(fault.names)

    def _until_down(self, names: Collection[str]) -> None:
        """Until the supervisor itself says that none of them runs. Raises ConfigError."""
        deadline = time.monotonic() + GONE_S
        while self.processes(names):
            if time.monotonic() > deadline:
                raise ConfigError(f"still running after SIGKILL: {', '.join(sorted(names))}")
            time.sleep(POLL_S)

    def wake(self, ended: Sequence[ActiveFault]) -> None:
        """Undo what signals did. The supervisor knows who is still to be held or stopped."""
        if any(fault.kind in (Kind.KILL, Kind.AZ_DOWN, Kind.WIPE, Kind.PAUSE) for fault in ended):
            self._tell_supervisor()

    # -- disks

    def _wipe(self, fault: ActiveFault) -> None:
        held = fault
        if fault.id == 0:  # held for as long as the deletion takes
            with changing(self._folder.faults) as change:
                held = replace(fault, id=change.file.next_id, until=None)
                change.file = change.file.adding(held)
        try:
            self._kill(held)
            for name in fault.names:
                _empty(self._folder, name)
        finally:
            if fault.id == 0:
                with changing(self._folder.faults) as change:
                    left = tuple(f for f in change.file.faults if f.id != held.id)
                    change.file = replace(change.file, faults=left)
                self._tell_supervisor()

    def _rot(self, fault: ActiveFault) -> ActiveFault:
        """On the nodes that have the page; which page is settled by the first of them.

        They stand still meanwhile: or the first would be repaired from one whose turn is yet to come.
        Nobody is stopped inside a transaction of his own, for then we have the lock.
        """
        wanted = fault.param("page", -1.0)
        page = None if wanted < 0 else int(wanted)
        hit: dict[str, Rotten] = {}
        with ExitStack() as stack:
            stores: dict[str, sqlite3.Connection] = {}
            if fault.kind == Kind.ROT_PAGE:
                for name in fault.names:
                    store = lock_pages(self._folder.storage(name))
                    if store is not None:
                        stores[name] = stack.enter_context(closing(store))
            stack.enter_context(self._still(fault.names))
            for name in fault.names:
                if fault.kind == Kind.ROT_LOG:
                    found = rot_log(self._folder.storage(name), page)
                else:
                    found = rot_page(stores[name], page) if name in stores else None
                if found is not None:
                    hit[name], page = found, found.page
        if not hit:
            what = "the log" if fault.kind == Kind.ROT_LOG else "a page version"
            raise ConfigError(
                f"nothing was corrupted: {fault.target} has no {'such ' if page is not None else ''}"
                f"page in {what}; new pages are in the log first and versions about 10 s later"
            )
        lsn = max(rotten.lsn for rotten in hit.values())
        params = (("lsn", float(lsn)), ("page", float(page or 0)))
        return replace(fault, names=tuple(hit), params=params)

    @contextmanager
    def _still(self, names: Collection[str]) -> Iterator[None]:
        """The processes are stopped for a moment; whom somebody else has stopped stays so."""
        going = [p for p in self.processes(names) if not _stopped(p.pid)]
        try:
            for process in going:
                process.send(signal.SIGSTOP)
            _until_stopped(going)
            yield
        finally:
            for process in going:
                process.send(signal.SIGCONT)

    # -- who knows

    def until_seen(self, revision: int) -> None:
        """Until every process that runs goes by this revision of the file, SEEN_S at most."""
        deadline = time.monotonic() + SEEN_S
        while time.monotonic() < deadline:
            if all(
                self._has_seen(child.name, child.process, revision)
                for child in self._state().children
            ):
                return
            time.sleep(POLL_S)

    def _has_seen(self, name: str, process: ProcessId | None, revision: int) -> bool:
        if process is None or not process.alive or _stopped(process.pid):
            return True
        return read_effects(effects_path(self._folder.faults, name)).seen >= revision


def _until_stopped(processes: Collection[ProcessId], *, until: float | None = None) -> None:
    """The kernel stops a process a moment after the signal; SEEN_S at most, if it waits for a disk,
    and no longer than to `until`, wall time in seconds."""
    deadline = time.monotonic() + SEEN_S
    while not all(_stopped(p.pid) for p in processes) and time.monotonic() < deadline:
        if until is not None and time.time() >= until:
            return
        time.sleep(POLL_S)


def _stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _empty(folder: Folder, name: str) -> None:
    """Delete what a storage node keeps; the folder itself stays. Raises OSError."""
    for entry in os.scandir(folder.storage(name)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
