"""Carrying out the policy: ask, decide, change the layout, tell.

Asks the control plane once a second. While it does not answer nothing is decided: then nobody knows how
many replicas there are. What a life before this one did is not known either, so a cool-down begins with
the start; whatever comes of a decision, a failure too, begins the next one and so bounds the tries.
"""

from __future__ import annotations

import asyncio
import logging

from cluster.autoscale.decide import Add, Remove, Replica, decide
from cluster.autoscale.rates import Rates
from cluster.local import scaling
from cluster.local.folder import Folder
from cluster.local.layout import TIER_MAX, ClusterSpec, Layout, load
from engine.errors import ConfigError, SextetError
from engine.net.methods import CLUSTER_STATUS, RECORD_EVENT
from engine.net.pb import control_pb2 as pb
from engine.ports import Channel, Runtime
from engine.volume.channels import Channels

log = logging.getLogger(__name__)

TICK_S = 1.0
ASK_S = 5.0
TURN_WAIT_S = 2.0
"""Somebody else changes the layout just now; we block our loop meanwhile, so not for long."""


class Autoscaler:
    """One cluster's. `run` until it is cancelled."""

    def __init__(self, runtime: Runtime, folder: Folder, cluster: str) -> None:
        self._clock = runtime.clock
        self._channels = Channels(runtime.transport)
        self._folder = folder
        self._cluster = cluster
        self._rates = Rates()
        self._changed_at = self._clock.monotonic()
        self._count: int | None = None

    async def run(self) -> None:
        trouble = ""
        try:
            while True:
                await asyncio.sleep(TICK_S)
                try:
                    await self._step()
                    trouble = ""
                except SextetError as error:
                    if trouble != str(error):  # not once a second
                        log.warning("! nothing is decided: %s", error)
                    trouble = str(error)
        finally:
            await self._channels.close()

    async def _step(self) -> None:
        layout = load(self._folder.data)
        if layout is None:
            raise ConfigError(f"{self._folder.data} has no layout any more")
        spec = layout.cluster(self._cluster)
        if spec.autoscale is None:
            return  # the supervisor is about to end us
        replicas = self._replicas(spec, await self._status(layout))
        now = self._clock.monotonic()
        if self._count is not None and len(replicas) != self._count:
            self._changed_at = now  # by whomever
        self._count = len(replicas)
        step = decide(spec.autoscale, replicas, now - self._changed_at)
        if step is None:
            return
        try:
            said = await self._take(step, spec)
        except SextetError as error:
            said = f"auto-scaling could not change the number of replicas: {error}"
        finally:
            self._changed_at = self._clock.monotonic()
        log.info("= %s", said)
        request = pb.RecordEventRequest(subject=self._cluster, what=said)
        await self._control(layout).call(RECORD_EVENT, request, timeout=ASK_S)

    def _control(self, layout: Layout) -> Channel:
        return self._channels.to(layout.control_address)

    async def _status(self, layout: Layout) -> pb.ClusterStatusReply:
        request = pb.ClusterStatusRequest(cluster=self._cluster)
        return await self._control(layout).call(CLUSTER_STATUS, request, timeout=ASK_S)

    def _replicas(self, spec: ClusterSpec, status: pb.ClusterStatusReply) -> list[Replica]:
        """Those of the layout that are not the writer; one that the catalog has not yet says nothing."""
        now = self._clock.monotonic()
        auto = {instance.name: instance.auto for instance in spec.instances}
        reports = {report.view.name: report for report in status.instances}
        writing = {
            name
            for name, report in reports.items()
            if "writer" in (report.view.role, report.status.role)
        }
        self._rates.forget_others(set(auto) - writing)
        found = []
        for name in auto:
            report = reports.get(name)
            if report is not None and report.view.role == "writer":
                continue
            said = report.status if report is not None and report.HasField("status") else None
            connections = load_now = None
            if said is not None:
                connections = said.connections
                if name not in writing:
                    load_now = self._rates.note(name, said.pid, said.counters["statements"], now)
            found.append(Replica(name, auto[name], connections, load_now))
        return found

    async def _take(self, step: Add | Remove, spec: ClusterSpec) -> str:
        """What was done. Raises ConfigError and what asking the control plane raises."""
        if isinstance(step, Add):
            new, _ = await scaling.add_instance(
                self._folder,
                self._cluster,
                tier=TIER_MAX,  # whom auto-scaling may remove should be the last to become writer
                size=spec.instances[0].size,
                auto=True,
                wait_s=TURN_WAIT_S,
            )
            return f"auto-scaling adds {new.name}: {step.why}"

        async def allow(layout: Layout) -> None:
            status = await self._status(layout)
            if any(i.name == step.name and i.role == "writer" for i in status.cluster.instances):
                raise ConfigError(f"{step.name} has become the writer")

        await scaling.remove_instance(self._folder, step.name, allow=allow, wait_s=TURN_WAIT_S)
        return f"auto-scaling removes {step.name}: {step.why}"


async def serve(runtime: Runtime, folder: Folder, cluster: str, stop: asyncio.Event) -> None:
    """Run until `stop` is set; what ends the work before is raised."""
    work = asyncio.ensure_future(Autoscaler(runtime, folder, cluster).run())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait({work})
