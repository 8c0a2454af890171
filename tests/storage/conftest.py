"""Nodes and groups of nodes that are closed again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.storage.harness import OPEN, Group, Node


@pytest.fixture(autouse=True)
async def _end_all() -> AsyncIterator[None]:
    yield
    for node in list(OPEN.values()):
        await node.kill()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Awaitable[Node]]:
    """`await make("a", disk=…)`: an open node over the folder "a"."""

    async def one(folder: str = "node", **given: object) -> Node:
        return await Node(tmp_path / folder, **given).open()  # type: ignore[arg-type]

    return one


@pytest.fixture
async def node(make: Callable[..., Awaitable[Node]]) -> Node:
    """One node that keeps groups 0 and 1 of the volume, at epoch 1."""
    node = await make()
    await node.assign(pgs=(0, 1))
    await node.fence(1)
    return node


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    """Four nodes over gRPC that keep group 0 of the volume, at epoch 1."""
    group = await Group(tmp_path, count=4).start()
    yield group
    await group.stop()
