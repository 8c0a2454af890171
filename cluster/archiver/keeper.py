"""An archiver and its installation: which store, how long to keep what, and what is told of it.

The layout is read again all the time, so a changed retention counts at once. A store that is not there yet
(its disk is not mounted) is waited for: storage nodes keep the log meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from cluster.local.archiving import ArchiveState, save_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, Layout, load
from cluster.local.store import open_store, store_of
from engine.archive.archiver import WAITS, ArchiveConfig, Archiver
from engine.errors import ConfigError, SextetError
from engine.ports import Runtime

if TYPE_CHECKING:
    from engine.net.objects import FolderStore
    from engine.net.s3 import S3Objects

log = logging.getLogger(__name__)

TICK_S = 1.0
OPEN_S = 5.0
DAY_S = 24 * 3600.0


class Keeper:
    """One cluster's. `run` until it is cancelled."""

    def __init__(self, runtime: Runtime, folder: Folder, cluster: str) -> None:
        self._runtime = runtime
        self._folder = folder
        self._cluster = cluster
        self._trouble = ""
        self.archiver: Archiver | None = None

    async def run(self) -> None:
        """Raises ConfigError if the installation has no such cluster."""
        layout, spec = self._wanted()
        store = await self._opened(store_of(self._folder, layout), spec)
        archiver = self.archiver = Archiver(
            self._runtime,
            store,
            cluster=spec.name,
            archive=spec.archive,
            control_address=layout.control_address,
            config=ArchiveConfig(round_s=layout.archive_every_s),
        )
        archiver.retention_s = spec.retention_days * DAY_S
        await archiver.start()
        try:
            while True:
                self._tell(_state_of(archiver, self._now_us()))
                await asyncio.sleep(TICK_S)
                try:
                    archiver.retention_s = self._wanted()[1].retention_days * DAY_S
                except SextetError as error:
                    self._complain(f"the retention stays as it was: {error}")
        finally:
            await archiver.stop()
            store.close()

    def _now_us(self) -> int:
        return self._runtime.clock.wall_us()

    def _wanted(self) -> tuple[Layout, ClusterSpec]:
        layout = load(self._folder.data)
        if layout is None:
            raise ConfigError(f"{self._folder.data} has no layout any more")
        return layout, layout.cluster(self._cluster)

    async def _opened(self, name: str, spec: ClusterSpec) -> FolderStore | S3Objects:
        while True:
            try:
                return open_store(name)
            except SextetError as error:
                self._complain(f"archiving waits: {error}")
                now_us = self._now_us()
                self._tell(ArchiveState(os.getpid(), now_us, spec.archive, "waiting", str(error)))
            await asyncio.sleep(OPEN_S)

    def _tell(self, state: ArchiveState) -> None:
        try:
            save_archive_state(self._folder, self._cluster, state)
        except OSError as error:  # as on a full disk
            self._complain(f"nobody hears how archiving stands: {error}")

    def _complain(self, trouble: str) -> None:
        """Not once a second."""
        if trouble != self._trouble:
            log.warning("! %s", trouble)
        self._trouble = trouble


def _state_of(archiver: Archiver, now_us: int) -> ArchiveState:
    why = archiver.state.removeprefix(WAITS) if archiver.state.startswith(WAITS) else ""
    return ArchiveState(
        pid=os.getpid(),
        at_us=now_us,
        archive=archiver.archive,
        state="waiting" if why else archiver.state,
        why=why,
        upto=archiver.upto,
        known_us=archiver.known_us,
    )


async def serve(keeper: Keeper, stop: asyncio.Event) -> None:
    """Run until `stop` is set; what ends the work before is raised."""
    work = asyncio.ensure_future(keeper.run())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait({work})
