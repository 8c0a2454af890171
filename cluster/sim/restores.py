"""G8: whatever is restored from the archive is the state after the last commit at or before that moment.

The database file that a restore writes is compared, byte for byte, with the one that the replay oracle
makes of the committed log, in which no branch is that a recovery cut off. No checker among others, because
it reads objects and writes files.

Kinds
- archive-broken: `verify` finds an object that is no good.
- restore-fails: a moment within the window cannot be restored.
- restore-differs: what was restored is another state.
- archive-branch: the archive has a record that was never committed: one that a failover cut off, or another
  one in its place.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.sim.checkers import Findings, Violation
from cluster.sim.checkers.oracle import Oracle
from cluster.sim.objects import Bucket
from engine.archive.catalogue import Target, generations, last_admitted
from engine.archive.chunks import records_of
from engine.archive.restore import Archive
from engine.archive.verify import verify
from engine.errors import ObjectMissing, SextetError
from engine.types import LSN, CommitMark

CHECKER = "archive"
POINTS = 10


class Still:
    """What is in a bucket, for reading, in no time."""

    def __init__(self, bucket: Bucket) -> None:
        self._objects = bucket.objects

    async def read(self, key: str) -> bytes:
        if key not in self._objects:
            raise ObjectMissing(f"the bucket has no {key}")
        return self._objects[key]

    async def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._objects if key.startswith(prefix))

    async def create(self, key: str, data: bytes) -> None:
        raise AssertionError("checkers change nothing")

    async def delete(self, key: str) -> None:
        raise AssertionError("checkers change nothing")


def points(commits: Sequence[CommitMark], rng: random.Random) -> list[Target]:
    """Moments to restore: LSNs and times at, between, before and after commits; and the latest."""
    if not commits:
        return []
    last = commits[-1].lsn
    times = [commit.time_us for commit in commits]
    found = [Target(), Target(lsn=last), Target(lsn=rng.choice(commits).lsn - 1)]
    while len(found) < POINTS:
        if rng.random() < 0.5:
            found.append(Target(lsn=rng.randint(1, last)))
        else:
            found.append(Target(time_us=rng.choice(times) + rng.choice((-1, 0, 1, 500))))
    return found


def check(
    bucket: Bucket, cluster: str, oracle: Oracle, targets: Sequence[Target], *, told: LSN = 0
) -> tuple[list[Violation], int]:
    """Restore those of `targets` that the cluster's newest archive has; also how many they were. Outside of
    any loop. `told`: storage nodes have heard that the log is archived up to there."""
    findings = Findings(CHECKER)
    if not targets:
        return findings.found, 0
    restored = asyncio.run(_check(bucket, cluster, oracle, targets, told, findings))
    return findings.found, restored


async def _check(
    bucket: Bucket,
    cluster: str,
    oracle: Oracle,
    targets: Sequence[Target],
    told: LSN,
    findings: Findings,
) -> int:
    restored = 0
    try:
        name = generations(cluster, bucket.objects)[-1:]
        archive = await Archive.open(Still(bucket), name[0] if name else cluster)
        wrong, _ = await verify(archive, told=told)
        window = await archive.window()
    except SextetError as error:
        findings.add("archive-broken", f"{type(error).__name__}: {error}")
        return restored
    for message in wrong:
        findings.add("archive-broken", message)
    if not wrong:
        await _check_branches(archive, oracle, window.first, findings)

    def commit_of(target: Target) -> CommitMark:
        return last_admitted(target, oracle.log.commits) or CommitMark(0, 0, 0)

    targets = sorted(targets, key=lambda target: commit_of(target).lsn)  # as the oracle likes it
    with TemporaryDirectory(prefix="sextet-sim-") as folder:
        for number, target in enumerate(targets):
            if (target.time_us or 0) > window.known_us:
                continue
            commit = commit_of(target)
            if commit.lsn < window.earliest.lsn:
                continue
            path = Path(folder) / str(number)
            try:
                await archive.restore(await archive.plan(target), path)
            except SextetError as error:
                findings.add("restore-fails", f"{target}: {type(error).__name__}: {error}")
                continue
            restored += 1
            if path.read_bytes() != oracle.image(commit.lsn):
                findings.add(
                    "restore-differs",
                    f"{target} is not the state of LSN {commit.lsn}",
                    lsns=(commit.lsn,),
                )
            path.unlink()
    return restored


async def _check_branches(archive: Archive, oracle: Oracle, first: int, findings: Findings) -> None:
    """Every record that a restore can read is one of the committed log's, the same."""
    committed = {record.lsn: record for record in oracle.log.records}
    for number in range(max(1, first), archive.listing.newest + 1):
        for record in records_of(await archive.chunk(number)):
            if committed.get(record.lsn) != record:
                findings.add(
                    "archive-branch",
                    f"chunk {number} has record {record.lsn} of epoch {record.epoch}, which was never "
                    "committed",
                    lsns=(record.lsn,),
                )
