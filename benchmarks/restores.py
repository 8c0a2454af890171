"""Restores at random points of histories that go wrong in every way, hash by hash: G8 in the simulator.

    python -m benchmarks.restores [--points 1000] [--per-run 125] [--first 1]

Each run is a simulated cluster of its own with an archive. Clients commit, roll back, change the schema and
write transactions of hundreds of rows, while writers are killed, cut off and replaced, and storage nodes,
the archiver and the object store go away and come back. Then it is restored at points drawn by LSN and by
time over the whole history, a third of them in and around what failovers cut off; each file is compared
with the replay oracle's of that commit. Of each run one restored file is imported into another simulated
cluster, which writes on, is archived itself, and is restored in turn: as of the import, and of its own end.

Exit status 1 if anything differed, or a point was not restored.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.endpoint.balance import Kind as EndpointKind
from cluster.faults.catalogue import Fault, Kind
from cluster.sim.checkers import Findings
from cluster.sim.checkers.oracle import CommittedLog, Oracle
from cluster.sim.history import Outcome
from cluster.sim.objects import Bucket
from cluster.sim.observer import Observer
from cluster.sim.restores import Still
from cluster.sim.restores import check as check_restores
from cluster.sim.run import Plan, Story
from cluster.sim.workload import Mix
from cluster.sim.world import ARCHIVER, CLUSTER, Shape, World
from engine.archive.archiver import ArchiveConfig
from engine.archive.catalogue import Target
from engine.archive.restore import Archive
from engine.config import VolumeConfig
from engine.log.frame import index_frame
from engine.log.header import read_header
from engine.net.methods import IMPORT
from engine.net.pb import instance_pb2 as pb
from engine.steps import Mark, Step
from engine.types import PAGE_SIZE, Truncation
from engine.volume.channels import Channels

SAFETY_S = 16.0
SHAPE = Shape(
    replicas=2,
    group_pages=16,
    max_pages=16 * 64,
    volume=VolumeConfig(frame_bytes_max=8 * 1024),
    archive=True,
    archiver=ArchiveConfig(
        round_s=0.3,
        chunk_bytes_max=16 * 1024,
        idle_s=1.0,
        base_bytes_min=64 * 1024,
        base_volume_share=0.5,
        backoff_limit_s=1.0,
    ),
)
MIX = Mix(
    clients=6,
    think_s=0.3,
    weights={
        **dict.fromkeys(("append", "register-write", "transfer"), 3.0),
        **dict.fromkeys(("rollback", "savepoint", "ddl", "wide", "lists", "bank"), 1.0),
        "big": 0.4,
    },
    big_rows=300,
)


@dataclass
class Sums:
    """What one run, or all of them, showed."""

    runs: int = 0
    commits: int = 0
    aborted: int = 0
    """Transactions that were rolled back, on purpose or not."""
    recoveries: int = 0
    failovers: int = 0
    cut_off: int = 0
    """Records that were sent, and that a recovery annulled."""
    commits_cut_off: int = 0
    points: int = 0
    restored: int = 0
    near_cuts: int = 0
    """Of them at an LSN that was cut off, or right before or after."""
    bases: int = 0
    again: int = 0
    """Restores of what was restored, imported and archived once more."""
    wrong: int = 0

    def add(self, other: Sums) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def schedule(rng: random.Random) -> tuple[Fault, ...]:
    """Something happens to whoever writes every other second, and to the archiver or storage in between."""
    found: list[Fault] = []
    storage = [f"storage-{n}" for n in range(1, 7)]
    at = 1.5
    while at < SAFETY_S - 1.0:
        lost = rng.sample(storage, rng.choice((3, 4)))
        match rng.randrange(5):
            case 0:
                found.append(Fault(Kind.FAILOVER, rng.choice(("main-1", "main-2", "main-3")), at))
            case 1:
                away_s = rng.choice((0.0, 2.5))  # another one is named, or it is back before
                found.append(Fault(Kind.KILL, "writer", at, away_s, step=Step.SEND, when="after"))
            case 2 | 3:  # what the others got is not durable, and is cut off
                long = rng.uniform(0.2, 0.8)
                found += [Fault(Kind.PARTITION, "writer", at, long + 0.1, peer=n) for n in lost]
                found.append(Fault(Kind.KILL, "writer", at + long, rng.choice((0.0, 2.5))))
            case _:  # a zombie
                found.append(Fault(Kind.PARTITION, "writer", at, 2.0, peer="control"))
                found.append(Fault(Kind.FAILOVER, rng.choice(("main-2", "main-3")), at + 0.3))
        victim = rng.choice((ARCHIVER, rng.choice(storage), "store"))
        away = Kind.ISOLATE if victim == "store" else rng.choice((Kind.KILL, Kind.PAUSE))
        found.append(Fault(away, victim, at + rng.uniform(0.5, 1.5), rng.uniform(0.1, 1.0)))
        at += rng.uniform(1.5, 2.5)
    return tuple(sorted(found, key=lambda f: f.at))


def draw_points(
    log: CommittedLog, cuts: Sequence[Truncation], count: int, rng: random.Random
) -> list[Target]:
    """`count` moments, a third of them at cuts while there are any."""
    last, times = log.commits[-1].lsn, sorted(commit.time_us for commit in log.commits)
    found: list[Target] = []
    while len(found) < count:
        if cuts and len(found) < count // 3:
            cut = rng.choice(cuts)
            lsn = rng.choice((cut.low, cut.low + 1, rng.randint(cut.low, cut.high), cut.high))
            found.append(Target(lsn=min(last, lsn)))
        elif rng.random() < 0.5:
            found.append(Target(lsn=rng.randint(0, last)))
        elif rng.random() < 0.5:
            moment = rng.choice(times) + rng.choice((-1, 0, 1))
            found.append(Target(time_us=min(moment, times[-1])))  # later than that it may end
        else:
            found.append(Target(time_us=rng.randint(times[0] - 1, times[-1])))
    return found


def one_run(seed: int, points: int) -> tuple[Sums, list[str]]:
    """One history, restored at `points` moments; and what was wrong."""
    rng = random.Random(f"{seed}/restores")
    plan = Plan(seed, SHAPE, MIX, schedule(rng), safety_s=SAFETY_S)
    world = World(seed, SHAPE)
    story = Story(world, plan)
    try:
        world.loop.run_until_complete(story.tell())
        wrong = [f"{v.checker}/{v.kind}: {v.message}" for v in story.judge()]
    finally:
        world.close()
    assert world.bucket is not None
    findings = Findings("oracle")
    log = story.observer.log(findings)
    cuts = [
        Truncation(recovery.epoch, *recovery.truncated)
        for recovery in story.observer.recoveries
        if recovery.truncated is not None
    ]
    targets = draw_points(log, [cut for cut in cuts if cut.low < log.commits[-1].lsn], points, rng)
    found, restored = check_restores(world.bucket, CLUSTER, Oracle(log), targets)
    wrong += [f"{v.checker}/{v.kind}: {v.message}" for v in found]
    sums = Sums(
        runs=1,
        commits=len(log.commits),
        aborted=sum(t.outcome is Outcome.ABORTED for t in story.workload.history),
        recoveries=len(story.observer.recoveries),
        failovers=sum(a != b for a, b in pairwise(story.observer.writers)),
        points=len(targets),
        restored=restored,
        near_cuts=points // 3 if cuts else 0,
        bases=world.marks.get(Mark.BASE_MADE, 0),
    )
    sums.cut_off, sums.commits_cut_off = _cut_off(story.observer, log)
    if restored < len(targets):
        wrong.append(f"{len(targets) - restored} points within the history were not restored")
    wrong += again(seed, world.bucket, rng.choice(targets), sums)
    sums.wrong = len(wrong)
    return sums, wrong


def _cut_off(observer: Observer, log: CommittedLog) -> tuple[int, int]:
    """Records, and commits among them, that writers sent and that are not in the log."""
    kept = {(record.epoch, record.lsn) for record in log.records}
    lost = {
        (read_header(frame).epoch, ref.lsn): ref.commit is not None
        for opening in observer.openings
        for frame in opening.frames
        for ref in index_frame(frame)
    }
    gone = [commit for key, commit in lost.items() if key not in kept]
    return len(gone), sum(gone)


def again(seed: int, bucket: Bucket, target: Target, sums: Sums) -> list[str]:
    """Restore, import into another cluster, write on, and restore that one from its own archive."""
    with TemporaryDirectory(prefix="sextet-restores-") as folder:
        first = asyncio.run(_restored(bucket, target, Path(folder) / "first"))
        if not first:
            return []
        world = World(f"{seed}/again", SHAPE)
        observer = Observer(world)
        try:
            imported = world.loop.run_until_complete(_second_life(world, first))
        finally:
            world.close()
        assert world.bucket is not None
        log = observer.log(Findings("oracle"))
        oracle, wrong = Oracle(log), list(world.errors)
        for name, moment, expected in (
            ("the import", Target(lsn=imported), first),
            ("its end", Target(), oracle.image(log.commits[-1].lsn)),
        ):
            found = asyncio.run(_restored(world.bucket, moment, Path(folder) / name))
            sums.again += 1
            if hashlib.sha256(found).digest() != hashlib.sha256(expected).digest():
                wrong.append(f"restored again at {name}: another state")
        return wrong


async def _restored(bucket: Bucket, target: Target, path: Path) -> bytes:
    archive = await Archive.open(Still(bucket), CLUSTER)
    await archive.restore(await archive.plan(target), path)
    with path.open("rb") as file:
        return file.read()


async def _second_life(world: World, file: bytes) -> int:
    """The imported commit's LSN. Ends when all is archived."""
    await world.start()
    host = world.client_host("restorer")
    client = None
    while client is None:
        await asyncio.sleep(0.05)
        client = world.endpoint.connect(EndpointKind.WRITER, host)
    await client.run("SELECT 1")  # waits until it is open
    writer = world.writer()
    assert writer is not None
    port = next(i.port for i in world.layout.clusters[0].instances if i.name == writer.name)
    channel = Channels(host).to(f"127.0.0.1:{port}")
    stream = channel.stream(IMPORT)
    for at in range(0, len(file), 64 * PAGE_SIZE):
        part = file[at : at + 64 * PAGE_SIZE]
        await stream.send(pb.ImportChunk(page_count=len(file) // PAGE_SIZE, pages=part))
    await stream.done_sending()
    reply: pb.ImportReply = await channel.collect(IMPORT, stream)
    await client.run("CREATE TABLE afterwards (n INTEGER)")
    for n in range(5):
        await client.run(f"INSERT INTO afterwards VALUES ({n})")
    volume = writer.node.writer.volume
    archiver = world.processes[ARCHIVER]
    for _ in range(600):
        if archiver.node is not None and archiver.node.upto == volume.vdl.lsn:
            break
        await asyncio.sleep(0.1)
    return int(reply.commit_lsn)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--per-run", type=int, default=125)
    parser.add_argument("--first", type=int, default=1, help="the first run's seed")
    options = parser.parse_args(arguments)
    logging.disable(logging.ERROR)
    sums, seed, began = Sums(), options.first, time.perf_counter()
    while sums.points < options.points:
        found, wrong = one_run(seed, min(options.per_run, options.points - sums.points))
        sums.add(found)
        for message in wrong:
            print(f"seed {seed}: {message}")
        print(f"seed {seed}: {found}", flush=True)
        seed += 1
    for name, value in asdict(sums).items():
        print(f"{name:16} {value:8,}")
    print(f"{time.perf_counter() - began:.0f} s")
    return 1 if sums.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
