"""How active faults are shown."""

from __future__ import annotations

import time
from typing import Any

from cluster.cli.console import narrow_table, out, print_json
from cluster.faults.kit import FaultKit
from engine.faults.file import ActiveFault


def describe(fault: ActiveFault) -> str:
    """One line for people."""
    parts = [f"{fault.kind} {fault.target}" + (f" / {fault.peer}" if fault.peer else "")]
    if fault.target != ", ".join(fault.names):
        parts.append(f"({', '.join(fault.names)})")
    if fault.step:
        parts.append(f"{fault.when} {fault.step}, time {fault.nth}")
    parts += [f"{name} {_number(value)}" for name, value in fault.params if name != "hold"]
    if fault.for_s:
        parts.append(f"for {fault.for_s:g} s")
    return f"{fault.id}: {' '.join(parts)}" if fault.id else " ".join(parts)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else str(value)


def report(kit: FaultKit) -> list[dict[str, Any]]:
    """What `--json` prints. Keys are an interface."""
    now = time.time()
    return [
        {
            "id": fault.id,
            "kind": fault.kind,
            "target": fault.target,
            "nodes": list(fault.names),
            "peer": fault.peer or None,
            "peer_nodes": list(fault.peers),
            "params": dict(fault.params),
            "step": fault.step or None,
            "when": fault.when if fault.step else None,
            "nth": fault.nth if fault.step else None,
            "since": fault.since,
            "left_s": fault.left_s(now),
            "effects": kit.effects(fault),
        }
        for fault in kit.active()
    ]


def show(kit: FaultKit, *, as_json: bool) -> None:
    rows = report(kit)
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no fault is active")
        return
    table = narrow_table(("id", "kind", "target", "nodes", "left", "effects"), right=("id", "left"))
    for row in rows:
        where = row["target"] + (f" / {row['peer']}" if row["peer"] else "")
        if row["step"]:
            where += f" {row['when']} {row['step']}"
        left = "–" if row["left_s"] is None else f"{row['left_s']:.0f} s"
        count = sum(row["effects"].values())
        table.add_row(
            *(str(row["id"]), row["kind"], where, str(len(row["nodes"])), left, str(count))
        )
    out.print(table)
