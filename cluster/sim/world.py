"""A whole cluster in one process, on one virtual clock, from one seed.

The processes are the real ones: the code of storage nodes, instances and the control plane, over the
ports. Only the bindings differ, and what is around them: the supervisor is a method here, the endpoint
an object that watches the catalog's view and picks instances as the real one does.

Everything random comes from generators named after who uses them, so that a change of one node's luck
does not change another's, and a fault schedule can be shortened without becoming another story.
"""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from cluster.control.catalog import Catalog
from cluster.control.repairing import RepairConfig
from cluster.control.service import ControlPlane
from cluster.local.layout import (
    AZS,
    STORAGE_PER_AZ,
    ClusterSpec,
    InstanceSpec,
    Layout,
    StorageSpec,
    address,
)
from cluster.sim.database import Medium, SimDatabase
from cluster.sim.disk import DiskImage, SimDisk
from cluster.sim.endpoint import SimEndpoint
from cluster.sim.loop import SimLoop
from cluster.sim.network import Network
from cluster.sim.objects import STORE, Bucket, SimObjects, Way
from cluster.sim.pagestore import SimPageStore
from cluster.sim.process import Life, ProcessDied
from cluster.sim.sqlwire import sql_address, sql_handlers
from cluster.sim.trace import Trace
from cluster.sim.transport import Data, Opening, SimTransport, Status, crc
from engine.archive.archiver import ArchiveConfig, Archiver
from engine.config import InstanceConfig, VolumeConfig
from engine.errors import SextetError
from engine.instance.node import Instance, InstanceIdentity
from engine.instance.writer import Writer
from engine.net.disk import NoDisk
from engine.ports import Disk, Runtime, Transport
from engine.sql.settings import SqlSettings
from engine.steps import Mark, Step
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore_memory import MemoryPageStore
from engine.volume.geometry import resize_groups

CLUSTER = "main"
ARCHIVER = "archive-main"
"""Others are called so with a number, from -2 on."""
ERRORS_MAX = 20
WALL_START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z: where every simulated wall clock begins."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a world consists of, and how its nodes are tuned."""

    replicas: int = 2
    spares: int = 0
    """Storage nodes beyond six, one AZ after the other."""
    group_pages: int = 64
    """Pages of a protection group: few, so that a run has several of them."""
    max_pages: int = 16 * 64
    storage: StorageConfig = field(
        default_factory=lambda: StorageConfig(
            wal_file_bytes=64 * 1024,
            frame_cache_bytes=64 * 1024,
            gossip_s=0.25,
            coalesce_s=0.4,
            coalesce_bytes=16 * 1024,
            coalesce_rounds=3,
            coalesce_busy_rounds=3,
            coalesce_pages_per_batch=8,
            scrub_s=1.0,
            scrub_items=64,
            scrub_pass_s=0.1,  # that is, not at all: a pass takes two pauses
        )
    )
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    instance: InstanceConfig = field(default_factory=lambda: InstanceConfig(pool_pages=64))
    repair: RepairConfig = field(
        default_factory=lambda: RepairConfig(check_s=0.4, busy_s=0.1, gone_s=10.0)
    )
    archive: bool = False
    """The log is archived to a simulated bucket, and restores are compared with what was committed."""
    archivers: int = 1
    """So many at once, if there is an archive; one is enough, and more must do no harm."""
    archiver: ArchiveConfig = field(
        default_factory=lambda: ArchiveConfig(
            round_s=0.3,
            chunk_bytes_max=16 * 1024,
            idle_s=2.0,
            base_bytes_min=12 * 1024,
            base_volume_share=0.4,
        )
    )
    sql: SqlSettings = field(default_factory=lambda: SqlSettings(statement_timeout_s=5.0))


class SimClock:
    """Clock port: virtual time, and a wall clock that a fault may move."""

    def __init__(self, loop: SimLoop, process: SimProcess) -> None:
        self._loop = loop
        self._process = process

    def monotonic(self) -> float:
        return self._loop.time()

    def wall_us(self) -> int:
        return WALL_START_US + int(self._loop.time() * 1e6) + self._process.skew_us


class SimProcess:
    """One process and what outlives it: its disk, its place, its clock's error."""

    def __init__(self, world: World, name: str, kind: str, az: str) -> None:
        self.name = name
        self.kind = kind
        self.az = az
        self.skew_us = 0
        self.life: Life | None = None
        self.lives = 0
        self.held_down = False
        """A fault wants it dead for now: the supervisor waits."""
        self.image = DiskImage(name, world.rng(f"disk {name}"))
        self.memory = MemoryPageStore()
        self.database = Medium()
        self.node: Any = None
        """The real object of the running life: StorageNode, Instance or ControlPlane."""

    @property
    def up(self) -> bool:
        return self.life is not None and self.life.alive

    @property
    def paused(self) -> bool:
        return self.up and self.life is not None and not self.life.runs


class _Hook:
    """Steps port of one life."""

    def __init__(self, world: World, process: SimProcess, life: Life) -> None:
        self._world = world
        self._process = process
        self._life = life

    def before(self, step: Step) -> None:
        self._world.step("before", step, self._process, self._life)

    def after(self, step: Step) -> None:
        self._world.step("after", step, self._process, self._life)

    def mark(self, mark: Mark) -> None:
        self._world.mark(mark, self._process.name)


OnStep = Callable[[str, Step, SimProcess], None]
"""Told of each step ("before" or "after"); may kill or pause the process or raise."""


class World:
    """`await start()` inside `loop`; then faults, clients, `heal`. Ends with `close`."""

    def __init__(
        self, seed: int | str, shape: Shape | None = None, *, out: IO[str] | None = None
    ) -> None:
        self.seed = seed
        self.shape = shape or Shape()
        self.cluster = CLUSTER
        self.loop = SimLoop()  # type: ignore[abstract]
        self.loop.on_error = self._loop_error
        self.trace = Trace(self.loop.time, out)
        self.network = Network(self.rng("network"), self._on_wire)
        self.processes: dict[str, SimProcess] = {}
        self.marks: dict[Mark, int] = {}
        self.steps: dict[tuple[str, Step], int] = {}
        self.on_step: list[OnStep] = []
        self.errors: list[str] = []
        """What must never happen, once each: exceptions that are nobody's, or that are no SextetError and
        that node code let out of a task or a handler. The first ERRORS_MAX."""
        self.client_hosts: list[str] = []
        self.on_writer: list[Callable[[SimProcess, Writer], None]] = []
        """Called with each writer that has opened the volume, before it serves anybody."""
        self.epoch_open = 0
        """The highest volume epoch that a writer has opened."""
        self.on_wire: list[Callable[[str, dict[str, Any]], None]] = []
        """Called with each "send" and "recv" of the network, in its moment."""
        self.restart_s = 0.15
        resize_groups(self.shape.group_pages)
        self.layout = self._make_layout()
        self.lives: list[Life] = []
        self._supervising = True
        self._supervisor_rng = self.rng("supervisor")
        self._boots: dict[str, Callable[[SimProcess, Life, Runtime], Any]] = {
            "control": self._boot_control,
            "storage": self._boot_storage,
            "instance": self._boot_instance,
            "archiver": self._boot_archiver,
        }
        self._add("control", "control", AZS[0])
        for spec in self.layout.storage:
            self._add(spec.name, "storage", spec.az)
            self.network.place(address(spec.port), spec.name)
        for instance in self.layout.clusters[0].instances:
            self._add(instance.name, "instance", instance.az)
            self.network.place(address(instance.port), instance.name)
            for writer in (False, True):
                self.network.place(sql_address(instance.name, writer=writer), instance.name)
        self.network.place(self.layout.control_address, "control")
        self.bucket: Bucket | None = None
        self.store: SimProcess | None = None
        """The object store as a target of faults; it is no process of ours."""
        if self.shape.archive:
            self.bucket = Bucket(self.rng("bucket"))
            self.store = SimProcess(self, STORE, STORE, "")
            self.store.image = self.bucket.image
            for n in range(max(1, self.shape.archivers)):
                name = ARCHIVER if n == 0 else f"{ARCHIVER}-{n + 1}"
                self._add(name, "archiver", AZS[(n + 1) % len(AZS)])
        self.endpoint = SimEndpoint(self)

    def client_host(self, name: str) -> SimTransport:
        """A host for a client, with a life of its own that no fault ends."""
        self.client_hosts.append(name)
        return SimTransport(self.network, name, self.new_life(name, 1))

    def new_life(self, name: str, number: int) -> Life:
        """A new life, whose bugs are noted."""
        life = Life(self.loop, name, number)
        life.on_error.append(partial(self.note_error, name))
        self.lives.append(life)
        return life

    def rng(self, name: str) -> random.Random:
        """A generator of its own for `name`, the same for the same seed."""
        return random.Random(f"{self.seed}/{name}")

    def _add(self, name: str, kind: str, az: str) -> None:
        self.processes[name] = SimProcess(self, name, kind, az)

    def _make_layout(self) -> Layout:
        storage = tuple(
            StorageSpec(f"storage-{n + 1}", AZS[n // STORAGE_PER_AZ], 7001 + n)
            for n in range(STORAGE_PER_AZ * len(AZS))
        )
        first = len(storage)
        storage += tuple(
            StorageSpec(f"storage-{first + n + 1}", AZS[n % len(AZS)], 7001 + first + n)
            for n in range(self.shape.spares)
        )
        instances = tuple(
            InstanceSpec(f"{CLUSTER}-{n + 1}", n + 1, AZS[n % len(AZS)], 7101 + n)
            for n in range(1 + self.shape.replicas)
        )
        size = self.shape.max_pages * 4096
        return Layout(7000, storage, (ClusterSpec(CLUSTER, 7200, 7201, size, instances),))

    # -- who there is

    def named(self, kind: str) -> list[SimProcess]:
        return [p for p in self.processes.values() if p.kind == kind]

    @property
    def storage(self) -> list[SimProcess]:
        return self.named("storage")

    @property
    def instances(self) -> list[SimProcess]:
        return self.named("instance")

    @property
    def archivers(self) -> list[SimProcess]:
        return self.named("archiver")

    @property
    def control(self) -> SimProcess:
        return self.processes["control"]

    def writer(self) -> SimProcess | None:
        """The instance that the catalog names, as the endpoint knows it."""
        name = self.endpoint.writer
        return self.processes.get(name)

    # -- life and death

    async def start(self) -> None:
        """Boot everything. Clients may come at once; they are refused until somebody serves them."""
        for process in self.processes.values():
            self.boot(process)
        self.endpoint.start()

    def boot(self, process: SimProcess) -> None:
        """A new life of `process`, as its supervisor begins one."""
        if process.up:
            return
        process.lives += 1
        life = process.life = self.new_life(process.name, process.lives)
        life.on_death.append(lambda: self._died(process, life))
        self.trace.emit("start", process.name, life=life.number)
        runtime = Runtime(
            clock=SimClock(self.loop, process),
            disk=SimDisk(process.image, life)
            if process.kind == "storage"
            else cast(Disk, NoDisk()),
            transport=cast(Transport, SimTransport(self.network, process.name, life)),
            rng=self.rng(f"{process.name} life {life.number}"),
            stop_node=life.end,
            steps=_Hook(self, process, life),
        )
        life.spawn(self._live(process, life, runtime), name=f"main of {process.name}")

    async def _live(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        try:
            await self._boots[process.kind](process, life, runtime)
        except SextetError as error:
            life.die(f"cannot go on: {type(error).__name__}: {error}")
        except Exception as error:
            self.note_error(process.name, "starting", error)
            logging.getLogger(__name__).exception("%s failed", process.name)
            life.die(f"failed: {type(error).__name__}: {error}")

    def _died(self, process: SimProcess, life: Life) -> None:
        self.trace.emit("die", process.name, reason=life.reason)
        self.network.died(process.name, life)
        process.node = None
        if self._supervising:
            delay = self.restart_s * (0.5 + self._supervisor_rng.random())
            self.loop.call_later(delay, self._restart, process, context=self.network.context)

    def _restart(self, process: SimProcess) -> None:
        if self._supervising and not process.held_down and not process.up:
            self.boot(process)

    def kill(self, process: SimProcess, reason: str = "killed", *, power: bool = False) -> None:
        """End it now; with `power`, its disk loses what was not durable."""
        if process.life is not None:
            process.life.die(reason)
        if power:
            process.image.lose_power()

    def pause(self, process: SimProcess) -> None:
        if process.up and process.life is not None:
            process.life.pause()
            self.network.silence(process.name)

    def resume(self, process: SimProcess) -> None:
        if process.life is not None:
            process.life.resume()
        self.network.unsilence(process.name)

    def wipe(self, process: SimProcess) -> None:
        """Its disk is another one: everything on it is gone."""
        self.kill(process, "its disk was replaced")
        process.image.wipe()
        process.memory = MemoryPageStore()

    # -- what runs in a process

    async def _boot_storage(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        store = SimPageStore(process.memory, process.image, self.rng(f"store {life!r}"), life)
        node = StorageNode(
            runtime,
            name=process.name,
            az=process.az,
            store=store,
            config=replace(self.shape.storage, archived=self.shape.archive),
        )
        await node.open()
        port = self.layout.storage_node(process.name).port
        server = await runtime.transport.serve(address(port), node.handlers)
        process.node = node
        node.start()
        node.register_with(self.layout.control_address, address=server.address)

    async def _boot_control(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        database = SimDatabase(process.database, self.rng(f"database {life!r}"), life)

        async def connect(_path: Path) -> Any:
            return database

        catalog = await Catalog.open(Path("catalog"), connect=connect)
        control = ControlPlane(
            runtime, catalog, layout=lambda: self.layout, repair=self.shape.repair
        )
        await control.start()
        await runtime.transport.serve(self.layout.control_address, control.handlers)
        process.node = control

    async def _boot_instance(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        spec = next(i for i in self.layout.clusters[0].instances if i.name == process.name)
        instance = Instance(
            runtime,
            InstanceIdentity(process.name, CLUSTER, process.az, self.layout.control_address),
            instance_config=self.shape.instance,
            volume_config=self.shape.volume,
            sql_settings=self.shape.sql,
        )
        process.node = instance
        server = await runtime.transport.serve(address(spec.port), instance.handlers)
        await instance.start(server.address)
        await instance.ready.wait()
        for writer in (False, True):
            handlers = sql_handlers(
                lambda: instance.engine,
                lambda: instance.writer.volume.epoch if instance.writer is not None else 0,
                writer=writer,
            )
            await runtime.transport.serve(sql_address(process.name, writer=writer), handlers)

    async def _boot_archiver(self, process: SimProcess, life: Life, runtime: Runtime) -> None:
        assert self.bucket is not None
        archiver = Archiver(
            runtime,
            SimObjects(self.bucket, Way(self.network, process.name, life)),
            cluster=CLUSTER,
            archive=CLUSTER,
            control_address=self.layout.control_address,
            config=self.shape.archiver,
        )
        process.node = archiver
        await archiver.start()

    # -- what is observed

    def step(self, when: str, step: Step, process: SimProcess, life: Life) -> None:
        life.check()
        self.steps[when, step] = self.steps.get((when, step), 0) + 1
        self.trace.emit(when, process.name, step=step.value)
        if when == "after" and step is Step.PROMOTE:
            self._opened(process)
        for listener in self.on_step:
            listener(when, step, process)
        if not life.alive:
            raise ProcessDied(life.reason)

    def _opened(self, process: SimProcess) -> None:
        writer = process.node.writer
        self.epoch_open = max(self.epoch_open, writer.volume.epoch)
        for listener in self.on_writer:
            listener(process, writer)

    def mark(self, mark: Mark, node: str) -> None:
        self.marks[mark] = self.marks.get(mark, 0) + 1
        self.trace.emit("mark", node, mark=mark.value)

    def _on_wire(self, kind: str, event: dict[str, Any]) -> None:
        for listener in self.on_wire:
            listener(kind, event)
        item = event["item"]
        match item:
            case Opening(method=method):
                what = method.rpartition("/")[2]
            case Data():
                what = "data"
            case Status(error=error):
                what = f"status {error or 'ok'}"
            case _:
                what = type(item).__name__.lower()
        other = "to" if kind == "send" else "from"
        fields = {other: event["peer"], "wire": event["wire"], "what": what, "size": event["size"]}
        if kind == "send":
            fields["crc"] = crc(item)
        self.trace.emit(kind, event["host"], **fields)

    def _loop_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, ProcessDied):
            return
        self._note(f"{context.get('message')}: {type(error).__name__}: {error}")

    def note_error(self, node: str, where: str, error: BaseException) -> None:
        """Node code raised what it should never raise."""
        self._note(f"{node}: {where}: {type(error).__name__}: {error}{_raised_at(error)}")

    def _note(self, text: str) -> None:
        if len(self.errors) < ERRORS_MAX and text not in self.errors:
            self.errors.append(text)

    # -- the end

    def close(self) -> None:
        """Unwind everything that is still in the middle of something."""
        self._supervising = False
        for life in self.lives:
            life.bury()
        resize_groups()
        self.loop.close()


def _raised_at(error: BaseException) -> str:
    """The innermost line of code that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
