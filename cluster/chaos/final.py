"""Reads of everything at the end of a run: strong ones, on the writer and on every replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from cluster.chaos.clients import ACCOUNTS, LISTS, Doors, parse_list
from cluster.chaos.judge import FinalRead
from cluster.chaos.wire import Failed, Wire

POLL_S = 0.2
CONNECTIONS_MAX = 8
"""For each replica that is sought: the reader endpoint chooses, we can only ask again."""


async def read_everything(
    doors: Doors,
    writer: str,
    replicas: Sequence[str],
    clock: Callable[[], float],
    patience_s: float,
) -> tuple[list[FinalRead], list[str]]:
    """What they show, the writer's first, and why not all were read within `patience_s`."""
    found: dict[str, FinalRead] = {}
    wanted = [writer, *replicas]
    why = "no connection was given to it"
    try:
        async with asyncio.timeout(patience_s):
            while set(wanted) - set(found):
                try:
                    if writer not in found:
                        found |= await _read_through(doors, doors.writer, {writer}, clock)
                    found |= await _read_through(
                        doors, doors.reader, set(wanted) - set(found), clock
                    )
                except Failed as failed:
                    why = failed.message
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        absent = [name for name in wanted if name not in found]
        return _in_order(found, wanted), [f"{name} was not read: {why}" for name in absent]
    return _in_order(found, wanted), []


def _in_order(found: dict[str, FinalRead], wanted: Sequence[str]) -> list[FinalRead]:
    return [found[name] for name in wanted if name in found]


async def _read_through(
    doors: Doors, url: str, wanted: set[str], clock: Callable[[], float]
) -> dict[str, FinalRead]:
    """Those of `wanted` that this endpoint gives us. Raises Failed.

    Connections stay open meanwhile: the endpoint gives the next one to whoever has fewest.
    """
    found: dict[str, FinalRead] = {}
    async with AsyncExitStack() as stack:
        for number in range(CONNECTIONS_MAX * len(wanted)):
            if not wanted - set(found):
                break
            wire = await Wire.open(url, f"final {number}", strong=True)
            stack.push_async_callback(wire.close)
            name = doors.instances.get(wire.instance_number, "")
            if name in wanted and name not in found:
                found[name] = await _read(wire, name, clock)
    return found


async def _read(wire: Wire, name: str, clock: Callable[[], float]) -> FinalRead:
    """Raises Failed."""
    began = clock()
    await wire.run("BEGIN READ ONLY")
    lists = {
        str(k): parse_list(v) for k, v in await wire.run(f"SELECT k, v FROM {LISTS} ORDER BY k")
    }
    balances = {
        str(n): int(b) for n, b in await wire.run(f"SELECT id, balance FROM {ACCOUNTS} ORDER BY id")
    }
    read_lsn = await wire.show("sextet.last_read")
    await wire.run("COMMIT")
    return FinalRead(name, lists, balances, read_lsn, began, clock())
