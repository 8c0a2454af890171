"""Durability points as events of the trace: SCL on storage nodes, PGCL, VCL and PGMRPL on the writer.

They are looked at with every step that their node takes, and told where they have moved, down as well
as up: an ack is sent after the SCL that it speaks of was told, and clients are answered after the PGCL
and VCL that let VDL move. VDL is told by the observer, who hears of each move.
"""

from __future__ import annotations

from cluster.sim.process import Life
from cluster.sim.world import SimProcess, World
from engine.instance.node import Instance
from engine.steps import Step
from engine.storage.node import StorageNode
from engine.types import LSN, PgNo


class Points:
    """Attach before the world starts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[tuple[str, str, PgNo], LSN] = {}
        self._lives: dict[str, Life | None] = {}
        world.on_step.append(self._stepped)

    def _stepped(self, _when: str, _step: Step, process: SimProcess) -> None:
        node, name = process.node, process.name
        if node is None:
            return
        if self._lives.get(name) is not process.life:
            # What a life begins with is told anew: the one before may have known more.
            self._lives[name] = process.life
            self._told = {key: lsn for key, lsn in self._told.items() if key[0] != name}
        if isinstance(node, StorageNode):
            for _, segment in node.state.segments():
                self._tell(name, "scl", segment.durable_scl, segment.pg)
        elif isinstance(node, Instance) and node.writer is not None:
            volume = node.writer.volume
            for pg in volume.memberships:
                self._tell(name, "pgcl", volume.pgcl(pg), pg)
            self._tell(name, "vcl", volume.vcl)
            self._tell(name, "pgmrpl", min(volume.pgmrpl(), volume.vdl.lsn))

    def _tell(self, node: str, kind: str, lsn: LSN, pg: PgNo = -1) -> None:
        key = (node, kind, pg)
        if self._told.get(key) == lsn:
            return
        self._told[key] = lsn
        if pg >= 0:
            self._world.trace.emit(kind, node, group=pg, lsn=lsn)
        else:
            self._world.trace.emit(kind, node, lsn=lsn)
