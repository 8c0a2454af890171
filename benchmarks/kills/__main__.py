"""kill -9 while there is archived, kept, cloned, restored, put back and deleted, with real processes.

    python -m benchmarks.kills [--moments 12] [--only clone,delete] [--victims command] [--steps none]

One local cluster, into which a client inserts numbered rows all the time and notes which were acknowledged.
Then every operation is begun again and again, and a victim killed meanwhile: a storage node, two of them,
the archiver, the control plane, the writer, or the command itself. First at `--moments` moments spread over
how long the operation takes when nobody is killed. Then at protocol steps (`engine.steps`), before and
after each that an operation's processes take: `STEPS`.

After each kill:

- the operation is complete or absent. A command that has succeeded is complete; what is complete has the
  contents that it should have, row by row; an unfinished cluster says that it is one;
- the same command again succeeds, or says that it is there already; then the contents are right;
- every object of the archive is whole and follows the one before it (`sextet backup verify`);
- every acknowledged row is there, once.

Exit status 1 if any of this does not hold.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from benchmarks.kills.harness import (
    BACK_S,
    COMMAND_S,
    OLD_BYTES,
    OLD_ROWS,
    Bench,
    Rows,
    Wrong,
    begin_command,
    ended,
)
from benchmarks.kills.operations import (
    OPERATIONS,
    Archive,
    Operation,
    check_archive,
    until_archived,
    until_verified,
)
from benchmarks.local import save
from cluster.local.layout import MAIN
from cluster.testing import LocalCluster
from engine.errors import SextetError
from engine.faults.effects import effects_path, read_effects
from engine.faults.file import ActiveFault, changing
from engine.steps import Step

REACHED_S = 25.0
"""How long a step is waited for that comes after its command has ended, as those of archivers may."""

COMPLETE, ABSENT, FAILED, MISSED = "complete", "absent", "failed", "missed"


# -- victims

STORAGE = [f"storage-{n}" for n in range(1, 7)]
VICTIMS: dict[str, Callable[[Bench], Sequence[str]]] = {
    "storage node": lambda bench: bench.rng.sample(STORAGE, 1),
    "two nodes": lambda bench: bench.rng.sample(STORAGE, 2),
    "archiver": lambda _: [f"archive-{MAIN}"],
    "control": lambda _: ["control"],
    "writer": lambda _: [],  # each operation has its own
    "command": lambda _: [],
}

STEPS: tuple[tuple[str, str, Step], ...] = (
    ("archive", "archive-main", Step.ARCHIVE),
    ("archive", "archive-main", Step.TELL),
    ("clone", "storage", Step.FORK),
    ("clone", "control", Step.CONFIRM),
    ("clone", "control", Step.ADVANCE_EPOCH),
    ("clone", "new writer", Step.FENCED),
    ("clone", "new writer", Step.TRUNCATED),
    ("clone", "new writer", Step.REHARDENED),
    ("clone", "new writer", Step.PROMOTE),
    ("clone", "new archiver", Step.NEW_ARCHIVE),
    ("clone", "new archiver", Step.BASE_PART),
    ("clone", "new archiver", Step.BASE),
    ("restore", "control", Step.ADD_GROUP),
    ("restore", "control", Step.CONFIRM),
    ("restore", "storage", Step.CREATE),
    ("restore", "storage", Step.RECEIVE),
    ("restore", "storage", Step.PERSIST),
    ("restore", "new writer", Step.SEND),
    ("restore", "new writer", Step.DURABLE),
    ("backtrack", "new writer", Step.BACKTRACK),
    ("backtrack", "new writer", Step.SEND),
    ("backtrack", "new writer", Step.DURABLE),
    ("backtrack", "storage", Step.RECEIVE),
    ("backtrack", "storage", Step.PERSIST),
    ("delete", "storage", Step.DROP),
)
"""(operation, process, step), each before and after. `RETIRE` and `GROW` are not reached: nothing is a day
old here, and everything fits into one protection group."""


def arm(bench: Bench, name: str, step: Step, when: str) -> int:
    """Have the process kill itself at the step, also one that is not there yet; the fault's id."""
    path = bench.folder.faults
    with changing(path) as change:
        fault = ActiveFault(
            id=change.file.next_id,
            kind="kill",
            target=name,
            names=(name,),
            since=time.time(),
            step=step.value,
            when=when,
        )
        change.file = change.file.adding(fault)
    time.sleep(0.15)  # processes look at the file every 50 ms
    return fault.id


def disarm(bench: Bench, fault: int) -> None:
    with changing(bench.folder.faults) as change:
        left = tuple(f for f in change.file.faults if f.id != fault)
        change.file = replace(change.file, faults=left)


# -- one experiment


@dataclass
class Table:
    """Outcomes by row and column."""

    cells: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, row: str, column: str, outcome: str) -> None:
        self.cells.setdefault((row, column), Counter())[outcome] += 1

    def lines(self) -> Iterator[str]:
        heads = ("kills", ABSENT, COMPLETE, FAILED, MISSED)
        yield f"{'operation':<10} {'victim':<28}" + "".join(f"{head:>10}" for head in heads)
        for (row, column), found in self.cells.items():
            kills = found[COMPLETE] + found[ABSENT] + found[FAILED]
            numbers = (kills, found[ABSENT], found[COMPLETE], found[FAILED], found[MISSED])
            yield f"{row:<10} {column:<28}" + "".join(f"{number:>10}" for number in numbers)


def again(bench: Bench, operation: Operation, complete: bool) -> None:
    """Raises Wrong unless the same command succeeds, or says that it is there."""
    deadline = time.monotonic() + BACK_S
    while True:
        status, said = ended(begin_command(bench, operation.command(bench)))
        if status == 0 or (complete and operation.there and operation.there in said):
            return
        if time.monotonic() > deadline:
            raise Wrong(f"the same command again: {said}")
        if not complete:
            complete = operation.complete(bench)
        time.sleep(0.5)


def judge(bench: Bench, operation: Operation, status: int, said: str) -> str:
    """COMPLETE or ABSENT. Raises Wrong, and whatever else is no good."""
    complete = operation.complete(bench)
    if status == 0 and not complete:
        raise Wrong(f"the command has succeeded, and it is not there: {said}")
    if complete:
        operation.check(bench)
    again(bench, operation, complete)
    if not operation.complete(bench):
        raise Wrong("the same command has succeeded, and it is not there")
    operation.check(bench)
    check_archive(bench)
    bench.rows.settled()
    if bench.rows.wrong:
        raise Wrong("; ".join(bench.rows.wrong))
    operation.undo(bench)
    return COMPLETE if complete else ABSENT


def experiment(
    bench: Bench,
    operation: Operation,
    table: Table,
    column: str,
    strike: Callable[[subprocess.Popen[str]], bool],
    what: str,
) -> None:
    """`strike` kills, or sees to it, while the command runs; False if nobody was killed."""
    bench.number += 1
    try:
        operation.prepare(bench)
        command = begin_command(bench, operation.command(bench))
        try:
            struck = strike(command)
        finally:
            status, said = ended(command)
        outcome = judge(bench, operation, status, said)
    except (Wrong, SextetError, psycopg.Error) as error:
        struck, outcome = True, FAILED
        table.wrong.append(f"{bench.number}: {operation.name}, {column}, {what}: {error}")
        print(table.wrong[-1], flush=True)
    outcome = outcome if struck else MISSED
    table.note(operation.name, column, outcome)
    print(f"{bench.number:>4} {operation.name:<9} {column:<30} {what:<20} {outcome}", flush=True)


def at_moment(
    bench: Bench, victims: Sequence[str], after_s: float
) -> Callable[[subprocess.Popen[str]], bool]:
    """No victims: the command itself."""

    def strike(command: subprocess.Popen[str]) -> bool:
        time.sleep(after_s)
        if victims:
            bench.kill(*victims)
            return True
        alive = command.poll() is None
        command.kill()
        return alive

    return strike


def duration(bench: Bench, operation: Operation) -> float:
    """How long it takes if nobody is killed, seconds. Raises Wrong if it fails even so."""
    bench.number += 1
    operation.prepare(bench)
    began = time.monotonic()
    status, said = ended(begin_command(bench, operation.command(bench)))
    took = time.monotonic() - began
    if status or not operation.complete(bench):
        raise Wrong(f"{operation.name} fails with nobody killed: {said}")
    operation.check(bench)
    operation.undo(bench)
    return 3.0 if isinstance(operation, Archive) else took


def by_moments(
    bench: Bench, operation: Operation, victims: Sequence[str], moments: int, table: Table
) -> None:
    took = duration(bench, operation)
    print(f"{operation.name} takes {took:.1f} s", flush=True)
    for victim in victims:
        if victim == "command" and isinstance(operation, Archive):
            continue
        for turn in range(moments):
            after_s = took * (turn + 0.5) / moments
            names = [operation.writer(bench)] if victim == "writer" else VICTIMS[victim](bench)
            strike = at_moment(bench, names, after_s)
            experiment(bench, operation, table, victim, strike, f"after {after_s:.2f} s")


def by_step(
    bench: Bench, operation: Operation, process: str, step: Step, when: str, table: Table
) -> None:
    new = f"{operation.name}{bench.number + 1}"
    names = {
        "storage": bench.rng.choice(STORAGE),
        "new writer": f"{new}-1",
        "new archiver": f"archive-{new}",
    }
    name = names.get(process, process)
    fault: int | None = None

    def fired() -> bool:
        assert fault is not None
        said = read_effects(effects_path(bench.folder.faults, name))
        return fault in said.by_fault

    def strike(command: subprocess.Popen[str]) -> bool:
        nonlocal fault
        fault = arm(bench, name, step, when)
        deadline = time.monotonic() + COMMAND_S
        while command.poll() is None and not fired() and time.monotonic() < deadline:
            time.sleep(0.05)
        if process in ("new archiver", "storage", "archive-main"):
            deadline = time.monotonic() + REACHED_S
            while command.poll() == 0 and not fired() and time.monotonic() < deadline:
                time.sleep(0.05)
        hit = fired()
        disarm(bench, fault)
        if process == "new archiver":
            until_archived(bench, bench.moment, new)
            until_verified(bench, new)
        return hit

    experiment(bench, operation, table, f"{process} at {step.value}", strike, when)


def fill(cluster: LocalCluster) -> None:
    with psycopg.connect(cluster.writer_url, autocommit=True) as client:
        client.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, body TEXT)")
        client.execute("CREATE TABLE old (id INTEGER PRIMARY KEY, body TEXT)")
        for first in range(0, OLD_ROWS, 200):
            client.execute(
                f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n"
                f" WHERE i < {first + 199}) INSERT INTO old"
                f" SELECT i, substr(hex(randomblob({OLD_BYTES})), 1, {OLD_BYTES}) FROM n"
            )


@contextmanager
def prepared(seed: int) -> Iterator[Bench]:
    room = Path(tempfile.mkdtemp(prefix="sextet-kills-"))
    try:
        with LocalCluster(replicas=1) as cluster:
            fill(cluster)
            with Rows(cluster.writer_url) as rows:
                yield Bench(cluster, rows, room, random.Random(seed))
    finally:
        shutil.rmtree(room, ignore_errors=True)


def chosen(text: str | None, known: Sequence[str], what: str) -> list[str]:
    if text is None:
        return list(known)
    named = [name.strip() for name in text.split(",")]
    if strange := [name for name in named if name not in known]:
        sys.exit(f"there is no {what} {', '.join(strange)}; there is: {', '.join(known)}")
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=12, help="for each operation and victim")
    parser.add_argument("--only", help="operations, comma-separated")
    parser.add_argument("--victims", help="victims, comma-separated")
    parser.add_argument("--steps", help="protocol steps, comma-separated, or none")
    parser.add_argument("--seed", type=int, default=1, help="which storage nodes are killed")
    arguments = parser.parse_args()
    names = chosen(arguments.only, [one.name for one in OPERATIONS], "operation")
    victims = chosen(arguments.victims, list(VICTIMS), "victim")
    known = [step.value for _, _, step in STEPS]
    steps = [] if arguments.steps == "none" else chosen(arguments.steps, known, "step")
    table = Table()
    began = time.monotonic()
    with prepared(arguments.seed) as bench:
        operations = {one.name: one for one in OPERATIONS}
        for name, process, step in STEPS:
            if name in names and step.value in steps:
                for when in ("before", "after"):
                    by_step(bench, operations[name], process, step, when, table)
        for name in names if arguments.moments else ():
            by_moments(bench, operations[name], victims, arguments.moments, table)
        with bench.rows.still():
            moment, count = bench.rows.settled()
            bench.expected = count, count
            bench.check_cluster(MAIN)
        until_archived(bench, moment)
        check_archive(bench)
        print(f"{count} acknowledged rows are there")
    print("\n".join(table.lines()))
    print(f"{time.monotonic() - began:.0f} s; {len(table.wrong)} failed")
    cells = [[*key, dict(found)] for key, found in table.cells.items()]
    save("kills", {"moments": arguments.moments, "cells": cells, "wrong": table.wrong})
    if table.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
