"""What happened, event by event: JSON lines, a hash over all of them, and the last ones in memory.

One event is one object on one line:

    {"t": 1.204871, "kind": "send", "node": "main-1", ...}

`t` is virtual seconds, `node` where it happened ("" for the world), `kind` one of KINDS, and the rest
depends on the kind (docs/simulation.md lists all fields). The same seed gives the same lines, byte for
byte, so the hash of two runs says whether they were the same run.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from typing import IO, Any

KINDS = {
    "send": "a message leaves a node: to, wire, what, size, crc",
    "recv": "it arrives: from, wire, what, size",
    "start": "a process begins a life: life",
    "die": "a process ends: reason",
    "before": "a protocol step is about to be taken: step",
    "after": "a protocol step was taken: step",
    "mark": "something that should happen sometimes: mark",
    "fault": "a fault begins or ends: fault, phase",
    "invoke": "a client begins a transaction: transaction, what, on",
    "complete": "it ended: transaction, outcome, commit_lsn",
    "scl": "a segment's durable SCL has moved: group, lsn",
    "pgcl": "a writer's PGCL has moved: group, lsn",
    "vcl": "a writer's VCL has moved: lsn",
    "vdl": "VDL has moved: lsn, epoch",
    "pgmrpl": "a writer's PGMRPL has moved: lsn",
    "past": "a client has read the past, or why it could not: lsn, on, error",
    "view": "the catalog's view changed: writer, epoch",
    "cut": "the endpoint cuts a client off an instance that is no longer the writer: instance",
    "phase": "start, safety, heal, liveness, end: phase",
    "violation": "a checker objects: checker, message",
}

REMEMBERED = 20_000
"""Events kept in memory for the timeline around a violation."""


class Trace:
    """Events of one run. `out` gets each line if given."""

    def __init__(self, clock: Callable[[], float], out: IO[str] | None = None) -> None:
        self.count = 0
        self.recent: deque[tuple[float, str, str, dict[str, Any]]] = deque(maxlen=REMEMBERED)
        self._clock = clock
        self._out = out
        self._hash = hashlib.blake2b(digest_size=16)
        self._encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

    def emit(self, kind: str, node: str, **fields: Any) -> None:
        """One event, now. `fields` must be plain values in a fixed order."""
        now = round(self._clock(), 6)
        self.count += 1
        event = (now, kind, node, fields)
        self.recent.append(event)
        self._hash.update(repr(event).encode())
        if self._out is not None:
            line = self._encode({"t": now, "kind": kind, "node": node, **fields})
            self._out.write(line + "\n")

    @property
    def digest(self) -> str:
        """Hash of every event so far."""
        return self._hash.hexdigest()
