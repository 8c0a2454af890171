"""What keeps a cluster from being all well, read from its status report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def missing(report: Mapping[str, Any]) -> list[str]:
    """Who is not up, which copy is not whole or is being replaced, in words; empty if all is well.

    `report`: what `sextet status --json` says. More is asked for than quorums: the next round of faults may
    take a copy away only if all six are there.
    """
    rows = [*report["instances"], *report["storage"]]
    found = [
        f"{row['name']}: {row['error'] or row['state']}"
        for row in rows
        if row["state"] not in ("available", "up") or row["error"]
    ]
    writers = [row["name"] for row in report["instances"] if row["role"] == "writer"]
    if len(writers) != 1:
        found.append(f"there are {len(writers)} writers")
    for group in report["groups"]:
        name = f"group {group['pg']}"
        if not (group["write_quorum"] and group["read_quorum"]):
            found.append(f"{name}: no quorum")
        elif group["replacing"] is not None:
            found.append(f"{name}: {' is replaced by '.join(group['replacing'])}")
        elif absent := sorted({*group["members"]} - {*group["answering"]}):
            found.append(f"{name}: no whole copy on {', '.join(absent)}")
    return found
