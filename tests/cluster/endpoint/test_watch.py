"""An endpoint follows the catalog, also past a stream that hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.endpoint import __main__ as process
from cluster.endpoint.server import Endpoint
from cluster.endpoint.view import load_view
from cluster.local.folder import Folder
from engine.net.pb import control_pb2 as pb
from tests.support.until import until


class Hanging:
    """A control plane each of whose streams says one thing and then nothing, without an end."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0

    def stream(self, *_: object) -> Hanging:
        self.opened += 1
        self._said = False
        return self

    async def recv(self) -> pb.ClusterView:
        if self._said:
            await asyncio.Event().wait()
        self._said = True
        return pb.ClusterView(version=self.opened)

    def close(self) -> None:
        self.closed += 1


async def test_a_stream_that_hangs_is_opened_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "VIEW_S", 0.05)
    folder = Folder.at(tmp_path)
    folder.make()
    endpoint = Endpoint(clients_max=1)
    control: Any = Hanging()
    watching = asyncio.create_task(process._watch(control, folder, "main", endpoint))
    try:
        await until(lambda: load_view(folder.endpoint_view("main")).version > 2, seconds=5.0)
        assert control.closed >= control.opened - 1
    finally:
        watching.cancel()
        await endpoint.stop()
