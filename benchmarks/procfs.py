"""What the kernel says of processes (Linux)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int | str) -> list[str]:
    """The fields of `stat` from the third on; the second, the name, may have blanks in it."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """User and system time of a process, all threads. Raises OSError if there is no such process."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def ended_children_cpu_s(pid: int) -> float:
    """User and system time of its children that have ended and that it has waited for. Raises OSError if
    there is no such process."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / TICKS


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid` now."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            if int(_stat(folder.name)[1]) == pid:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Not once it has ended, though its parent may not have asked how yet."""
    try:
        return _stat(pid)[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. Of what several processes share, `pss` has this one's part of it, and `rss` the whole; so only
    `pss` may be added up."""

    pss: int
    rss: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.rss + other.rss)


def memory(pid: int) -> Memory:
    """Raises OSError if there is no such process, or if it is somebody else's."""
    return parse_memory((PROC / str(pid) / "smaps_rollup").read_text())


def parse_memory(text: str) -> Memory:
    """Raises ValueError if that is no `smaps_rollup`."""
    found = dict(re.findall(r"^(Pss|Rss):\s+(\d+) kB$", text, re.MULTILINE))
    if found.keys() != {"Pss", "Rss"}:
        raise ValueError(f"no sizes of memory: {text[:200]!r}")
    return Memory(int(found["Pss"]) * 1024, int(found["Rss"]) * 1024)
