"""The planted bugs. Each is an error that somebody could make, in as few characters as it takes."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant


def _one(name: str, invariant: str, breaks: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(name, breaks, invariant, (Edit(module, old, new),))


STORAGE = (
    _one(
        "ack-before-fsync",
        "G1",
        "acks go out while the fdatasync is still under way",
        "engine.storage.appending",
        "        scls = await self._state.durable_scls(every)\n",
        "        scls = {segment: segment.scl for segment in every}\n"
        "        self._later = asyncio.create_task(self._state.durable_scls(every))\n",
    ),
    _one(
        "scl-noted-after-fsync",
        "G1",
        "an ack covers frames that came during its fdatasync",
        "engine.storage.state",
        "reached[segment] = min(scl, segment.scl)",
        "reached[segment] = segment.scl",
    ),
    Mutant(
        "no-epoch-check-on-append",
        "a fenced writer's redo is taken and acknowledged",
        "G3",
        (
            Edit(
                "engine.storage.appending",
                "        volume.check_serving(request.epoch, node=state.name)\n",
                "        volume.check_serving(max(request.epoch, volume.epoch), node=state.name)\n",
            ),
            Edit("engine.storage.appending", "    if epoch != known:\n", "    if epoch > known:\n"),
        ),
    ),
    _one(
        "fence-not-durable",
        "G3",
        "a fence is answered before its epoch is on disk",
        "engine.storage.fencing",
        "    await state.put_rows(volume, segments)\n    state.runtime.steps.after(Step.FENCE)\n",
        "    state.runtime.steps.after(Step.FENCE)\n",
    ),
    _one(
        "fence-before-fsync",
        "G1",
        "a fence reports records that are not on disk",
        "engine.storage.fencing",
        "    await state.durable_scls(segments)  # what the report says is on disk when it leaves\n",
        "",
    ),
    _one(
        "corrupt-is-absent",
        "G1",
        "a damaged segment denies what it lost",
        "engine.storage.fencing",
        "damaged=segment.row.damaged,",
        "damaged=False,",
    ),
    _one(
        "lost-is-torn",
        "G1",
        "a log that ends below what was written down as durable passes for whole",
        "engine.storage.starting",
        "        lost = segment.scl < segment.row.scl\n",
        "        lost = False\n",
    ),
    _one(
        "damage-cut-as-torn",
        "G1",
        "rot in the newest log file passes for a torn tail",
        "engine.storage.walfile",
        "if isinstance(item, Damage) and item.offset >= durable:",
        "if isinstance(item, Damage):",
    ),
    _one(
        "truncation-not-durable",
        "G2",
        "a truncation is forgotten by a restart",
        "engine.storage.fencing",
        "await state.put_rows(volume, volume.segments.values(), truncations=True)",
        "await state.put_rows(volume, volume.segments.values())",
    ),
    _one(
        "truncation-not-applied",
        "G2",
        "records already held outlive the truncation that annuls them",
        "engine.storage.volume",
        "                self.frames_cut += segment.cut(truncation)\n",
        "                pass\n",
    ),
    Mutant(
        "failed-fsync-retried",
        "after a failed fdatasync it is tried again, which succeeds",
        "G1",
        (
            Edit(
                "engine.storage.wal",
                "            await current.sync()\n        except DiskFailed as error:\n"
                "            self._failed = str(error)\n            raise\n",
                "            await current.sync()\n        except DiskFailed:\n"
                "            self._current = self._disk.open_append(_path(self.files[-1]))\n"
                "            await self._current.sync()\n",
            ),
            Edit(
                "engine.storage.wal",
                "            current.append(mark(self.files[-1], end))\n",
                "            self._usable().append(mark(self.files[-1], end))\n",
            ),
        ),
    ),
    _one(
        "collect-one-too-far",
        "G5",
        "garbage collection goes one LSN beyond what is pinned",
        "engine.storage.segment",
        "passed = [entry for entry in self.coalesced if entry[0] <= bound]",
        "passed = [entry for entry in self.coalesced if entry[0] <= bound + 1]",
    ),
    _one(
        "found-not-rewritten",
        "G1",
        "what a failed fdatasync left in the page cache is synced, not written, by the next life",
        "engine.storage.wal",
        "            self._current.rewrite(min(self._marked, self._current.size))\n",
        "",
    ),
    _one(
        "read-above-scl",
        "G5",
        "a segment answers reads that it is not complete for",
        "engine.storage.reading",
        "    if segment.scl < request.pg_lsn:\n",
        "    if segment.scl < 0:\n",
    ),
    _one(
        "coalesce-above-vdl",
        "G2",
        "records that a recovery may annul get into page versions",
        "engine.storage.coalesce",
        "upto = segment.tail() if limit is None else min(limit, segment.tail())",
        "upto = segment.scl",
    ),
    _one(
        "collect-too-far",
        "G5",
        "garbage collection goes one coalescing point beyond what is pinned",
        "engine.storage.segment",
        "passed = [entry for entry in self.coalesced if entry[0] <= bound]",
        "passed = [e for e in self.coalesced if e[0] <= bound]; "
        "passed = list(self.coalesced)[: len(passed) + 1]",
    ),
    Mutant(
        "amnesiac-votes",
        "a wiped node makes the segments it lost again, under the old name",
        "G1",
        (
            Edit(
                "engine.storage.node",
                "if not assignment.create or assignment.incarnation != state.incarnation:",
                "if False:",
            ),
            Edit(
                "engine.storage.node",
                "SegmentRow(key, state.incarnation, membership, damaged=joining)",
                "SegmentRow(key, next(m.incarnation for m in membership.members"
                " if m.node == state.name), membership)",
            ),
        ),
    ),
    _one(
        "checksum-unbound",
        "G5",
        "a page version's checksum does not say which page it is",
        "engine.storage.pagestore",
        "int(crc_extend(crc32c(_BOUND.pack(volume, page, lsn)), image))",
        "int(crc32c(image))",
    ),
)

VOLUME = (
    _one(
        "three-of-six",
        "G1",
        "three acks make a write quorum",
        "engine.volume.quorum",
        "WRITE = 4",
        "WRITE = 3",
    ),
    _one(
        "vdl-rounded-up",
        "G6",
        "a VCL in the middle of an MTR makes VDL its CPL, not the one before",
        "engine.volume.durability",
        "while self._commits and self._commits[0].lsn <= self._vcl:",
        "while self._commits and (self._commits[0].lsn <= self._vcl or self._vdl.lsn < self._vcl):",
    ),
    _one(
        "vdl-not-a-cpl",
        "G6",
        "recovery takes VCL for VDL",
        "engine.volume.recovery",
        "    newest = max(marks, default=CommitMark(0, 0, 0))\n",
        "    newest = replace(max(marks, default=CommitMark(0, 0, 0)), lsn=vcl)\n",
    ),
    _one(
        "vcl-over-outstanding",
        "G1",
        "VCL passes records that are outstanding",
        "engine.volume.durability",
        "self._vcl = max(self._vcl, lowest - 1)",
        "self._vcl = max(self._vcl, self._sent)",
    ),
    _one(
        "damaged-denies",
        "G1",
        "recovery takes a damaged segment's silence for a denial",
        "engine.volume.recovery",
        "    denying = [node for node in sorted(reports) if not reports[node].damaged]\n",
        "    denying = [node for node in sorted(reports)]\n",
    ),
    _one(
        "annuls-from-vdl-only",
        "G4",
        "a truncation reaches LAL above VDL, not above the last truncation",
        "engine.volume.recovery",
        "        base = max([self.vdl.lsn, *(t.high for t in self.truncations)])\n",
        "        base = self.vdl.lsn\n",
    ),
    _one(
        "no-rehardening",
        "G1",
        "recovery opens on records that no write quorum has",
        "engine.volume.fencing",
        "        await self._reharden(plan, sorted(states), truncations)\n",
        "",
    ),
    Mutant(
        "recovery-by-read-quorum",
        "recovery fences and truncates three of six",
        "G2",
        (
            Edit(
                "engine.volume.fencing",
                "import QuorumSet, write_quorum",
                "import QuorumSet, read_quorum as write_quorum",
            ),
            Edit(
                "engine.volume.recovery",
                "import read_quorum, write_quorum",
                "import read_quorum, read_quorum as write_quorum",
            ),
        ),
    ),
    _one(
        "lsns-within-truncation",
        "G2",
        "a new epoch's LSNs begin where its recovery truncated",
        "engine.volume.fencing",
        "next_lsn=plan.vdl.lsn + 1 if fresh else truncations[-1].high + 1,",
        "next_lsn=plan.vdl.lsn + 1,",
    ),
    _one(
        "vdl-told-too-early",
        "G1",
        "storage is told a VDL that is not durable yet",
        "engine.volume.writer",
        "vdl=self.vdl.lsn,\n            pgmrpl=self._pgmrpl(),",
        "vdl=self._last_lsn,\n            pgmrpl=self._pgmrpl(),",
    ),
)

INSTANCES = (
    _one(
        "replica-above-vdl",
        "G5",
        "a replica shows commits as soon as their redo is there",
        "engine.instance.replica",
        "        if item.vdl > self._applied:\n            commits = self._apply_up_to(item.vdl)\n",
        "        top = max([item.vdl, *(r.lsn for r in self._pending if r.commit)])\n"
        "        if top > self._applied:\n            commits = self._apply_up_to(top)\n",
    ),
    _one(
        "replica-keeps-cache",
        "G5",
        "a replica that missed redo joins again without dropping its cache",
        "engine.instance.replica",
        "            self.pool.reset(mark)\n",
        "            self.pool.set_visible(mark)\n",
    ),
    _one(
        "replica-forgets-tails",
        "G5",
        "a replica reads at a new VDL from segments complete to an old one",
        "engine.instance.replica",
        "            self.tails.note(pg_of(redo.ref.page), redo.ref.lsn)\n",
        "            pg_of(redo.ref.page)\n",
    ),
    _one(
        "replicas-pin-nothing",
        "G5",
        "PGMRPL leaves out what replicas read",
        "engine.instance.writer",
        "return own if replicas is None else min(own, replicas)",
        "return own",
    ),
    _one(
        "commit-before-vdl",
        "G1",
        "a commit is answered when its redo has left",
        "engine.sql.turn",
        "        if lsn <= self._pool.visible.lsn:\n            return\n",
        "        if lsn:\n            return\n",
    ),
    _one(
        "unknown-as-rollback",
        "G6",
        "a commit that waited too long for its quorum is answered as canceled",
        "engine.sql.turn",
        '                self._watch.interruption = CommitUnknown(f"{OUTCOME_UNKNOWN} ({reason})")\n',
        "                pass\n",
    ),
    Mutant(
        "stale-writer",
        "a transaction that has read an old state writes",
        "G5",
        (
            Edit(
                "engine.sql.turn",
                "            if file.mark is not None and file.mark.lsn != tip.lsn:\n",
                "            if False:\n",
            ),
            Edit(
                "engine.sql.vfs",
                "return self.writing and self.mark is not None"
                " and self.mark.lsn == self._pool.tip.lsn",
                "return self.writing and self.mark is not None",
            ),
        ),
    ),
    _one(
        "snapshot-moves",
        "G5",
        "a snapshot reads the newest version of a page",
        "engine.sql.versions",
        "        if entry.lsn <= at:\n            self._pages.move_to_end(page)\n",
        "        if entry.lsn != UNKNOWN:\n            self._pages.move_to_end(page)\n",
    ),
    _one(
        "evicts-undurable",
        "G1",
        "the buffer pool drops pages that storage cannot give back yet",
        "engine.sql.versions",
        "            if self.visible < entry.lsn < UNKNOWN:\n",
        "            if False:\n",
    ),
)

CONTROL = (
    _one(
        "epoch-twice",
        "G3",
        "the catalog gives one epoch to two writers",
        "cluster.control.catalog",
        'epoch = epoch + 1 WHERE volume = ? AND epoch = ?"\n'
        '                " AND EXISTS (SELECT 1 FROM clusters WHERE name = ? AND writer = ?',
        'epoch = max(epoch, 1) WHERE volume = ? AND epoch = ?"\n'
        '                " AND EXISTS (SELECT 1 FROM clusters WHERE name = ? AND writer = ?',
    ),
)

MEMBERSHIP = (
    _one(
        "joins-at-once",
        "G1",
        "a segment that is to replace another counts as whole before it has anything",
        "engine.storage.node",
        "SegmentRow(key, state.incarnation, membership, damaged=joining)",
        "SegmentRow(key, state.incarnation, membership)",
    ),
    _one(
        "single-quorum",
        "G1",
        "while a member is being replaced, four of the six afterwards are enough",
        "engine.volume.quorum",
        "return parts[0] if len(parts) == 1 else AllOf(parts)",
        "return parts[-1]",
    ),
    _one(
        "commit-unseen",
        "G1",
        "a segment takes its predecessor's place as soon as it is there",
        "cluster.control.repairs",
        "        and not seen.damaged\n",
        "",
    ),
)

OURS = (
    _one(
        "closed-file-torn",
        "G1",
        "a log file is closed before its last sync mark is durable (was in our code)",
        "engine.storage.wal",
        "            await self._fdatasync(self._usable())\n            if self._appended == self._synced:",
        "            if self._appended == self._synced:",
    ),
    _one(
        "read-from-later-point",
        "G5",
        "a read begins at the newest coalescing point, which may lie above its read point",
        "engine.storage.segment",
        "            if point <= lsn:\n                return point\n",
        "            return max(point, lsn)\n",
    ),
    _one(
        "built-over-a-hole",
        "G4",
        "a page is built from an old full image over redo that a lying disk lost (was in our code)",
        "engine.storage.starting",
        "    hole = segment.hot_from > segment.floor\n",
        "    hole = False\n",
    ),
    _one(
        "lost-still-counts",
        "G1",
        "what a node had acknowledged counts after it has lost that and says so (was in our code)",
        "engine.volume.durability",
        "        group.scl[node] = scl\n        return scl > before",
        "        group.scl[node] = max(scl, before)\n        return scl > before",
    ),
)
"""Bugs that the simulator found in this code, planted again so that it keeps finding them."""

MUTANTS = (*STORAGE, *VOLUME, *INSTANCES, *CONTROL, *MEMBERSHIP, *OURS)


def by_name(name: str) -> Mutant:
    """Raises SystemExit naming all if there is none of that name."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise SystemExit(f"there is no mutant {name}; there are {', '.join(m.name for m in MUTANTS)}")
