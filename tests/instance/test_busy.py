"""A large commit is announced, and begins when somebody has heard or nobody listens."""

from __future__ import annotations

import asyncio

import pytest

from cluster.sim.loop import SimLoop
from engine.instance.busy import HEARD_S, Busy


async def test_it_begins_in_the_step_in_which_somebody_has_heard() -> None:
    busy, said = Busy(), []
    busy.on_announce = lambda: said.append("announced")
    during: list[tuple[bool, str]] = []

    async def commit() -> None:
        await busy.announce()
        during.append((busy.computing, busy.state))  # the computation would be here

    assert busy.state == ""
    committing = asyncio.create_task(commit())
    await asyncio.sleep(0)
    assert said == ["announced"]
    assert not during, "nobody has heard yet"
    assert busy.state == "committing"
    await committing
    assert during == [(True, "committing")]
    await asyncio.sleep(0)
    assert (busy.computing, busy.state) == (False, "")


def test_it_begins_though_nobody_listens() -> None:
    loop = SimLoop()
    busy = Busy()
    try:
        loop.run_until_complete(busy.announce())
        assert loop.time() == pytest.approx(HEARD_S)
    finally:
        loop.close()


async def test_a_commit_that_is_given_up_meanwhile_leaves_nothing_behind() -> None:
    busy = Busy()
    committing = asyncio.create_task(busy.announce())
    await asyncio.sleep(0)
    committing.cancel()
    await asyncio.wait([committing])
    await asyncio.sleep(0)
    assert not busy.computing
