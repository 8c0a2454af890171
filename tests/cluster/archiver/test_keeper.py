"""An archiver's process: a store that is away is waited for, and what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.archiver.keeper import DAY_S, Keeper
from cluster.local.archiving import ArchiveState, load_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import Layout, save
from cluster.local.store import make_store
from engine.errors import ConfigError
from engine.net.real import real_runtime
from tests.cluster.control.test_catalog import make_layout


def installed(tmp_path: Path) -> tuple[Folder, Layout]:
    """Nobody else of it runs."""
    folder = Folder.at(tmp_path / "data")
    folder.make()
    made = make_layout()
    main = replace(made.cluster("main"), archive="main-1")
    layout = replace(made.with_cluster(main), store=str(tmp_path / "store"))
    save(folder.data, layout)
    return folder, layout


@contextlib.asynccontextmanager
async def running(folder: Folder) -> AsyncIterator[Keeper]:
    keeper = Keeper(real_runtime(None), folder, "main")
    task = asyncio.ensure_future(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()


async def told(folder: Folder, true: Callable[[ArchiveState], bool]) -> ArchiveState:
    async with asyncio.timeout(20):
        while True:
            state = load_archive_state(folder, "main")
            if state is not None and true(state):
                return state
            await asyncio.sleep(0.05)


async def test_a_store_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.archiver.keeper.OPEN_S", 0.1)
    folder, layout = installed(tmp_path)
    async with running(folder):
        state = await told(folder, lambda s: s.state == "waiting")
        assert state.archive == "main-1"
        assert "no object store: is its disk mounted?" in state.why
        later = await told(folder, lambda s: s.at_us > state.at_us)
        assert later.state == "waiting"
        make_store(layout.store)
        state = await told(folder, lambda s: s.state == "starting")
        assert (state.why, state.known_us) == ("", 0)


async def test_a_changed_retention_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.archiver.keeper.TICK_S", 0.05)
    folder, layout = installed(tmp_path)
    make_store(layout.store)
    async with running(folder) as keeper:
        await told(folder, lambda s: s.state == "starting")
        assert keeper.archiver is not None
        assert keeper.archiver.retention_s == DAY_S
        save(folder.data, layout.with_cluster(replace(layout.cluster("main"), retention_days=7)))
        async with asyncio.timeout(20):
            while keeper.archiver.retention_s != 7 * DAY_S:
                await asyncio.sleep(0.05)
        (folder.data / "cluster.json").write_text("{")
        before = await told(folder, lambda s: True)
        await told(folder, lambda s: s.at_us > before.at_us + 200_000)
        assert keeper.archiver.retention_s == 7 * DAY_S, "what cannot be read changes nothing"


async def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    folder, _ = installed(tmp_path)
    with pytest.raises(ConfigError, match="no cluster shop here"):
        await Keeper(real_runtime(None), folder, "shop").run()
