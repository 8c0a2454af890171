"""Which processes an active fault holds down or has stopped, as the supervisor must know it.

A file that cannot be read holds nobody: a supervisor must not fail with the toys around it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.faults.catalogue import Kind
from engine.errors import ConfigError
from engine.faults.effects import effects_path, read_effects
from engine.faults.file import ENVIRONMENT, FaultFile, read

log = logging.getLogger("supervisor")

HOLDING = frozenset({Kind.KILL, Kind.AZ_DOWN, Kind.WIPE})


class Holds:
    """Reads the file whenever it is asked; it is small, and asked for only when something happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = FaultFile()

    def refresh(self) -> None:
        try:
            self._file = read(self._path)
        except ConfigError as error:
            log.error("! active faults cannot be read, nobody is held: %s", error)
            self._file = FaultFile()

    def environment(self) -> dict[str, str]:
        """What a process that starts now is told: where the faults are, if there may be any."""
        return {ENVIRONMENT: str(self._path)} if self._file.allowed else {}

    def held(self, name: str) -> bool:
        """Must `name` be down now?"""
        return any(start <= time.time() < end for start, end in self._times(name, HOLDING))

    def paused(self, name: str) -> bool:
        """Must `name` be stopped (SIGSTOP) now?"""
        return any(start <= time.time() < end for start, end in self._times(name, {Kind.PAUSE}))

    def next_end(self, name: str) -> float | None:
        """Seconds until some hold or pause of `name` ends by itself; None if none does."""
        now = time.time()
        ends = [end for _, end in self._times(name, {*HOLDING, Kind.PAUSE}) if end > now]
        last = min(ends, default=float("inf"))
        return None if last == float("inf") else last - now

    def _times(
        self, name: str, kinds: set[Kind] | frozenset[Kind]
    ) -> Iterator[tuple[float, float]]:
        """(from, to) of every fault of `kinds` on `name`, wall time in seconds."""
        for fault in self._file.faults:
            if fault.kind not in kinds or name not in fault.names:
                continue
            if not fault.step:
                yield fault.since, float("inf") if fault.until is None else fault.until
            elif fault.for_s:  # it counts from when the step was taken
                said = read_effects(effects_path(self._path, name))
                effect = said.by_fault.get(fault.id)
                if effect is not None:
                    yield effect.first, effect.first + fault.for_s
