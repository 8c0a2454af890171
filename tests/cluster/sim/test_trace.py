"""The hash of a trace: two runs that differ in anything that was said have different ones."""

from __future__ import annotations

import pytest

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
