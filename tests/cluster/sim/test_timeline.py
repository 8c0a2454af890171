"""Timelines: what is shown, what is folded, and that it fits."""

from __future__ import annotations

from cluster.sim.checkers import Violation
from cluster.sim.history import Endpoint, Outcome, Transaction
from cluster.sim.timeline import LINES_MAX, Collector, Event, Focus, lines, parse, render

STORY = """
{"t":1.0,"kind":"invoke","node":"c1","transaction":"c1/1","what":"append","on":"main-1"}
{"t":1.1,"kind":"send","node":"main-1","to":"storage-1","wire":1,"what":"data","size":90}
{"t":1.1,"kind":"send","node":"main-1","to":"storage-2","wire":2,"what":"data","size":90}
{"t":1.2,"kind":"recv","node":"storage-1","from":"main-1","wire":1,"what":"data","size":90}
{"t":1.2,"kind":"before","node":"storage-1","step":"receive"}
{"t":1.2,"kind":"after","node":"storage-1","step":"receive"}
{"t":1.3,"kind":"vdl","node":"main-1","lsn":7,"epoch":1}
{"t":1.3,"kind":"vdl","node":"main-1","lsn":9,"epoch":1}
{"t":1.4,"kind":"complete","node":"c1","transaction":"c1/1","outcome":"committed","commit_lsn":9}
{"t":1.5,"kind":"invoke","node":"c2","transaction":"c2/1","what":"bank","on":"main-2"}
{"t":1.6,"kind":"complete","node":"c2","transaction":"c2/1","outcome":"aborted","commit_lsn":0}
{"t":2.0,"kind":"before","node":"storage-3","step":"fence"}
{"t":2.0,"kind":"fault","node":"az2","fault":"az-down","phase":"begin"}
{"t":2.0,"kind":"die","node":"storage-3","reason":"fault: az-down"}
{"t":2.0,"kind":"die","node":"storage-4","reason":"fault: az-down"}
{"t":2.5,"kind":"start","node":"storage-3","life":2}
{"t":2.6,"kind":"mark","node":"storage-3","mark":"a torn tail was cut"}
{"t":2.7,"kind":"after","node":"main-1","step":"fenced"}
{"t":2.8,"kind":"view","node":"endpoint","writer":"","epoch":3}
{"t":3.0,"kind":"violation","node":"","checker":"commits","message":"LSN 9 was acknowledged and is gone"}
""".strip().splitlines()

SHOWN = """
   1.000000  c1         > c1/1 append on main-1
                        · 2 messages, 1 receive, VDL 7 → 9 (main-1)
   1.400000  c1         < c1/1 committed, commit LSN 9
                        · 1 transaction aborted
   2.000000  storage-3  ! fence begun, never finished
   2.000000  az2        ! az-down begins
   2.000000  storage-3  ! dies: fault: az-down
   2.000000  storage-4  ! dies: fault: az-down
   2.500000  storage-3  = starts again (life 2)
   2.600000  storage-3  = mark: a torn tail was cut
   2.700000  main-1     = fenced
   2.800000  endpoint   = the catalog names nobody writer, epoch 3
   3.000000             ! commits objects: LSN 9 was acknowledged and is gone
"""


def collected(written: list[str]) -> list[Event]:
    collector = Collector()
    for line in written:
        collector.write(line + "\n")
    return collector.events


def shown(events: list[Event], focus: Focus, width: int = 100) -> list[str]:
    return [line.rstrip() for line in render(lines(events, focus), width).plain.splitlines()]


def test_what_matters_is_shown_and_the_rest_counted() -> None:
    assert shown(collected(STORY), Focus(0, 10, ("c1/1",))) == SHOWN.strip("\n").splitlines()


def test_events_of_a_trace_file_give_the_same_as_collected_ones() -> None:
    focus = Focus(0, 10, ("c1/1",))
    assert shown([parse(line) for line in STORY], focus) == shown(collected(STORY), focus)


def test_only_the_span_is_shown_and_what_checkers_say() -> None:
    texts = shown(collected(STORY), Focus(2.4, 2.65))
    assert [text[:22].split() for text in texts] == [
        ["2.500000", "storage-3"],
        ["2.600000", "storage-3"],
        ["3.000000"],
    ]


def test_without_a_choice_everybodys_transactions_are_shown() -> None:
    texts = shown(collected(STORY), Focus(1.45, 1.7))
    assert [text.split(maxsplit=2)[2] for text in texts[:2]] == [
        "> c2/1 bank on main-2",
        "< c2/1 aborted",
    ]


def test_long_lines_go_on_below_and_none_is_too_wide() -> None:
    said = "word " * 60
    event = Event(1.0, "violation", "", {"checker": "bank", "message": said})
    texts = shown([event], Focus(0, 2), width=60)
    assert len(texts) > 5
    assert max(map(len, texts)) <= 60
    assert "".join(texts).count("word") == 60
    assert all(text.startswith(" " * 26) for text in texts[1:])


def test_a_long_timeline_loses_its_middle() -> None:
    events = [Event(float(n), "die", f"n{n}", {"reason": "x"}) for n in range(500)]
    found = lines(events, Focus(0, 1000))
    assert len(found) == LINES_MAX + 1
    assert (found[0].node, found[-1].node) == ("n0", "n499")
    assert f"{500 - LINES_MAX} more lines" in found[LINES_MAX // 2].what


def test_equal_lines_in_a_row_are_one_and_marks_are_counted_after_a_few() -> None:
    view = Event(1.0, "fault", "all", {"fault": "kill", "phase": "end"})
    marks = [Event(2.0 + n, "mark", f"n{n}", {"mark": "gossip filled a gap"}) for n in range(9)]
    texts = [line.what for line in lines([view] * 5 + marks, Focus(0, 20))]
    assert texts == [
        "kill ends (× 5)",
        *["mark: gossip filled a gap"] * 3,
        "6 × gossip filled a gap",
    ]


def test_the_focus_is_on_what_a_violation_is_about() -> None:
    transaction = Transaction(
        client="c1",
        seq=4,
        session="s",
        instance="main-1",
        endpoint=Endpoint.WRITER,
        invoked_at=7.0,
        completed_at=8.0,
        outcome=Outcome.COMMITTED,
        ops=(),
    )
    around = Focus.on(Violation("bank", "total", "x", (transaction,), at=9.0), 20.0)
    assert (around.start, around.end, around.transactions) == (6.0, 9.2, ("c1/4",))
    assert Focus.on(Violation("bank", "total", "x"), 20.0) == Focus(0.0, 20.0, ())
