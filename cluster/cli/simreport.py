"""How `sextet sim` shows runs: totals, faults and their effects, failures with their timelines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from cluster.cli.console import narrow_table, out
from cluster.sim.checkers import Violation
from cluster.sim.expect import label
from cluster.sim.fields import to_plain
from cluster.sim.jobs import Outcome
from cluster.sim.scenario import Scenario
from cluster.sim.timeline import COLUMNS, Event, Focus, lines, render
from cluster.sim.totals import Totals

if TYPE_CHECKING:
    from cluster.cli.sim import Failure

VIOLATIONS_SHOWN = 3
MESSAGE_LINES = 12


# -- scenarios


def print_scenarios(scenarios: Iterable[Scenario]) -> None:
    table = narrow_table(("scenario", "papers", "what happens"), right=())
    for scenario in scenarios:
        table.add_row(scenario.name, scenario.chapter, escape(scenario.title))
    out.print(table)
    out.print("\n[dim]sextet sim --scenario NAME --timeline all   (docs/simulation.md)[/dim]")


def scenario_to_json(scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "title": scenario.title,
        "chapter": scenario.chapter,
        "story": scenario.story,
        "faults": [fault.to_json() for fault in scenario.plan.schedule],
        "expect": scenario.expect.to_plain(),
    }


def print_story(scenario: Scenario) -> None:
    chapter = f" ({scenario.chapter})" if scenario.chapter else ""
    out.print(f"[bold]{escape(scenario.title)}[/bold]{escape(chapter)}")
    for paragraph in scenario.story.split("\n\n"):
        out.print(escape(textwrap.fill(" ".join(paragraph.split()), COLUMNS - 4)), "")
    for fault in scenario.plan.schedule:
        out.print(f"  [red]![/red] {escape(str(fault))}")
    out.print()


# -- sums


def print_totals(totals: Totals, one: Outcome | None, *, interrupted: bool = False) -> None:
    """What all runs showed together; `one` if there was only one. Of those that ended, if interrupted."""
    if totals.fired or totals.effective:
        out.print(_faults(totals))
        out.print()
    for name, value in _facts(totals, one):
        out.print(f"{name:<13}{escape(value)}")
    if one is None and not interrupted:  # of half the runs it would say nothing
        marks, steps = totals.not_reached()
        for what, missing in (("marks", marks), ("steps", steps)):
            if missing:
                listed = textwrap.fill(", ".join(missing), COLUMNS, subsequent_indent=" " * 13)
                out.print(f"[yellow]never reached[/yellow] {what}: {escape(listed)}")
    word = "[green]no violation[/green]" if not totals.failed else "[red]violations[/red]"
    if interrupted:
        word = "[yellow]interrupted[/yellow]" if not totals.failed else f"{word}, interrupted"
    out.print(f"\n{totals.runs} runs, {totals.failed} failed: {word}" if one is None else word)


def _faults(totals: Totals) -> Table:
    right = ("fired", "took effect")
    table = narrow_table(("fault", *right), right=right)
    for name, fired, effective in totals.faults():
        style = "yellow" if fired and not effective else ""
        table.add_row(name, str(fired) if fired else "", str(effective), style=style)
    return table


def _facts(totals: Totals, one: Outcome | None) -> Iterable[tuple[str, str]]:
    result = one.result if one is not None else None
    if one is not None:
        yield "seed", str(one.task.plan.seed)
    ended = ", ".join(f"{n} {name}" for name, n in sorted(totals.transactions.items()))
    yield "clients", ended or "no transactions"
    yield "commits", str(totals.commits)
    yield "recoveries", f"{totals.recoveries}, failovers {totals.failovers}"
    yield "checks", ", ".join(f"{name} {n}" for name, n in sorted(totals.checks.items()))
    if one is not None:
        reached = [label(mark) for mark in sorted(totals.marks)]
        if reached:
            yield "marks", ", ".join(reached)
    yield (
        "time",
        f"{totals.virtual_s:.1f} virtual s in {totals.wall_s:.1f} s of work, "
        f"{totals.speed:.1f} virtual s per s",
    )
    if result is not None:
        yield "trace", f"{result.trace_events} events, hash {result.digest}"


# -- failures


def print_timeline(events: Sequence[Event], focus: Focus) -> None:
    out.print(render(lines(events, focus), min(out.width, COLUMNS)), soft_wrap=True)


def print_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        plan = failure.outcome.task.plan
        out.rule(f"[red]seed {plan.seed}[/red]", align="left")
        for violation in _violations(failure)[:VIOLATIONS_SHOWN]:
            told = str(violation).splitlines()
            out.print(f"[red]{escape(told[0])}[/red]", soft_wrap=True)
            for line in told[1:MESSAGE_LINES]:
                out.print(escape(line), soft_wrap=True)
        if failure.outcome.died:
            out.print(f"[red]no result: {escape(failure.outcome.died)}[/red]", soft_wrap=True)
        out.print(f"\nagain:   {escape(failure.command)}", soft_wrap=True)
        if failure.shrunk is not None:
            _print_shrunk(failure)
        _print_around(failure)


def print_untested(untested: Sequence[str]) -> None:
    """What `--complete` misses."""
    for one in untested:
        out.print(f"[red]not complete[/red]: {escape(one)}", soft_wrap=True)


def _print_shrunk(failure: Failure) -> None:
    shrunk = failure.shrunk
    assert shrunk is not None
    before, after = failure.outcome.task.plan, shrunk.plan
    gave_up = ", perhaps not the shortest" if shrunk.gave_up else ""
    out.print(
        f"shrunk:  from {len(before.schedule)} faults to {len(after.schedule)} in {shrunk.tries} "
        f"runs{gave_up}; {after.mix.clients} clients, {after.shape.replicas} replicas, "
        f"{after.safety_s:g} s; --save FILE keeps it for --replay"
    )
    for fault in after.schedule:
        out.print(f"  [red]![/red] {escape(str(fault))}")


def _print_around(failure: Failure) -> None:
    """The timeline around the first violation of the run that was recorded."""
    result = failure.violated
    if result is None or not result.violations or not failure.events:
        return
    wanted = failure.outcome.telling
    same = [v for v in result.violations if f"{v.checker}/{v.kind}" == wanted]
    violation = (same or result.violations)[0]
    if failure.shrunk is not None:
        out.print(f"\nthere:   [red]{escape(str(violation).splitlines()[0])}[/red]", soft_wrap=True)
    out.print()
    print_timeline(failure.events, Focus.on(violation, result.virtual_s))


def _violations(failure: Failure) -> list[Violation]:
    result = failure.outcome.result
    return result.violations if result is not None else []


# -- for programs


def to_json(
    totals: Totals,
    failures: Sequence[Failure],
    one: Outcome | None,
    *,
    interrupted: bool = False,
    untested: Sequence[str] = (),
) -> dict[str, Any]:
    """Keys are an interface."""
    value: dict[str, Any] = {
        "ok": not totals.failed and not interrupted and not untested,
        "interrupted": interrupted,
        **totals.to_json(),
    }
    if one is not None:
        value["seed"] = one.task.plan.seed
        value["trace_hash"] = one.result.digest if one.result is not None else None
    value["not_complete"] = list(untested)
    value["failures"] = [_failure_to_json(failure) for failure in failures]
    return value


def _failure_to_json(failure: Failure) -> dict[str, Any]:
    shrunk = failure.shrunk
    return {
        "seed": failure.outcome.task.plan.seed,
        "violated": list(failure.outcome.kinds),
        "violations": [
            {"checker": v.checker, "kind": v.kind, "message": v.message, "at": v.at}
            for v in _violations(failure)
        ],
        "died": failure.outcome.died,
        "command": failure.command,
        "shrunk": None
        if shrunk is None
        else {
            "faults": [str(fault) for fault in shrunk.plan.schedule],
            "tries": shrunk.tries,
            "gave_up": shrunk.gave_up,
            "plan": to_plain(shrunk.plan),
        },
    }
