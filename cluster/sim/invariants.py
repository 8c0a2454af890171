"""Promises of the protocol, checked at the moment at which they are made: on the wire, against the disk.

The checkers judge what clients saw, and that takes a second failure in the right place: an ack that
was a lie costs a commit only once three more copies are gone. Here every ack, fence and truncation that
leaves a storage node is compared with what its medium holds, and with what it has said before. A
promise is broken when it is made, so this sees errors that a thousand runs would forgive.

Kinds
- ack-not-durable (G1): an SCL is told that the node's disk does not hold.
- ack-after-failed-fsync (G1): a life whose fdatasync failed went on to acknowledge.
- ack-after-fence (G3): a node acknowledged redo of an epoch below the one it had told a fence of.
- forgot (G1): a node that does not call itself damaged is without redo that it had acknowledged. If its
  disk has lied, it need not know of more than it had written down beside its log.
- hides-damage (G1): a damaged segment answers a fence as if it had lost nothing.
- fence-not-durable, epoch-forgotten (G3): a fence was answered or is over, and its epoch is not there.
- truncation-not-durable, truncation-forgotten (G2): likewise for a truncation.
- vdl-without-quorum (G1): VDL moved although fewer than four of the six had acknowledged what is new
  below it; of both sixes while a member is being replaced. Who said later that it has less counts as that.
- counts-what-is-lost (G1): a writer goes on counting what a node had acknowledged after it has heard from
  the node that it has less, on a stream on which it says that it counts what it hears.
- sealed-not-durable (G1): a log file was closed that a power loss can still tear. Only the newest may be
  torn: in any other one it looks like damage.
- joined-not-whole (G1): a segment that is to replace another calls itself whole without what had stood
  on a quorum when it began.
- member-not-whole (G1): a segment has taken another's place although it had never been whole: then what
  had stood on four of the six stands on three.
- opened-without-fence, opened-without-truncation, opened-without-redo (G1-G3): a recovery ended although
  fewer than four nodes were fenced, or truncated, or had everything at or below its VDL.
- opened-without-denials (G1): a recovery annulled what follows its VDL although fewer than three of a
  group's six had answered its fence without calling themselves damaged: four others may have held it.
- hole-in-log (G4): a segment that has been started serves read points below its page versions, though its
  log lacks redo between them: a page would be built from an older version over the hole.
- coalesced-above-vdl (G2): page versions hold what was never durable.
- shown-above-vdl (G5): an instance shows its readers a state that is not durable.
- collected-too-far (G5): a segment refuses a read point that the writer or a replica of it holds, unless it
  was chosen in the past: nobody has promised that one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from cluster.sim.checkers import Findings, Violation
from cluster.sim.disk import DiskImage, SimDisk
from cluster.sim.ledger import READ_QUORUM, WRITE_QUORUM, Hearing, Key, Ledger, Said
from cluster.sim.transport import Data, Opening, Status
from cluster.sim.world import SimProcess, World
from engine.instance.node import Instance
from engine.instance.writer import Writer
from engine.net.methods import APPEND, COMMIT_AT, FENCE, GOSSIP, TRUNCATE
from engine.net.pb import control_pb2 as cpb
from engine.net.pb import storage_pb2 as pb
from engine.steps import Step
from engine.storage.node import StorageNode
from engine.storage.segment import Segment
from engine.storage.walfile import Location
from engine.types import LSN, Epoch, Membership, PgNo

READ_AFTER_S = 0.1
"""What was received has been read by then."""


class Invariants:
    """Attach before the world starts; `check` at the end says what was seen."""

    def __init__(self, world: World) -> None:
        self.checks = 0
        self._world = world
        self._findings = Findings("invariants")
        self._methods: dict[int, tuple[str, bytes | None]] = {}  # by wire, as its opener numbers it
        self._epochs: dict[int, Epoch] = {}  # of the writer at the other end, by wire
        self._ledger = Ledger()
        self._fencing: dict[str, Epoch] = {}  # by instance: what it last fenced under
        self._denies: dict[Epoch, dict[tuple[Key, PgNo], bool]] = {}  # what fences were answered
        self._past_fence: set[Epoch] = set()  # the recovery went on with the answers it had
        self._on_disk: dict[tuple[str, PgNo], LSN] = {}  # by life: SCL that was compared
        self._log_checked: set[tuple[str, PgNo]] = set()  # by life
        self._joined: dict[str, LSN] = {}  # where a replica last joined a writer
        self._healed: set[Key] = set()  # was damaged and called itself whole
        self._floor_moved: set[Key] = set()  # by damage or a page copy, in any life so far
        self._past: set[LSN] = set()  # what clients that read the past were given
        self._vdl: LSN = 0
        self._stands: dict[PgNo, LSN] = {}  # what a quorum has acknowledged, by group
        self._stood_once: dict[PgNo, LSN] = {}  # likewise, before somebody said that it has less
        self._hearing = Hearing()
        self._heard: dict[tuple[Key, Epoch, PgNo], float] = {}  # when the writer did
        self._memberships: dict[PgNo, dict[int, Membership]] = {}  # all there were, by epoch
        self._owed: dict[tuple[Key, PgNo, int], LSN] = {}  # by who joins: what stood when it began
        self._whole: set[tuple[Key, PgNo, int]] = set()  # who joined and has it all
        self._creating: dict[str, dict[PgNo, LSN]] = {}  # what stood when a node made a segment
        world.on_wire.append(self._wire)
        world.on_step.append(self._step)
        world.on_writer.append(self._opened)

    def check(self) -> list[Violation]:
        return self._findings.found

    def _add(self, kind: str, node: str, message: str, *lsns: LSN) -> None:
        now = self._world.loop.time()
        self._findings.add(kind, f"{node} {message}", lsns=lsns, nodes=(node,), at=now)

    # -- the wire

    def _wire(self, kind: str, event: dict[str, Any]) -> None:
        item, number = event["item"], event["wire"]
        if isinstance(item, Opening):
            if kind == "send":
                self._methods[number] = (item.method, item.request)
                if item.method == FENCE.path and item.request is not None:
                    asked = pb.FenceRequest.FromString(item.request).epoch
                    self._fencing[event["host"]] = asked
            return
        # The end that accepted a wire has the number after the opener's.
        method, request = self._methods.get(number - 1, ("", None))
        if isinstance(item, Status):
            if kind == "send":
                self._methods.pop(number - 1, None)
                self._hearing.over(number - 1)
            return
        if isinstance(item, Data) and self._methods.get(number, ("", None))[0] == APPEND.path:
            self._writer_end(kind, number, item.body)
        if not isinstance(item, Data) or not method:
            return
        if method == COMMIT_AT.path and kind == "send":
            self._past.add(cpb.CommitAtReply.FromString(item.body).commit.lsn)
        process = self._world.processes.get(event["host"])
        if process is None or process.kind != "storage" or process.node is None:
            return
        if kind == "recv":
            if method == APPEND.path and number not in self._epochs:
                self._epochs[number] = pb.AppendRequest.FromString(item.body).epoch
            return
        self._sent(process, method, request, number, item.body)

    def _sent(
        self, process: SimProcess, method: str, request: bytes | None, wire: int, body: bytes
    ) -> None:
        if method == APPEND.path:
            self._append_ack(process, pb.AppendAck.FromString(body), wire)
        elif method == FENCE.path and request is not None:
            epoch = pb.FenceRequest.FromString(request).epoch
            self._fence_reply(process, pb.FenceReply.FromString(body), epoch)
        elif method == TRUNCATE.path and request is not None:
            asked = pb.TruncateRequest.FromString(request)
            self._truncate_reply(process, pb.TruncateReply.FromString(body), asked)
        elif method == GOSSIP.path:
            self._gossip_reply(process, pb.GossipReply.FromString(body))

    def _append_ack(self, process: SimProcess, ack: pb.AppendAck, wire: int) -> None:
        epoch = self._epochs.get(wire, 0)
        if ack.refusal != pb.REFUSAL_NONE:
            self._hearing.answered(wire - 1)
            return
        disk = process.node.state.runtime.disk
        if isinstance(disk, SimDisk) and disk.failed_syncs:
            self._add("ack-after-failed-fsync", process.name, "acknowledged after a failed fsync")
        less = []
        for said in ack.segments:
            segment = self._find(process, said.pg)
            if segment is None:
                continue
            self.checks += 1
            told = self._of(process, segment)
            if epoch < told.fenced:
                self._add(
                    "ack-after-fence",
                    process.name,
                    f"acknowledged redo of epoch {epoch}, fenced at {told.fenced}",
                    said.scl,
                )
            self._durable(process, segment, said.scl)
            if not segment.row.damaged:  # an ack does not say
                self._remembers(process, segment, said.scl)
            if said.scl < told.claims.get(epoch, 0):
                less.append(((process.name, segment.row.incarnation), epoch, said.pg))
            told.claim(epoch, said.scl, said.membership_epoch)
        self._hearing.answered(wire - 1, less)

    def _writer_end(self, kind: str, wire: int, body: bytes) -> None:
        """A writer hears, on a wire that it has opened, that the node has less than it had said.

        What stood on a quorum until now may be below VDL or come to be later.
        """
        if kind == "recv":
            less = self._hearing.received(wire)
        elif not self._hearing.counts(wire) and pb.AppendRequest.FromString(body).heard:
            less = self._hearing.begins(wire)
        else:
            return
        for key, epoch, pg in less:
            for membership in self._memberships.get(pg, {}).values():
                stood = self._stood(membership)
                self._stood_once[pg] = max(stood, self._stood_once.get(pg, 0))
            self._ledger.of(*key, pg).heard(epoch)
            self._heard[key, epoch, pg] = self._world.loop.time()

    def _fence_reply(self, process: SimProcess, reply: pb.FenceReply, epoch: Epoch) -> None:
        authority = max((t.epoch for t in reply.truncations), default=0)
        for said in reply.segments:
            segment = self._find(process, said.pg)
            if segment is None:
                continue
            self.checks += 1
            told = self._ledger.of(process.name, said.incarnation, said.pg)
            if epoch not in self._past_fence:
                who = (process.name, said.incarnation), said.pg
                self._denies.setdefault(epoch, {})[who] = not said.damaged
            if self._medium(process, segment)[0] < epoch:
                self._add("fence-not-durable", process.name, f"is fenced at {epoch} in memory only")
            if said.damaged < segment.row.damaged:
                self._add("hides-damage", process.name, f"denies to have lost of group {said.pg}")
            if said.epoch < told.fenced:
                self._add("epoch-forgotten", process.name, f"is at {said.epoch}, was {told.fenced}")
            if authority < told.authority:
                self._add(
                    "truncation-forgotten",
                    process.name,
                    f"knows epoch {authority}'s truncation, knew that of epoch {told.authority}",
                )
            self._durable(process, segment, said.scl)
            if not said.damaged:
                self._remembers(process, segment, said.scl, told)
            told.fenced = max(told.fenced, epoch)

    def _truncate_reply(
        self, process: SimProcess, reply: pb.TruncateReply, asked: pb.TruncateRequest
    ) -> None:
        for said in reply.segments:
            segment = self._find(process, said.pg)
            if segment is None:
                continue
            self.checks += 1
            told = self._of(process, segment)
            if {(t.epoch, t.low, t.high) for t in asked.truncations} - self._medium(
                process, segment
            )[1]:
                self._add(
                    "truncation-not-durable",
                    process.name,
                    f"has epoch {asked.epoch}'s truncation in memory only",
                )
            self._durable(process, segment, said.scl)
            told.claim(asked.epoch, said.scl, segment.row.membership.epoch)
            told.truncated = max(told.truncated, asked.epoch)
            told.authority = max([told.authority, *(t.epoch for t in asked.truncations)])

    def _gossip_reply(self, process: SimProcess, reply: pb.GossipReply) -> None:
        epochs = {said.volume: said.epoch for said in reply.volumes}
        authority = max((t.epoch for v in reply.volumes for t in v.truncations), default=0)
        for said in reply.segments:
            segment = self._find(process, said.pg)
            if segment is None:
                continue
            self.checks += 1
            told = self._of(process, segment)
            if epochs.get(said.volume, 0) < told.fenced:
                self._add(
                    "epoch-forgotten",
                    process.name,
                    f"is at {epochs.get(said.volume, 0)}, was fenced at {told.fenced}",
                )
            if authority < told.authority:
                self._add(
                    "truncation-forgotten",
                    process.name,
                    f"knows epoch {authority}'s truncation, knew that of epoch {told.authority}",
                )
            if not said.damaged:
                self._remembers(process, segment, said.scl)

    # -- what a node says against what it has, and has said

    def _find(self, process: SimProcess, pg: PgNo) -> Segment | None:
        for volume in process.node.state.volumes.values():
            found: Segment | None = volume.segments.get(pg)
            if found is not None:
                return found
        return None

    def _of(self, process: SimProcess, segment: Segment) -> Said:
        return self._ledger.of(process.name, segment.row.incarnation, segment.pg)

    def _medium(
        self, process: SimProcess, segment: Segment
    ) -> tuple[Epoch, set[tuple[Epoch, LSN, LSN]]]:
        """The epoch and the truncations that a restart would find."""
        row = process.memory.row(segment.row.id)
        ranges = process.memory.ranges(segment.row.id.volume)
        return row.epoch if row is not None else 0, {(t.epoch, t.low, t.high) for t in ranges}

    def _no_hole(self, process: SimProcess, segment: Segment) -> None:
        """Once a life: from the floor on, what was read back chains up to what page versions hold."""
        life = f"{process.life!r}", segment.pg
        if life in self._log_checked:
            return
        self._log_checked.add(life)
        self.checks += 1
        reached = segment.floor
        for ref in segment.frames:
            if ref.last <= reached:
                continue
            if ref.prev > reached or reached >= segment.applied:
                break
            reached = ref.last
        if reached < segment.applied:
            self._add(
                "hole-in-log",
                process.name,
                f"serves group {segment.pg} from {segment.floor} on, has pages as of"
                f" {segment.applied} and between them redo up to {reached} only",
                segment.floor,
                segment.applied,
            )

    def _durable(self, process: SimProcess, segment: Segment, scl: LSN) -> None:
        """Every frame up to `scl` is on the medium, as far as the disk itself knows."""
        if process.node.state.counters["scrub_found"]:
            return  # a frame under repair is there twice: durable and rotten, good and on its way
        life = f"{process.life!r}"
        known = self._on_disk.get((life, segment.pg), 0)
        if scl <= known:
            return
        self._on_disk[life, segment.pg] = scl
        end = bisect_right(segment.frames, scl, key=lambda f: f.first)
        for ref in reversed(segment.frames[:end]):
            if ref.last <= known:
                return
            if ref.last <= scl and not _holds(process.image, ref.location):
                self._add(
                    "ack-not-durable",
                    process.name,
                    f"told SCL {scl} of group {segment.pg}, but its disk has not got"
                    f" {ref.first}..{ref.last}",
                    scl,
                )
                return

    def _remembers(
        self, process: SimProcess, segment: Segment, scl: LSN, told: Said | None = None
    ) -> None:
        told = told or self._of(process, segment)
        self._no_hole(process, segment)
        self._note_written(process, segment, told)
        truncations = process.node.state.volumes[segment.row.id.volume].truncations
        owed = told.reached(truncations)
        if process.image.lies or process.image.blind_cuts:  # it need not see through its disk
            owed = min(owed, told.must_miss(truncations))
        if scl < owed and (process.name, segment.row.incarnation) in self._healed:
            owed = min(owed, self._counted(segment.pg, lambda s: s.reached(truncations)))
        if scl < owed:
            self._add(
                "forgot",
                process.name,
                f"is at {scl} of group {segment.pg} and says nothing of damage, but acknowledged"
                f" {owed}",
                scl,
                owed,
            )

    def _note_written(self, process: SimProcess, segment: Segment, told: Said) -> None:
        row = process.memory.row(segment.row.id)
        if row is not None and row.incarnation == segment.row.incarnation:
            told.write_down(row.epoch, row.scl)

    def _counted(self, pg: PgNo, value: Callable[[Said], LSN]) -> LSN:
        """The highest `value` that a write quorum has reached, of the members at any time."""
        return max(
            (
                min(self._ledger.counted_by(pg, six, value) for six in both(membership))
                for membership in self._memberships.get(pg, {}).values()
            ),
            default=0,
        )

    # -- steps

    def _step(self, when: str, step: Step, process: SimProcess) -> None:
        node = process.node
        if isinstance(node, StorageNode):
            if process.name in self._creating:
                self._joins(process, node, self._creating.pop(process.name))
            if step is Step.WHOLE and when == "after":
                self._joined_whole(process, node)
            elif step in (Step.CREATE, Step.MEMBERS) and when == "after":
                self._joins(process, node, self._stands)
                if step is Step.CREATE:  # the node shows the segment only after the step
                    self._creating[process.name] = dict(self._stands)
            elif step is Step.DROP and when == "before":
                kept = {segment.pg for _, segment in node.state.segments()}
                self._ledger.forget((process.name, node.state.incarnation), kept)
            if node.state.counters["segments_made_whole"]:
                for _, segment in node.state.segments():
                    self._healed.add((process.name, segment.row.incarnation))
            counters = node.state.counters
            if step is Step.COPY or counters["scrub_found"] or counters["segments_copied"]:
                for _, segment in node.state.segments():
                    self._floor_moved.add((process.name, segment.row.incarnation))
            if when == "after" and step is Step.COALESCE:
                self._coalesced(process, node)
            elif when == "after" and step is Step.COLLECT:
                self._collected(process, node)
            elif when == "after" and step is Step.SEAL:
                self._sealed(process, node)
        elif step is Step.COMMIT_CHANGE and when == "before":
            for storage in self._world.storage:
                if storage.up and storage.node is not None:
                    self._joined_whole(storage, storage.node)
        elif isinstance(node, Instance):
            if step is Step.FENCED and when == "after":
                self._past_fence.add(self._fencing.get(process.name, 0))
            if step is Step.DURABLE and when == "before" and node.writer is not None:
                self._moved(process, node.writer)
            elif step is Step.JOIN and when == "after" and node.pool is not None:
                self._joined[process.name] = node.pool.visible.lsn
            elif step is Step.APPLY and when == "after" and node.pool is not None:
                self.checks += 1
                shown = node.pool.visible.lsn
                if shown > self._vdl:
                    message = f"shows {shown}, no VDL is above {self._vdl}"
                    self._add("shown-above-vdl", process.name, message, shown)

    def _joins(self, process: SimProcess, node: StorageNode, stood: dict[PgNo, LSN]) -> None:
        """From the moment at which it is told of it, whoever joins owes what stood on a quorum before."""
        for _, segment in node.state.segments():
            membership = segment.row.membership
            self._memberships.setdefault(segment.pg, {})[membership.epoch] = membership
            change = segment.row.membership.replacing
            if change is not None and change.new.node == process.name:
                self._owed.setdefault(_joining(process, segment), stood.get(segment.pg, 0))
            self._took_its_place(segment.pg, membership)

    def _sealed(self, process: SimProcess, node: StorageNode) -> None:
        self.checks += 1
        closed = node.state.wal.files[-2]
        file = process.image.files[f"wal/{closed:08d}.wal"]
        left = len(file.data) - file.durable
        if left:
            message = f"closed log file {closed}, of which {left} bytes are not durable"
            self._add("sealed-not-durable", process.name, message)

    def _took_its_place(self, pg: PgNo, membership: Membership) -> None:
        """Who was to replace a member one epoch before, and is one now, had been whole in between."""
        before = self._memberships[pg].get(membership.epoch - 1)
        change = before.replacing if before is not None else None
        if change is None:
            return
        new = change.new.node, change.new.incarnation
        if new not in [(m.node, m.incarnation) for m in membership.members]:
            return  # it was given up
        self.checks += 1
        if (new, pg, membership.epoch - 1) not in self._whole:
            message = f"keeps group {pg} in {change.old.node}'s place and has never been whole"
            self._add("member-not-whole", change.new.node, message)

    def _joined_whole(self, process: SimProcess, node: StorageNode) -> None:
        """What calls itself whole has what it owes, when it says so and when the catalog believes it."""
        for _, segment in node.state.segments():
            change = segment.row.membership.replacing
            if segment.row.damaged or change is None or change.new.node != process.name:
                continue
            self.checks += 1
            self._whole.add(_joining(process, segment))
            owed = self._owed.get(_joining(process, segment), 0)
            if segment.scl < owed:
                self._add(
                    "joined-not-whole",
                    process.name,
                    f"calls itself whole at {segment.scl} of group {segment.pg}; {owed} stood on a"
                    " quorum before it was to join",
                    segment.scl,
                    owed,
                )

    def _moved(self, process: SimProcess, writer: Writer) -> None:
        volume = writer.volume
        self._vdl = max(self._vdl, volume.vdl.lsn)
        for pg, membership in volume.memberships.items():
            self.checks += 1
            self._counts_no_more(process, writer, membership)
            tail = volume.tails.at(pg, volume.vdl.lsn)
            if tail <= self._stands.get(pg, 0):
                continue  # it stood on a quorum once, perhaps of other members
            reached = max(self._stood(membership), self._stood_once.get(pg, 0))
            if tail > reached:
                self._add(
                    "vdl-without-quorum",
                    process.name,
                    f"has VDL {volume.vdl.lsn}; in group {pg} four members acknowledged {reached},"
                    f" not {tail}",
                    volume.vdl.lsn,
                )
            self._stands[pg] = tail

    def _counts_no_more(self, process: SimProcess, writer: Writer, membership: Membership) -> None:
        """Of who said that it has less, no more than it has said since; once that was not only received."""
        epoch, pg = writer.volume.epoch, membership.pg
        for key in sorted({key for six in both(membership) for key in six}):
            at = self._heard.get((key, epoch, pg))
            if at is None or self._world.loop.time() - at < READ_AFTER_S:
                continue
            counted = writer.volume.scls(pg).get(key[0], 0)
            said = self._ledger.of(*key, pg).claims.get(epoch, 0)
            if counted > said:
                message = f"counts {key[0]} up to {counted} of group {pg}, which has said {said}"
                self._add("counts-what-is-lost", process.name, message, said, counted)

    def _stood(self, membership: Membership) -> LSN:
        """What a write quorum has acknowledged, of these members or of those before them at their time.

        A group may have reached its tail long before another one lets VDL move, and may have got a new
        member meanwhile that has yet to catch up.
        """

        def counted(known: Membership) -> LSN:
            return min(self._ledger.acked_by(known.pg, six, known.epoch) for six in both(known))

        earlier = self._memberships.get(membership.pg, {}).values()
        return max(
            counted(known) for known in (membership, *earlier) if known.epoch <= membership.epoch
        )

    def _opened(self, process: SimProcess, writer: Writer) -> None:
        volume = writer.volume
        opened = volume.opened
        self._vdl = max(self._vdl, opened.vdl.lsn)
        # Members as they were for the recovery. A change that began or was given up during it is news to
        # the writer, and a segment that is dropped now did count when it answered.
        for membership in opened.memberships:
            pg = membership.pg
            self.checks += 1
            told = [[self._ledger.told_once(*key, pg) for key in six] for six in both(membership)]
            fenced = min(sum(t.fenced >= volume.epoch for t in six) for six in told)
            truncated = min(sum(t.truncated >= volume.epoch for t in six) for six in told)
            tail = opened.tails.get(pg, 0)
            hard = min(sum(t.reached(opened.truncations) >= tail for t in six) for six in told)
            self._stands[pg] = max(tail, self._stands.get(pg, 0))
            for count, kind, what in (
                (fenced, "opened-without-fence", "are fenced"),
                (truncated, "opened-without-truncation", "are truncated"),
                (hard, "opened-without-redo", f"have redo up to {tail}"),
            ):
                if count < WRITE_QUORUM:
                    message = f"opened epoch {volume.epoch}: {count} nodes of group {pg} {what}"
                    self._add(kind, process.name, message, opened.vdl.lsn)
            self._denied(process, membership, volume.epoch, opened.vdl.lsn)

    def _denied(self, process: SimProcess, membership: Membership, epoch: Epoch, vdl: LSN) -> None:
        """What was acknowledged stood on four of either six, so three of one are enough to deny it.
        Whether anything follows VDL nobody can know who did not hear those three."""
        if epoch == 1:
            return  # nobody wrote before
        said = self._denies.get(epoch, {})
        count = max(
            sum(said.get((key, membership.pg), False) for key in six) for six in both(membership)
        )
        if count < READ_QUORUM:
            self._add(
                "opened-without-denials",
                process.name,
                f"opened epoch {epoch} and annulled what follows {vdl}: {count} undamaged nodes of"
                f" group {membership.pg} deny that they held it",
                vdl,
            )

    def _coalesced(self, process: SimProcess, node: StorageNode) -> None:
        for _, segment in node.state.segments():
            self.checks += 1
            self._note_written(process, segment, self._of(process, segment))
            if segment.applied > self._vdl:
                message = f"has page versions as of {segment.applied}, no VDL is above {self._vdl}"
                self._add("coalesced-above-vdl", process.name, message, segment.applied)

    def _collected(self, process: SimProcess, node: StorageNode) -> None:
        writer = self._newest_writer()
        if writer is None:
            return
        held = {"the writer": writer.pool.min_pinned()}
        for report in writer.feed.reports():
            reader = self._world.processes[report.instance].node
            if reader is None or reader.replica is None or not reader.replica.connected:
                continue
            # What a replica holds from before it was away is kept for a while only.
            if report.min_read_lsn >= self._joined.get(report.instance, 0):
                held[report.instance] = report.min_read_lsn
        for volume, segment in node.state.segments():
            self.checks += 1
            if (process.name, segment.row.incarnation) in self._floor_moved:
                continue  # others serve those readers
            for who, lsn in held.items():
                if lsn in self._past:
                    continue  # it may have been let go of already when it was pinned
                if volume.epoch == writer.volume.epoch and segment.floor > lsn:
                    message = f"refuses reads below {segment.floor}, {who} holds {lsn}"
                    self._add("collected-too-far", process.name, message, segment.floor, lsn)

    def _newest_writer(self) -> Writer | None:
        open_now = [
            p.node.writer
            for p in self._world.instances
            if p.up and p.node is not None and p.node.writer is not None
        ]
        return max(open_now, key=lambda w: w.volume.epoch, default=None)


def _joining(process: SimProcess, segment: Segment) -> tuple[Key, PgNo, int]:
    return (process.name, segment.row.incarnation), segment.pg, segment.row.membership.epoch


def both(membership: Membership) -> list[list[Key]]:
    """The six, and while one is being replaced the six afterwards as well, each one life of a disk.
    Worked out anew here: what the code makes of it may be what is wrong."""
    before = [(m.node, m.incarnation) for m in membership.members]
    change = membership.replacing
    if change is None:
        return [before]
    old, new = change.old, change.new
    gone = (old.node, old.incarnation)
    return [before, [(new.node, new.incarnation) if key == gone else key for key in before]]


def _holds(image: DiskImage, place: Location) -> bool:
    """Whether the medium has the bytes, or the disk has lied, or the log file is collected."""
    file = image.files.get(f"wal/{place.file:08d}.wal")
    if file is None:
        return True
    end = place.offset + place.length
    doomed = any(a < end and place.offset < b for a, b in file.doomed)
    return file.durable >= end and (not doomed or image.lies > 0)
