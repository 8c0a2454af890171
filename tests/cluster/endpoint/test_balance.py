"""Who gets the next client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.endpoint.balance import Kind, Load, choose
from engine.pgwire.handover import CUT_OFF, OPEN_WRITER

WRITER = Load("main-1", "writer", True, 0, 0, OPEN_WRITER)
FIRST = Load("main-2", "replica", True, 0, 0, 7)
SECOND = Load("main-3", "replica", True, 0, 0, 0)
LATE = 101
"""A lag above what the tests allow."""


def _load(load: Load, **changes: object) -> Load:
    return Load(**{**{name: getattr(load, name) for name in Load.__slots__}, **changes})


@pytest.mark.parametrize(
    ("kind", "loads", "chosen"),
    [
        (Kind.WRITER, [WRITER, FIRST, SECOND], "main-1"),
        (Kind.WRITER, [_load(WRITER, live=False), FIRST], None),
        (Kind.WRITER, [], None),
        (Kind.READER, [WRITER, FIRST, SECOND], "main-2"),
        (Kind.READER, [WRITER, _load(FIRST, connections=3), SECOND], "main-3"),
        (Kind.READER, [WRITER, _load(FIRST, last_chosen=9), SECOND], "main-3"),
        (Kind.READER, [_load(WRITER, connections=9), _load(FIRST, live=False)], "main-1"),
        (Kind.READER, [WRITER, _load(FIRST, live=False), _load(SECOND, connections=9)], "main-3"),
        (Kind.READER, [_load(WRITER, live=False)], None),
        # how fit they are
        (Kind.WRITER, [_load(WRITER, state=0), FIRST], None),
        (Kind.WRITER, [_load(WRITER, state=CUT_OFF), _load(FIRST, state=OPEN_WRITER)], None),
        (Kind.READER, [WRITER, _load(FIRST, state=LATE), _load(SECOND, connections=9)], "main-3"),
        (Kind.READER, [WRITER, _load(FIRST, state=CUT_OFF), _load(SECOND, state=LATE)], "main-1"),
        (Kind.READER, [WRITER, _load(FIRST, state=OPEN_WRITER)], "main-1"),
        (Kind.READER, [_load(WRITER, live=False), _load(FIRST, state=LATE)], "main-2"),
        (Kind.READER, [_load(WRITER, state=0), _load(FIRST, state=CUT_OFF)], "main-2"),
        (Kind.READER, [_load(WRITER, live=False), _load(FIRST, state=OPEN_WRITER)], None),
    ],
)
def test_choice(kind, loads, chosen):
    assert choose(kind, loads, lag_ms_max=LATE - 1) == chosen


@given(
    replicas=st.integers(1, 15),
    steps=st.lists(st.one_of(st.just(True), st.integers(0, 10_000)), max_size=120),
)
def test_connections_to_fit_replicas_stay_within_one_of_each_other_while_nobody_leaves(
    replicas: int, steps: list[bool | int]
) -> None:
    """And whoever leaves, the next clients go where there are fewest."""
    loads = {f"main-{n}": _load(FIRST, name=f"main-{n}") for n in range(2, replicas + 2)}
    left = False
    for turn, step in enumerate(steps, start=1):
        counts = [load.connections for load in loads.values()]
        if step is True:
            name = choose(Kind.READER, [WRITER, *loads.values()], lag_ms_max=LATE)
            assert name is not None
            chosen = loads[name]
            assert chosen.connections == min(counts)
            loads[name] = _load(chosen, connections=chosen.connections + 1, last_chosen=turn)
        else:
            busy = sorted(name for name, load in loads.items() if load.connections)
            if busy:
                left = True
                name = busy[step % len(busy)]
                loads[name] = _load(loads[name], connections=loads[name].connections - 1)
        counts = [load.connections for load in loads.values()]
        assert left or max(counts) - min(counts) <= 1


@given(
    loads=st.lists(
        st.builds(
            Load,
            name=st.sampled_from([f"main-{n}" for n in range(1, 6)]),
            role=st.sampled_from(["writer", "replica"]),
            live=st.booleans(),
            connections=st.integers(0, 4),
            last_chosen=st.integers(0, 4),
            state=st.sampled_from([0, 5, LATE, CUT_OFF, OPEN_WRITER]),
        ),
        unique_by=lambda load: load.name,
    ),
    kind=st.sampled_from(Kind),
)
def test_nobody_is_chosen_who_cannot_serve(loads: list[Load], kind: Kind) -> None:
    name = choose(kind, loads, lag_ms_max=LATE - 1)
    chosen = next((load for load in loads if load.name == name), None)
    fit = [load for load in loads if load.fit(LATE - 1)]
    if chosen is None:
        able = [load for load in fit if kind is Kind.READER or load.role == "writer"]
        assert not able
        return
    assert chosen.live
    if kind is Kind.WRITER:
        assert chosen.role == "writer"
        assert chosen.state == OPEN_WRITER
    elif fit:
        assert chosen in fit
        assert chosen.role == "replica" or all(load.role == "writer" for load in fit)
