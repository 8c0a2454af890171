"""A wire delivers in order whatever happens to the path, and what a dead process sent still arrives."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from cluster.sim.loop import SimLoop
from cluster.sim.network import End, Network, Weather
from cluster.sim.process import Life

HERE, THERE, ADDRESS = "main-1", "storage-1", "127.0.0.1:7001"


class Collector:
    """Accepts one wire; what arrived on it, in order, the opening first."""

    life: Life | None = None

    def __init__(self) -> None:
        self.got: list[Any] = []

    def accept(self, end: End, opening: Any) -> None:
        self.got.append(opening)

        def take() -> None:
            while end.inbox:
                self.got.append(end.take())

        end.on_arrival = take


async def _story(seed: int, *, dies: bool) -> tuple[list[Any], list[Any]]:
    """Messages over a bad path that closes and opens again; what was sent, and what arrived."""
    rng = random.Random(seed)
    network = Network(random.Random(seed + 1))
    network.weather = Weather(0.01, 0.05, 0.2)
    network.place(ADDRESS, THERE)
    collector = Collector()
    assert network.listen(ADDRESS, collector)
    sent: list[Any] = ["opening"]
    end = network.open(None, HERE, ADDRESS, "opening", 0)
    for number in range(rng.randint(0, 8)):
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.02, 0.3)))
        match rng.random():
            case chance if chance < 0.3:
                network.cut(HERE, THERE)
            case chance if chance < 0.5:
                network.mend(HERE, THERE)
        end.transmit(number)
        sent.append(number)
    if dies:
        end.abort("dies")
    for _ in range(rng.randint(0, 3)):
        await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
        network.cut(HERE, THERE)
        await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
        network.mend(HERE, THERE)
    await asyncio.sleep(rng.choice((0.0, 0.05, 0.5)))
    network.mend(HERE, THERE)
    await asyncio.sleep(4.0)  # virtual; no keepalive and no connect timeout comes before
    return sent, collector.got


@pytest.mark.parametrize("dies", [False, True], ids=["sender lives", "sender dies"])
def test_everything_arrives_in_order(dies: bool) -> None:
    for seed in range(400):
        loop = SimLoop()
        try:
            sent, got = loop.run_until_complete(loop.create_task(_story(seed, dies=dies)))
        finally:
            loop.close()
        assert got == sent, f"seed {seed}"
