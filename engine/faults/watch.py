"""One process's view of the active faults: read at start, looked at again and again.

A look is one `stat`, whenever somebody rings (`engine.faults.bells`), every LOOK_S while any fault is
active anywhere, and every CALM_LOOK_S in any case. The file is read again when it has changed, and the
table is made again when a fault ends by itself. What took effect is counted here and written with the next
look; what may happen only once is written before it happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError
from engine.faults.bells import SUFFIX, Bell
from engine.faults.effects import Effect, effects_path, read_effects, write_effects
from engine.faults.file import ActiveFault, FaultFile, read
from engine.faults.table import FAIL_FSYNC, FaultTable

log = logging.getLogger(__name__)

LOOK_S = 0.05
CALM_LOOK_S = 1.0
"""For a change of which nobody rang. Where there can be no bell it is LOOK_S always."""


class FaultWatch:
    """`table` is what counts now. `start` wants a running loop; without it the first reading stays."""

    def __init__(self, path: Path, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.table = FaultTable(name, ())
        self._path = path
        self._file_name = str(path)
        self._own = effects_path(path, name)
        self._effects = read_effects(self._own)
        self._file = FaultFile()
        self._shown: tuple[ActiveFault, ...] = ()
        self._spent: set[int] = set()
        self._addresses: dict[str, str] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._unwritten = True
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._bell: Bell | None = None
        self._on_isolation: Callable[[bool], None] = lambda isolated: None
        self._isolated = False
        self.look()

    def start(self) -> None:
        """Look from now on whenever there may be something new."""
        try:
            self._bell = Bell(self._own.with_suffix(SUFFIX), self._turn)
        except OSError as error:
            log.warning("no bell tells of new faults, so they are looked for: %s", error)
        self._turn()  # nobody rings for what has changed until now

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._bell is not None:
            self._bell.close()

    async def changed(self) -> None:
        """Wait until `table` is another one."""
        await self._changed.wait()

    def node_at(self, address: str) -> str:
        """Who listens there; the address itself if it is nobody known."""
        return self._addresses.get(address, address)

    def tell_isolation(self, call: Callable[[bool], None]) -> None:
        """Have `call(isolated)` called now, and whenever this node's clients are cut off or no more."""
        self._on_isolation = call
        call(self._isolated)

    # -- what took effect

    def count(self, fault: ActiveFault) -> None:
        """`fault` changed something here."""
        old = self._effects.by_fault.get(fault.id, Effect(0, time.time()))
        self._effects.by_fault[fault.id] = Effect(old.count + 1, old.first)
        self._unwritten = True

    def spend(self, fault: ActiveFault) -> None:
        """`fault` happens here now and never again, whatever becomes of this process."""
        self.count(fault)
        self._spent.add(fault.id)
        self._make_table()
        self._write()

    # -- looking

    def _turn(self) -> None:
        """Look now, and again after a while."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            self.look()
        finally:
            calm = not self._shown and self._bell is not None
            pause = CALM_LOOK_S if calm else LOOK_S
            self._timer = asyncio.get_running_loop().call_later(pause, self._turn)

    def look(self) -> None:
        """See whether the file or the time has changed anything."""
        try:
            status = os.stat(self._file_name)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._stamp = stamp
            self._read()
        if self._file.faults and self._file.active(time.time()) != self._shown:
            self._make_table()
        if self._unwritten:
            self._write()

    def _read(self) -> None:
        try:
            self._file = read(self._path)
        except ConfigError as error:
            log.error("active faults cannot be read, none counts: %s", error)
            self._file = FaultFile()
        self._addresses = {node.address: node.name for node in self._file.nodes}
        self._spent |= {
            fault.id
            for fault in self._file.faults
            if (fault.step or fault.kind == FAIL_FSYNC) and fault.id in self._effects.by_fault
        }
        self._make_table()
        self._effects.seen = self._file.revision
        self._unwritten = True

    def _make_table(self) -> None:
        old = self._shown
        self._shown = self._file.active(time.time())
        self.table = FaultTable(self.name, self._shown, self._spent)
        for fault in self._shown:
            new = fault not in old and fault.id not in self._spent
            if new and self.name in fault.names + fault.peers:
                log.warning("fault %d: %s of %s", fault.id, fault.kind, fault.target)
        for fault in old:
            if fault not in self._shown and self.name in fault.names + fault.peers:
                log.warning("fault %d is over: %s of %s", fault.id, fault.kind, fault.target)
        isolated = self.table.isolated
        if isolated != self._isolated:
            self._isolated = isolated
            self._on_isolation(isolated)
        self._changed.set()
        self._changed = asyncio.Event()

    def _write(self) -> None:
        try:
            write_effects(self._own, self._effects)
            self._unwritten = False
        except OSError as error:
            log.error("what faults did cannot be written: %s", error)
