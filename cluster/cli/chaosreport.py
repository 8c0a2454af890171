"""How `sextet chaos` shows a schedule, and what a run showed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.chaos.clients import ACCOUNTS, LISTS
from cluster.chaos.driver import Fired
from cluster.chaos.run import CLIENTS, Result
from cluster.chaos.schedule import Schedule, label
from cluster.cli.console import narrow_table, out
from cluster.faults.catalogue import Fault
from cluster.local.folder import Folder

VIOLATIONS_SHOWN = 5
MESSAGE_LINES = 8
LINE_MAX = 240
"""Lists are long; the whole history is in a file."""

HONEST = (
    "real processes never repeat exactly: the same faults come at the same times, what they meet"
    " differs. `sextet sim` repeats exactly."
)


# -- before


def print_schedule(schedule: Schedule) -> None:
    table = narrow_table(("at", "for", "fault", "target", "round"), right=("at", "for"))
    for one in schedule.rounds:
        for fault in one.faults:
            lasting = f"{fault.for_s:.1f} s" if fault.for_s else "–"
            name = f"{one.number}" + (f", {one.plot}" if one.plot else "")
            table.add_row(f"{fault.at:.1f} s", lasting, label(fault), escape(_whom(fault)), name)
    out.print(table)
    out.print(
        f"\nseed {schedule.seed}: {len(schedule.rounds)} rounds in {schedule.seconds:.0f} s;"
        " all is healed after each"
    )


def print_intent(schedule: Schedule, folder: Folder, *, fresh: bool) -> None:
    """What is about to be done, to whom."""
    faults = sum(len(one.faults) for one in schedule.rounds)
    out.print(
        f"seed {schedule.seed}: {faults} faults in {len(schedule.rounds)} rounds within"
        f" {schedule.seconds:.0f} s, {CLIENTS} clients"
        + ("" if fresh else f", on the cluster in {escape(str(folder.data))}"),
        soft_wrap=True,
    )
    if not fresh:
        out.print(
            "its clients will notice; one storage node's copy at a time may be destroyed and made again"
            f" from the others; tables {LISTS} and {ACCOUNTS} are made anew, nothing else is written",
            soft_wrap=True,
        )


def _whom(fault: Fault) -> str:
    """Target, peer, step and strength."""
    parts = [fault.target]
    if fault.peer:
        parts.append(f"/ {fault.peer}")
    if fault.step is not None:
        nth = f", time {fault.nth}" if fault.nth > 1 else ""
        parts.append(f"{fault.when} {fault.step.value}{nth}")
    parts += [f"{name} {value:g}" for name, value in fault.params]
    return " ".join(parts)


# -- after


def print_result(result: Result, command: str, kept: Path | None) -> None:
    if result.fired:
        out.print(_faults(result.fired))
        out.print()
    for name, value in _facts(result):
        out.print(f"{name:<13}{escape(value)}", soft_wrap=True)
    if not result.violations:
        out.print("[green]no violation[/green]")
        return
    out.print()
    for violation in result.violations[:VIOLATIONS_SHOWN]:
        told = str(violation).splitlines()
        out.print(f"[red]{escape(told[0])}[/red]", soft_wrap=True)
        for line in told[1:MESSAGE_LINES]:
            shown = line if len(line) <= LINE_MAX else f"{line[:LINE_MAX]} …"
            out.print(escape(shown), soft_wrap=True)
    more = len(result.violations) - VIOLATIONS_SHOWN
    if more > 0:
        out.print(f"[red]and {more} more[/red]")
    out.print(f"\nagain:   {escape(command)}", soft_wrap=True)
    out.print(f"[dim]{HONEST}[/dim]", soft_wrap=True)
    if kept is not None:
        out.print(f"kept:    history, schedule and logs in {escape(str(kept))}", soft_wrap=True)


def _faults(fired: Sequence[Fired]) -> Table:
    """One line for each kind and target."""
    right = ("fired", "took effect")
    table = narrow_table(("fault", "target", *right, "note"), right=right)
    rows: dict[tuple[str, str], list[Fired]] = {}
    for one in fired:
        where = one.fault.target + (f" / {one.fault.peer}" if one.fault.peer else "")
        rows.setdefault((label(one.fault), where), []).append(one)
    for (name, where), some in sorted(rows.items()):
        done = [one for one in some if one.done]
        known = [one.effects for one in done if one.effects is not None]
        outside = len(done) - len(known)
        notes = {
            *(one.refused for one in some if one.refused),
            *(", ".join(one.nodes) for one in done if one.nodes not in ((), (one.fault.target,))),
        }
        idle = not outside and not sum(known)
        table.add_row(
            *(name, where, str(len(done)), str(outside + sum(known))),
            escape("; ".join(sorted(notes)))[:60],
            style="yellow" if idle else "",
        )
    return table


def _facts(result: Result) -> Iterable[tuple[str, str]]:
    recorder = result.recorder
    ended = ", ".join(f"{n} {name}" for name, n in sorted(recorder.outcomes.items()))
    yield "seed", f"{result.schedule.seed}, {result.rounds} of {len(result.schedule.rounds)} rounds"
    yield "clients", ended or "no transactions"
    errors = ", ".join(f"{n} of {state}" for state, n in sorted(recorder.errors.items()))
    yield "errors", f"{errors or 'none'}; {recorder.refused} connections were not to be had"
    per_s = len(recorder.acknowledged) / result.worked_s if result.worked_s else 0.0
    yield "commits", f"{len(recorder.acknowledged)} that wrote, {per_s:.0f} a second"
    start, end = result.gap
    faults = ", ".join(dict.fromkeys(_active(one) for one in result.gap_faults))
    yield (
        "longest gap",
        f"{end - start:.2f} s without a commit, from {start:.1f} s: {faults or 'no fault'}",
    )
    finished = [one.what for one in result.failovers if "finished" in one.what]
    yield "failovers", "; ".join(finished) or "none"
    yield "checks", ", ".join(f"{name} {n}" for name, n in result.checks.items())


def _active(fired: Fired) -> str:
    return f"{label(fired.fault)} {fired.fault.target}" + (
        f" / {fired.fault.peer}" if fired.fault.peer else ""
    )


def to_json(result: Result, command: str, kept: Path | None) -> dict[str, Any]:
    """What `--json` prints. Keys are an interface."""
    recorder = result.recorder
    start, end = result.gap
    return {
        "ok": not result.violations,
        "seed": result.schedule.seed,
        "seconds": result.schedule.seconds,
        "again": command,
        "rounds": {"planned": len(result.schedule.rounds), "done": result.rounds},
        "faults": [fired.to_json() for fired in result.fired],
        "transactions": {
            name: recorder.outcomes[name] for name in ("committed", "aborted", "unknown")
        },
        "errors": dict(sorted(recorder.errors.items())),
        "connections_refused": recorder.refused,
        "commits": len(recorder.acknowledged),
        "worked_s": round(result.worked_s, 3),
        "longest_gap": {
            "from_s": round(start, 3),
            "to_s": round(end, 3),
            "seconds": round(end - start, 3),
            "faults": [_active(fired) for fired in result.gap_faults],
        },
        "failovers": [one.what for one in result.failovers],
        "events": [f"{one.subject}: {one.what}" for one in result.happened],
        "checks": dict(result.checks),
        "violations": [
            {"checker": v.checker, "kind": v.kind, "message": v.message, "text": str(v)}
            for v in result.violations
        ],
        "kept": None if kept is None else str(kept),
    }
