"""Who gets the next client."""

from __future__ import annotations

import pytest

from cluster.endpoint.balance import Kind, Load, choose

WRITER = Load("main-1", "writer", True, 0, 0)
FIRST = Load("main-2", "replica", True, 0, 0)
SECOND = Load("main-3", "replica", True, 0, 0)


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
    ],
)
def test_choice(kind, loads, chosen):
    assert choose(kind, loads) == chosen
