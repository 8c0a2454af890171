"""Fixtures: a volume in memory, and an engine that writes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from tests.sql.local_volume import LocalVolume


@pytest.fixture
def volume() -> LocalVolume:
    return LocalVolume()


@pytest.fixture
async def engine(volume: LocalVolume) -> AsyncIterator[SqlEngine]:
    engine = volume.writer()
    yield engine
    await engine.close()


@pytest.fixture
def session(engine: SqlEngine) -> Session:
    return engine.session()
