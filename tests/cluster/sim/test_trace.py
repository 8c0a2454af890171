"""The hash of a trace: two runs that differ in anything that was said have different ones."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from cluster.sim.run import Plan, run
from cluster.sim.timeline import Event, parse
from cluster.sim.transport import Data, Opening, Status
from cluster.sim.world import Shape, World


def digest(item: object) -> str:
    """Of a world in which one message of 4 bytes is sent, and nothing else happens."""
    world = World(1, Shape())

    async def say() -> None:
        world.network.open(None, "here", "there", item, 4)

    try:
        world.loop.run_until_complete(say())
        return world.trace.digest
    finally:
        world.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Data(b"1234"), Data(b"1235")),
        (Opening("Get", b"1234"), Opening("Get", b"1235")),
        (Status("Unavailable", "1234"), Status("Unavailable", "1235")),
    ],
    ids=["data", "opening", "status"],
)
def test_the_hash_covers_contents(one: object, other: object) -> None:
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """Of a short run without faults."""
    out = io.StringIO()
    assert run(Plan(2, safety_s=8.0), out=out).ok
    return [parse(line) for line in out.getvalue().splitlines()]


def told(events: list[Event]) -> Iterator[tuple[Event, dict[tuple[str, str, int], int]]]:
    """Each event with what had been told of durability points before: by kind, node and group."""
    points: dict[tuple[str, str, int], int] = {}
    for event in events:
        yield event, points
        if event.kind in ("scl", "pgcl", "vcl", "pgmrpl"):
            key = (event.kind, event.node, event.fields.get("group", -1))
            assert points.get(key) != event.fields["lsn"], "it has not moved"
            points[key] = event.fields["lsn"]


@pytest.mark.sim
def test_every_move_of_a_durability_point_is_told_before_what_follows_from_it(
    events: list[Event],
) -> None:
    opened = {e.node: e.fields["lsn"] for e in reversed(events) if e.kind == "vdl"}
    moves = dict.fromkeys(("pgcl", "vdl", "pgmrpl"), 0)
    for event, points in told(events):
        lsn = event.fields.get("lsn", 0)
        if event.kind not in moves or lsn <= opened[event.node]:
            continue
        moves[event.kind] += 1
        match event.kind:
            case "pgcl":
                scls = [
                    points.get(("scl", f"storage-{n}", event.fields["group"]), 0)
                    for n in range(1, 7)
                ]
                assert sum(scl >= lsn for scl in scls) >= 4
            case "vdl":
                assert lsn <= points["vcl", event.node, -1]
            case "pgmrpl":
                assert lsn <= points["vcl", event.node, -1]
    assert min(moves.values()) > 3, moves


@pytest.mark.sim
def test_what_a_node_acknowledges_is_told_between_persist_and_ack(events: list[Event]) -> None:
    moved = 0
    for number, event in enumerate(events):
        if event.kind == "before" and event.fields["step"] == "ack":
            own = [e for e in events[max(0, number - 400) : number + 10] if e.node == event.node]
            at = own.index(event)
            assert own[at + 1].kind in ("scl", "send")
            moved += own[at + 1].kind == "scl"
    assert moved > 20
