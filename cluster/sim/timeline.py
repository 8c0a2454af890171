"""A run as people read it: the events that matter, one to a line, and the rest folded into counts.

    t (s)      node        event
     8.000000  az3         ! az-down begins
     8.000000  storage-5   ! dies: fault: az-down
                           · 41 messages, 12 persist, 3 transactions committed, VDL 311 → 340 (main-1)
     8.204113  c2          > c2/14 append on main-1

`>` asks or is asked to, `<` answers, `=` a state or step, `!` a fault, a death, an error, an objection,
`·` what was left out. A step that was begun and never finished says so.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from rich.text import Text

from cluster.faults.catalogue import ONCE
from cluster.sim.checkers import Violation
from cluster.sim.history import Transaction

BEFORE_S = 1.0
AFTER_S = 0.2
"""Of virtual time, shown around what a violation is about."""

LINES_MAX = 120
"""Beyond it, the middle is folded."""

COLUMNS = 100
OBJECTIONS_MAX = 5
"""A broken run breaks many promises; the first few tell all."""

ROUTINE = frozenset(
    {
        *("receive", "persist", "ack", "seal", "create", "coalesce", "collect", "drop-log", "fill"),
        *("copy", "repair", "send", "durable", "apply", "confirm", "fence", "truncate"),
    }
)
"""Steps that a node takes all the time, or that six nodes take at once: counted, not shown."""

MARKS_MAX = 3
"""The same mark is shown once for so many nodes, then counted."""

MESSAGES = frozenset({"send", "recv"})


class Event(NamedTuple):
    """One event of the trace."""

    t: float
    kind: str
    node: str
    fields: dict[str, Any]


class Line(NamedTuple):
    """One line of the timeline. `t` None: it stands for what was folded."""

    t: float | None
    node: str
    glyph: str
    what: str


@dataclass(frozen=True, slots=True)
class Focus:
    """What to show: a span of virtual time, and whose transactions (None: everybody's)."""

    start: float
    end: float
    transactions: Collection[str] | None = None

    @classmethod
    def on(cls, violation: Violation, end_s: float) -> Focus:
        """Around a violation; the whole run if nothing is known about when it happened."""
        involved = violation.transactions
        known = [t.invoked_at for t in involved] + [t.completed_at for t in involved]
        if violation.at is not None:
            known.append(violation.at)
        if not known:
            return cls(0.0, end_s, ())
        return cls(min(known) - BEFORE_S, max(known) + AFTER_S, _names(involved))


def _names(transactions: Iterable[Transaction]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(t.name for t in transactions))


class Collector:
    """A file-like object for a run's trace: keeps its events, and of messages how many were sent."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, line: str) -> int:
        event = parse(line)
        if event.kind in MESSAGES:
            last = self.events[-1] if self.events else None
            if last is None or last.kind != "messages":
                last = Event(event.t, "messages", "", {"sent": 0})
                self.events.append(last)
            last.fields["sent"] += event.kind == "send"
        else:
            self.events.append(event)
        return len(line)


def parse(line: str) -> Event:
    """One line of a trace file."""
    value = json.loads(line)
    return Event(value.pop("t"), value.pop("kind"), value.pop("node"), value)


# -- what matters


def lines(events: Iterable[Event], focus: Focus) -> list[Line]:
    """The timeline of `events`, which are in order."""
    objections = 0
    inside = []
    for event in events:
        objections += event.kind == "violation"
        seen = event.kind == "violation" and objections <= OBJECTIONS_MAX
        if seen or (focus.start <= event.t <= focus.end and event.kind != "violation"):
            inside.append(event)
    shown = list(_once(_shown(inside, focus)))
    if len(shown) > LINES_MAX:
        cut = len(shown) - LINES_MAX
        half = LINES_MAX // 2
        middle = Line(None, "", "·", f"{cut} more lines; show a shorter span to see them")
        shown = [*shown[:half], middle, *shown[half + cut :]]
    return shown


def _shown(events: Sequence[Event], focus: Focus) -> Iterator[Line]:
    unfinished = _unfinished(events)
    folded = _Folded()
    marks: dict[str, set[str]] = {}
    for number, event in enumerate(events):
        line = _line(event, focus, broken_off=number in unfinished)
        if event.kind == "mark":
            nodes = marks.setdefault(event.fields["mark"], set())
            if event.node in nodes or len(nodes) >= MARKS_MAX:
                line = None
            nodes.add(event.node)
        if line is None:
            folded.add(event)
            continue
        yield from folded.flush()
        yield line
    yield from folded.flush()


def _once(shown: Iterable[Line]) -> Iterator[Line]:
    """Equal lines in a row as one."""
    for line, same in groupby(shown):
        times = sum(1 for _ in same)
        yield line if times == 1 else line._replace(what=f"{line.what} (× {times})")


def _unfinished(events: Sequence[Event]) -> set[int]:
    """Which "before" events were followed by their node's death or pause and not by their "after"."""
    open_steps: dict[tuple[str, str], int] = {}
    broken: set[int] = set()
    for number, event in enumerate(events):
        match event.kind:
            case "before":
                open_steps[event.node, event.fields["step"]] = number
            case "after":
                open_steps.pop((event.node, event.fields["step"]), None)
            case "die":
                gone = [key for key in open_steps if key[0] == event.node]
                broken.update(open_steps.pop(key) for key in gone)
    return broken


def _line(event: Event, focus: Focus, *, broken_off: bool) -> Line | None:
    """How an event is shown, None if it is folded."""
    t, kind, node, fields = event
    glyph, what = "=", ""
    match kind:
        case "start" if fields["life"] > 1:
            what = f"starts again (life {fields['life']})"
        case "die":
            glyph, what = "!", f"dies: {fields['reason']}"
        case "fault":
            if fields["phase"] == "begin" or fields["fault"] not in ONCE:
                glyph, what = "!", _fault(fields)
        case "before" if broken_off:
            glyph, what = "!", f"{fields['step']} begun, never finished"
        case "after" if fields["step"] not in ROUTINE:
            what = fields["step"]
        case "mark":
            what = f"mark: {fields['mark']}"
        case "invoke" if _wanted(fields, focus):
            glyph, what = ">", f"{fields['transaction']} {fields['what']} on {fields['on']}"
        case "complete" if _wanted(fields, focus):
            at = f", commit LSN {fields['commit_lsn']}" if fields["commit_lsn"] else ""
            glyph, what = "<", f"{fields['transaction']} {fields['outcome']}{at}"
        case "view":
            what = (
                f"the catalog names {fields['writer'] or 'nobody'} writer, epoch {fields['epoch']}"
            )
        case "phase":
            what = f"--- {fields['phase']} ---"
        case "violation":
            glyph, what = "!", f"{fields['checker']} objects: {fields['message']}"
    return Line(t, node, glyph, what) if what else None


def _wanted(fields: dict[str, Any], focus: Focus) -> bool:
    return focus.transactions is None or fields["transaction"] in focus.transactions


def _fault(fields: dict[str, Any]) -> str:
    phase = {"begin": "begins", "end": "ends"}.get(fields["phase"], fields["phase"])
    if fields["fault"] in ONCE:
        phase = "happens"
    more = [f"{k}={v}" for k, v in fields.items() if k not in ("fault", "phase")]
    return " ".join((fields["fault"], phase, *more))


@dataclass
class _Folded:
    """What lies between two shown lines."""

    counts: Counter[str] = field(default_factory=Counter)
    vdl: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        match event.kind:
            case "messages":
                self.counts["message"] += event.fields["sent"]
            case "send":
                self.counts["message"] += 1
            case "after":
                self.counts[event.fields["step"]] += 1
            case "vdl":
                first, _ = self.vdl.get(event.node, (event.fields["lsn"], 0))
                self.vdl[event.node] = (first, event.fields["lsn"])
            case "mark":
                self.counts[f"× {event.fields['mark']}"] += 1
            case "complete":
                self.counts[f"transaction {event.fields['outcome']}"] += 1
            case "start":
                self.counts["start"] += 1

    def flush(self) -> Iterator[Line]:
        parts = [_many(n, what) for what, n in self.counts.items() if n]
        for node, (first, last) in self.vdl.items():
            moved = f"{first} → {last}" if first != last else str(last)
            parts.append(f"VDL {moved} ({node})")
        self.counts.clear()
        self.vdl.clear()
        if parts:
            yield Line(None, "", "·", ", ".join(parts))


def _many(n: int, what: str) -> str:
    noun, space, rest = what.partition(" ")
    if n != 1 and noun in ("message", "transaction", "start"):
        noun += "s"
    return f"{n} {noun}{space}{rest}"


# -- on a terminal

STYLES = {">": "cyan", "<": "green", "=": "", "!": "bold red", "·": "dim"}
TIME_WIDTH = 11
NODE_WIDTH = 10


def render(shown: Iterable[Line], width: int = COLUMNS) -> Text:
    """Lines as text of at most `width` columns; what is longer goes on below, indented."""
    text = Text()
    indent = TIME_WIDTH + 2 + NODE_WIDTH + 1 + 2
    for line in shown:
        when = "" if line.t is None else f"{line.t:.6f}"
        head = f"{when:>{TIME_WIDTH}}  {line.node:<{NODE_WIDTH}} "
        style = STYLES[line.glyph]
        text.append(head, "dim" if line.t is None else "")
        for number, piece in enumerate(_wrapped(line.what, max(20, width - indent))):
            text.append("" if number == 0 else " " * (indent - 2))
            text.append(f"{line.glyph if number == 0 else ' '} {piece}\n", style)
    return text


def _wrapped(what: str, width: int) -> list[str]:
    paragraphs = what.splitlines() or [""]
    return [
        piece
        for paragraph in paragraphs
        for piece in (textwrap.wrap(paragraph, width, subsequent_indent="  ") or [""])
    ]
