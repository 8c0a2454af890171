"""What one node says of the faults: DATA/faults/NODE.json: what it has seen, and what took effect.

A fault that never took effect proves nothing, and one that happens once must be known to have
happened when the node comes back from it. So the node itself writes this file: now and then for what
it merely counts, and before a fault takes effect that happens once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from engine.faults.file import replace_json


@dataclass(frozen=True, slots=True)
class Effect:
    """`count` times; the first of them at `first`, wall time in seconds."""

    count: int
    first: float


@dataclass(slots=True)
class Effects:
    """`seen` is the newest revision of the faults' file that the node goes by; `by_fault`: by id."""

    seen: int = -1
    by_fault: dict[int, Effect] = field(default_factory=dict)


def effects_path(faults: Path, node: str) -> Path:
    """The file of `node`, in a folder next to the file of faults."""
    return faults.with_suffix("") / f"{node}.json"


def read_effects(path: Path) -> Effects:
    """Nothing if there is nothing readable, which is no reason to stop a node."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = {int(id_): Effect(int(c), float(f)) for id_, (c, f) in value["effects"].items()}
        return Effects(int(value["seen"]), found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Effects()


def write_effects(path: Path, effects: Effects) -> None:
    found = {str(id_): [e.count, e.first] for id_, e in sorted(effects.by_fault.items())}
    path.parent.mkdir(exist_ok=True)
    replace_json(path, {"seen": effects.seen, "effects": found})
