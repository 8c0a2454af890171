"""The file of active faults, DATA/faults.json: who wrote it, everybody of the installation reads it.

Replaced in one step, so a reader sees the old or the new; changed under a lock, so that two commands
lose nothing of each other. Times are the wall's in seconds, because several processes and their later
lives must agree on them.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.faults.bells import ring

FORMAT = 1
ENVIRONMENT = "SEXTET_FAULTS"
"""Environment variable of every process of an installation that allows faults: the file's path."""


@dataclass(frozen=True, slots=True)
class ActiveFault:
    """One fault on the nodes `names`, and on the paths between them and `peers` if it has two sides.

    `since` and `until` are wall time in seconds; `until` is None for one that lasts until it is healed.
    `target` and `peer` say how it was asked for. A fault with a `step` waits for its node to take it;
    `for_s` then counts from there.
    """

    id: int
    kind: str
    target: str
    names: tuple[str, ...]
    since: float
    until: float | None = None
    peer: str = ""
    peers: tuple[str, ...] = ()
    step: str = ""
    when: str = "before"
    nth: int = 1
    for_s: float = 0.0
    params: tuple[tuple[str, float], ...] = ()

    def param(self, name: str, default: float) -> float:
        return dict(self.params).get(name, default)

    def over(self, now: float) -> bool:
        return self.until is not None and now >= self.until

    def left_s(self, now: float) -> float | None:
        """Seconds until it ends by itself, None if it does not."""
        return None if self.until is None else max(0.0, self.until - now)


@dataclass(frozen=True, slots=True)
class Node:
    """One process of the installation, as the wrappers need to know it. `az` is "" where it has none, and
    so is `cluster`, whose alone it is."""

    name: str
    kind: str
    az: str
    address: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class FaultFile:
    """The whole file."""

    allowed: bool = False
    revision: int = 0
    """Grows with every change; a process tells which one it has seen (`engine.faults.effects`)."""
    next_id: int = 1
    nodes: tuple[Node, ...] = ()
    faults: tuple[ActiveFault, ...] = field(default=())

    def active(self, now: float) -> tuple[ActiveFault, ...]:
        return tuple(fault for fault in self.faults if not fault.over(now))

    def adding(self, fault: ActiveFault) -> FaultFile:
        """With `fault`, whose id must be `next_id`."""
        assert fault.id == self.next_id
        return replace(self, next_id=self.next_id + 1, faults=(*self.faults, fault))


def read(path: Path) -> FaultFile:
    """What the file says; nothing is allowed if there is none. Raises ConfigError if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return FaultFile()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise ConfigError(f"{path} has format {value['format']}, this Sextet knows {FORMAT}")
        return FaultFile(
            allowed=bool(value["allowed"]),
            revision=int(value["revision"]),
            next_id=int(value["next_id"]),
            nodes=tuple(Node(**node) for node in value["nodes"]),
            faults=tuple(_fault(fault) for fault in value["faults"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}; delete it") from error


def _fault(value: Mapping[str, Any]) -> ActiveFault:
    known = dict(value)
    known["params"] = tuple(sorted((str(k), float(v)) for k, v in known["params"].items()))
    known["names"], known["peers"] = tuple(known["names"]), tuple(known["peers"])
    return ActiveFault(**known)


def write(path: Path, file: FaultFile) -> None:
    """Replace the file. The caller holds `changing`'s lock, or is alone."""
    value = {
        "format": FORMAT,
        "allowed": file.allowed,
        "revision": file.revision,
        "next_id": file.next_id,
        "nodes": [asdict(node) for node in file.nodes],
        "faults": [{**asdict(f), "params": dict(f.params)} for f in file.faults],
    }
    replace_json(path, value)


def replace_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


class Changing:
    """What `changing` yields: set `file` to what shall be written."""

    def __init__(self, file: FaultFile) -> None:
        self.file = file


@contextmanager
def changing(path: Path) -> Iterator[Changing]:
    """Read, change, write, alone; then ring. What is over is left out. Nothing is written if the body
    raises."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = read(path)
        change = Changing(
            replace(file, faults=file.active(time.time()), revision=file.revision + 1)
        )
        yield change
        write(path, change.file)
    ring(path.with_suffix(""))
