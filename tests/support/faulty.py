"""Ports with faults on them, for tests in one process."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

from engine.faults.file import ActiveFault, FaultFile, Node, changing, write
from engine.faults.watch import FaultWatch


class Faults:
    """A file of faults in `folder`; `begin` and `heal` change it, each node has a watch over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "faults.json"
        self.nodes: list[Node] = []
        write(self.path, FaultFile(allowed=True))
        self._watches: list[FaultWatch] = []

    def watch(self, name: str) -> FaultWatch:
        """Of one life of the node. It looks when `look` says so, or by itself once it is started."""
        watch = FaultWatch(self.path, name, random.Random(1))
        self._watches.append(watch)
        return watch

    def address(self, name: str, address: str) -> None:
        """Node `name` listens there."""
        self.nodes.append(Node(name, "storage", "az1", address))
        with changing(self.path) as change:
            change.file = _with(change.file, nodes=tuple(self.nodes))
        self.look()

    def begin(self, kind: str, *names: str, **given: object) -> ActiveFault:
        with changing(self.path) as change:
            fault = ActiveFault(change.file.next_id, kind, names[0], names, time.time(), **given)  # type: ignore[arg-type]
            change.file = change.file.adding(fault)
        self.look()
        return fault

    def heal(self) -> None:
        with changing(self.path) as change:
            change.file = _with(change.file, faults=())
        self.look()

    def look(self) -> None:
        for watch in self._watches:
            watch.look()


def _with(file: FaultFile, **changes: object) -> FaultFile:
    return replace(file, **changes)  # type: ignore[arg-type]
