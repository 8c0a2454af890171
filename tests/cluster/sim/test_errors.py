"""A bug in node code is a violation, whatever the node makes of it: a new life, or an answer."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest

from cluster.control.assign import Assigner
from cluster.control.service import ControlPlane
from cluster.sim.run import Plan, Story
from cluster.sim.world import World
from engine.instance.node import Instance
from engine.storage import fencing
from engine.storage.gc import Collector
from engine.volume.writer import VolumeWriter


async def bug(*_args: Any, **_more: Any) -> NoReturn:
    raise KeyError("a bug")


def errors_in(seconds: float) -> list[str]:
    world = World(3)

    async def live() -> None:
        await world.start()
        await asyncio.sleep(seconds)

    try:
        world.loop.run_until_complete(live())
        return world.errors
    finally:
        world.close()


def test_errors_are_violations() -> None:
    world = World(1)
    world.note_error("storage-1", "gc", KeyError("a bug"))
    story = Story(world, Plan(1))
    try:
        assert [(v.kind, v.message) for v in story.judge()] == [
            ("internal-error", "storage-1: gc: KeyError: 'a bug'")
        ]
    finally:
        world.close()


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [
        (Collector, "collect", "storage-1: gc: KeyError: 'a bug' (test_errors.py:"),
        (fencing, "fence", "storage-1: serving /sextet.v1.Storage/Fence: KeyError"),
        (VolumeWriter, "_points_loop", "main-1: volume points: KeyError"),
        (Instance, "_watch", "main-2: watch cluster: KeyError"),
        (ControlPlane, "cluster_status", None),  # nobody asks
        (ControlPlane, "_register_storage", "control: serving"),
        (Assigner, "_ask", "control: assign to storage-1: KeyError"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_unexpected_exception_is_noted(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, expected: str | None
) -> None:
    monkeypatch.setattr(owner, name, bug)
    found = errors_in(1.5)
    if expected is None:
        assert not found
    else:
        assert any(expected in message for message in found), found
        assert len(set(found)) == len(found) <= 20
