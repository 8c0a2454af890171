"""The writer role: recover the volume, open the SQL engine over it, feed the replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from engine.config import InstanceConfig, VolumeConfig
from engine.errors import SextetError
from engine.instance.commitpoint import CommitPoint
from engine.instance.feed import Feed
from engine.instance.past import commit_at
from engine.net.methods import GROW_VOLUME, OPEN_VOLUME
from engine.net.pb import control_pb2 as cpb
from engine.ports import Channel, Runtime
from engine.sql.engine import SqlEngine
from engine.sql.pool import BufferPool
from engine.sql.settings import SqlSettings
from engine.tasks import Background, backoff
from engine.types import LSN, Membership, PgNo
from engine.volume.channels import Channels
from engine.volume.fencing import membership_from_pb, open_volume
from engine.volume.leadership import confirm_epoch
from engine.volume.reader import PageReader
from engine.volume.window import HotWindow
from engine.volume.writer import VolumeWriter

log = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 10.0


class Writer:
    """One open writer. Made by `Writer.open`; a fenced one is thrown away, never revived."""

    def __init__(
        self,
        runtime: Runtime,
        volume: VolumeWriter,
        reader: PageReader,
        pool: BufferPool,
        engine: SqlEngine,
        feed: Feed,
        window: HotWindow,
        *,
        volume_config: VolumeConfig,
        connect: Callable[[str], Channel],
        recovery_us: int,
    ) -> None:
        self.volume = volume
        self.reader = reader
        self.pool = pool
        self.engine = engine
        self.feed = feed
        self.recovery_us = recovery_us
        self.commit_point = CommitPoint(runtime, self.confirmed)
        self._runtime = runtime
        self._volume_config = volume_config
        self._connect = connect
        engine.commit_point = self.commit_point
        self._window = window
        volume.pgmrpl = self._pgmrpl
        volume.on_durable.insert(0, pool.set_visible)

    @classmethod
    async def open(
        cls,
        runtime: Runtime,
        *,
        name: str,
        cluster: str,
        az: str,
        control_address: str,
        channels: Channels,
        background: Background,
        instance_config: InstanceConfig,
        volume_config: VolumeConfig,
        sql_settings: SqlSettings,
        on_fenced: Callable[[str], None],
    ) -> Writer:
        """Get a volume epoch, recover, open. Asks the control plane until it answers.

        Raises StaleEpoch, QuorumLost or RecoveryBlocked from recovery.
        """
        reply = await _open_in_catalog(runtime, channels, control_address, cluster, name)
        started = runtime.clock.monotonic()
        opened = await open_volume(runtime, volume_config, reply, connect=channels.to)

        async def grow(pg: PgNo) -> Sequence[Membership]:
            request = cpb.GrowVolumeRequest(cluster=cluster, epoch=opened.epoch, pg=pg)
            grown = await channels.to(control_address).call(
                GROW_VOLUME, request, timeout=CONTROL_TIMEOUT_S
            )
            return [membership_from_pb(m) for m in grown.memberships]

        volume = VolumeWriter(
            runtime,
            volume_config,
            opened,
            connect=channels.to,
            background=background,
            grow=grow,
            on_fenced=on_fenced,
        )
        volume.start()
        reader = PageReader(
            runtime,
            volume_config,
            volume=opened.volume,
            epoch=opened.epoch,
            az=az,
            memberships=volume.memberships,
            tails=volume.tails,
            scls=volume.scls,
            connect=channels.to,
        )
        pool = BufferPool(reader, capacity_pages=instance_config.pool_pages, start=opened.vdl)
        engine = SqlEngine(pool, volume, runtime.clock, runtime.rng, settings=sql_settings)
        engine.commit_at = commit_at(channels, control_address, cluster)
        feed = Feed(runtime, instance_config, volume)
        recovery_us = int((runtime.clock.monotonic() - started) * 1e6)
        log.info(
            "volume open: epoch %d, VDL %d, %d pages, recovery took %.1f ms",
            opened.epoch,
            opened.vdl.lsn,
            opened.vdl.pages,
            recovery_us / 1000,
        )
        return cls(
            runtime,
            volume,
            reader,
            pool,
            engine,
            feed,
            HotWindow(instance_config.hot_window_s, instance_config.hot_window_redo_bytes),
            volume_config=volume_config,
            connect=channels.to,
            recovery_us=recovery_us,
        )

    async def close(self) -> None:
        """End all sessions; the volume's tasks are the instance's to end."""
        await self.engine.close()
        await self.commit_point.close()

    def _pgmrpl(self) -> LSN:
        """Protection group minimum read point LSN: the lowest over all instances (P17 §4.2.3)."""
        volume, now = self.volume, self._runtime.clock.monotonic()
        window = self._window.begins(volume.vdl.lsn, now=now, redo=volume.counters["redo_bytes"])
        replicas = self.feed.min_read_lsn()
        own = min(window, self.pool.min_pinned())
        return own if replicas is None else min(own, replicas)

    async def confirmed(self) -> LSN:
        """VDL, once storage has confirmed that nobody else can have committed before this was called.

        Raises StaleEpoch, QuorumLost.
        """
        volume = self.volume
        await confirm_epoch(
            self._volume_config,
            volume=volume.volume,
            epoch=volume.epoch,
            vdl=volume.vdl.lsn,
            membership=volume.memberships[0],
            connect=self._connect,
        )
        return volume.vdl.lsn

    def counters(self) -> Mapping[str, int]:
        return {**self.volume.counters, **self.reader.counters}


async def _open_in_catalog(
    runtime: Runtime, channels: Channels, address: str, cluster: str, name: str
) -> cpb.OpenVolumeReply:
    """A new volume epoch; without one nobody may write, so this waits as long as it takes."""
    request = cpb.OpenVolumeRequest(cluster=cluster, instance=name)
    for delay in backoff(runtime.rng, 0.05, 1.0):
        try:
            return await channels.to(address).call(OPEN_VOLUME, request, timeout=CONTROL_TIMEOUT_S)
        except SextetError as error:
            log.warning("no volume epoch yet: %s: %s", type(error).__name__, error)
            await asyncio.sleep(delay)
    raise AssertionError("backoff never ends")
