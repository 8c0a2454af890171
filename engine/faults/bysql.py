"""What the SQL statements of `engine.faults.statements` do: they enter faults into the installation's file.

A read replica's failure holds up what travels between it and this instance. A disk's failure cuts a
storage node off, a congested disk takes longer. Where no node is named, as many of the storage nodes
are hit as the percentage says, at least one, from the first on: which they are is no matter of chance.
"""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from engine.errors import ConfigError, FeatureNotSupported, SqlError
from engine.faults.file import ActiveFault, FaultFile, Node, changing, read
from engine.faults.statements import (
    CRASH,
    DISK_CONGESTION,
    DISK_FAILURE,
    REPLICA_FAILURE,
    FaultStatement,
)
from engine.faults.table import DROP, ISOLATE, PARTITION, SLOW_DISK

VOLUME_COLUMNS = ("disk", "node", "az", "faults")
"""Of SHOW VOLUME STATUS."""

Row = tuple[str | None, ...]


class SqlFaults:
    """For the sessions of instance `name`; without a `path` the installation allows no faults."""

    def __init__(self, path: Path | None = None, name: str = "") -> None:
        self._path = path
        self._name = name

    @classmethod
    def of_environment(cls, name: str, environment: str) -> SqlFaults:
        return cls(Path(environment), name) if environment else cls()

    def run(self, statement: FaultStatement) -> tuple[Row, ...]:
        """Do it, and return the rows to show. Raises SqlError."""
        if self._path is None:
            raise FeatureNotSupported(
                "this installation does not allow faults",
                hint="Start it with `sextet down` and then `sextet up --faults`.",
            )
        if statement.what == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            if statement.what not in (REPLICA_FAILURE, DISK_FAILURE, DISK_CONGESTION):
                return self._volume(read(self._path))
            with changing(self._path) as change:
                fault = self._fault(statement, change.file)
                change.file = change.file.adding(fault)
        except ConfigError as error:
            raise SqlError(str(error), sqlstate="F0000") from error
        return ()

    def _fault(self, statement: FaultStatement, file: FaultFile) -> ActiveFault:
        now = time.time()
        fault = ActiveFault(
            id=file.next_id,
            kind=ISOLATE,
            target=statement.node or "sql",
            names=(),
            since=now,
            until=now + statement.for_s,
            for_s=statement.for_s,
        )
        if statement.what == REPLICA_FAILURE:
            return self._replica_failure(fault, statement, file)
        names = self._disks(statement, file)
        if statement.what == DISK_FAILURE:
            return replace(fault, names=names)
        low, high = statement.between_s
        params = (("least_s", low), ("most_s", high), ("share", statement.percent / 100))
        return replace(fault, kind=SLOW_DISK, names=names, params=params)

    def _replica_failure(
        self, fault: ActiveFault, statement: FaultStatement, file: FaultFile
    ) -> ActiveFault:
        own = next((n.cluster for n in file.nodes if n.name == self._name), "")
        instances = [n for n in file.nodes if n.kind == "instance" and n.cluster == own]
        known = [n.name for n in instances if n.name != self._name]
        names = _chosen(statement.node, known, "instance")
        fault = replace(fault, names=names, peer=self._name, peers=(self._name,))
        if statement.percent >= 100:
            return replace(fault, kind=PARTITION)
        return replace(fault, kind=DROP, params=(("share", statement.percent / 100),))

    def _disks(self, statement: FaultStatement, file: FaultFile) -> tuple[str, ...]:
        known = [node.name for node in _storage(file)]
        if statement.node.isdecimal() and int(statement.node) < len(known):
            return (known[int(statement.node)],)
        names = _chosen(statement.node, known, "disk or storage node")
        if statement.node or statement.what == DISK_CONGESTION:
            return names  # of congestion the percentage says how many operations
        return names[: max(1, math.floor(len(names) * statement.percent / 100))]

    def _volume(self, file: FaultFile) -> tuple[Row, ...]:
        active = file.active(time.time())
        return tuple(
            (
                str(number),
                node.name,
                node.az,
                ", ".join(f.kind for f in active if node.name in f.names + f.peers),
            )
            for number, node in enumerate(_storage(file))
        )


def _storage(file: FaultFile) -> list[Node]:
    return [node for node in file.nodes if node.kind == "storage"]


def _chosen(name: str, known: list[str], what: str) -> tuple[str, ...]:
    if name and name not in known:
        raise SqlError(
            f'there is no {what} "{name}"; there is: {", ".join(known)}', sqlstate="42704"
        )
    if not known:
        raise SqlError(f"there is no other {what}", sqlstate="42704")
    return (name,) if name else tuple(known)
