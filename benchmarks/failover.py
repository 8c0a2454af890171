"""What clients notice of a failover: the writer is killed, stopped, cut off or moved, in turn, under load.

    python -m benchmarks.failover [--rounds N] [--kinds kill,pause,cut,move,crash] [--readers N]
                                  [--kill-control]

kill   SIGKILL, and it stays down until another writer has committed
pause  SIGSTOP until another writer has committed, then SIGCONT
cut    nothing passes between it and anybody else, its clients included, until another writer has committed
move   `sextet failover`
crash  SIGKILL, and its supervisor may have it back: mostly a restart in place, and no failover is asked for

"Has committed": the control plane says that the new writer is available, and after that both pools were
told of a commit. All eight workers then have another minute to do so before the old writer comes back.

With `--kill-control` the control plane gets SIGKILL at the moment of the fault; of a `move`, as soon as the
catalog names the new writer, before that one can have opened.

Two pools work all the time, psycopg's and asyncpg's, four connections each (`benchmarks.load`). A gap is
the longest time without an acknowledged commit from the fault on. Prints by kind and pool the median and
the worst gap of the pool as a whole, and of its workers, each a client of its own, over all rounds and
workers; the same of all eight; how many rounds moved the writer; what storage refused of older epochs, by
kind; and rows against acks. Exit status 1 if an acknowledged row is missing or one is there that cannot
be, if a worker has ended, or if a round asked for a failover and there was none. The goals are judged for
pools and for clients, and those that are missed are only printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from benchmarks.control import (
    Killer,
    Named,
    meanwhile,
    named,
    open_writer,
    refused_stale,
    status,
    within,
)
from benchmarks.load import POOLS, WAIT_S, Acks, load, verdict
from benchmarks.local import save
from cluster.testing import ClusterDown, LocalCluster

KINDS = ("kill", "pause", "cut", "move", "crash")
IN_PLACE = "crash"
"""The only kind that does not ask for another writer."""

FAILOVERS = "failovers"
"""All rounds of the other kinds."""

SETTLE_S = 3.0
"""Between two faults, after everyone is back."""

STATUS_POLL_S = 0.2
"""Each look starts a process, and would slow down what is measured."""

GOAL_MEDIAN_S, GOAL_WORST_S = 2.0, 5.0


@dataclass
class Round:
    """One fault and what came of it; gaps by pool, seconds."""

    kind: str
    old: Named
    new: Named
    gap_s: dict[str, float] = field(default_factory=dict)
    worker_gaps_s: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def moved(self) -> bool:
        return self.old.writer != self.new.writer

    @property
    def missed(self) -> bool:
        """No failover though one was asked for, or nobody could write after it."""
        return bool(self.notes) or (self.kind != IN_PLACE and not self.moved)

    def __str__(self) -> str:
        way = f"{self.old.writer} -> {self.new.writer}, epoch {self.old.epoch} -> {self.new.epoch}"
        gaps = (
            f"{p} {g:.2f} s (worst worker {max(self.worker_gaps_s[p]):.2f})"
            for p, g in self.gap_s.items()
        )
        return "; ".join([f"{self.kind:5s} {way}", ", ".join(gaps), *self.notes])


def strike(cluster: LocalCluster, kind: str, writer: str) -> Callable[[], object]:
    """Do it; what is returned undoes it."""
    match kind:
        case "kill":
            fault = cluster.fault.kill(writer, hold=True)
        case "pause":
            fault = cluster.fault.pause(writer)
        case "cut":
            fault = cluster.fault.isolate(writer)
        case "move":
            move(cluster)
            return lambda: None
        case _:
            cluster.fault.kill(writer)
            return lambda: None
    return lambda: cluster.fault.heal(fault.id)


def move(cluster: LocalCluster) -> None:
    try:
        cluster.sextet("failover")
    except ClusterDown as error:
        # Not the end: the control plane may have died after it named somebody, which is what counts.
        print(f"     {error}", flush=True)


def one_round(cluster: LocalCluster, acks: Acks, kind: str, killer: Killer | None) -> Round:
    old = named(cluster)

    def other_named() -> bool:
        return named(cluster).writer != old.writer

    def kill_control() -> None:
        assert killer is not None
        if kind != "move" or within(other_named, WAIT_S, poll_s=0.002):
            killer.strike()

    began = time.perf_counter()
    with meanwhile(kill_control if killer is not None else None):
        undo = strike(cluster, kind, old.writer)
    try:
        if kind == IN_PLACE or within(other_named, WAIT_S):
            notes = until_committed(cluster, acks)
        else:
            notes = [f"no other writer was named within {WAIT_S:.0f} s"]
        gaps = {pool: acks.gap(pool, began) for pool in POOLS}
        clients = {pool: acks.worker_gaps(pool, began) for pool in POOLS}
    finally:
        undo()
    return Round(kind, old, named(cluster), gaps, clients, notes)


def until_committed(cluster: LocalCluster, acks: Acks) -> list[str]:
    """Wait for the named writer to be available and for a commit of every worker after that; what of it
    did not come."""

    def opened() -> bool:
        return open_writer(cluster) == named(cluster).writer

    named_at = time.perf_counter()
    # A commit first: asking for a status costs a process, and would slow down what is measured.
    if not within(lambda: acks.pools_since(named_at), WAIT_S):
        return [f"a pool has not committed for {WAIT_S:.0f} s"]
    if not within(opened, WAIT_S, poll_s=STATUS_POLL_S):
        return [f"the new writer was not available within {WAIT_S:.0f} s"]
    open_at = time.perf_counter()
    if not within(lambda: acks.pools_since(open_at), WAIT_S):
        return [f"a pool has not committed for {WAIT_S:.0f} s"]
    within(
        lambda: not acks.silent_since(open_at), WAIT_S
    )  # who hangs on shows in the workers' gaps
    return []


# -- results


def summary(gaps: Sequence[float]) -> dict[str, float]:
    return {
        "gaps": len(gaps),
        "median_s": round(statistics.median(gaps), 2),
        "worst_s": round(max(gaps), 2),
    }


def of_pools(rounds: Sequence[Round], pools: Sequence[str] = POOLS) -> list[float]:
    return [r.gap_s[pool] for r in rounds for pool in pools]


def of_clients(rounds: Sequence[Round], pools: Sequence[str] = POOLS) -> list[float]:
    """What every worker saw, over all rounds."""
    return [gap for r in rounds for pool in pools for gap in r.worker_gaps_s[pool]]


def summaries(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """By kind and pool, and over all rounds in which a failover was asked for."""
    groups = {kind: [r for r in rounds if r.kind == kind] for kind in KINDS}
    groups[FAILOVERS] = failovers(rounds)
    found: dict[str, dict[str, Any]] = {}
    for name, some in groups.items():
        if not some:
            continue
        for pool in POOLS:
            found[f"{name}, {pool}"] = summary(of_pools(some, [pool]))
            found[f"{name}, {pool}, its clients"] = summary(of_clients(some, [pool]))
        found[f"{name}, all clients"] = summary(of_clients(some))
    return found


def failovers(rounds: Sequence[Round]) -> list[Round]:
    return [r for r in rounds if r.kind != IN_PLACE]


def goals(rounds: Sequence[Round]) -> dict[str, bool]:
    """Whether the failovers met them, in either pool and in the eyes of the clients of either."""
    asked = failovers(rounds)
    if not asked:
        return {}
    found = {}
    for whose, gaps_of in (("pools", of_pools), ("clients", of_clients)):
        each = [gaps_of(asked, [pool]) for pool in POOLS]
        median, worst = max(map(statistics.median, each)), max(map(max, each))
        found[f"{whose}: median below {GOAL_MEDIAN_S:g} s"] = median < GOAL_MEDIAN_S
        found[f"{whose}: worst below {GOAL_WORST_S:g} s"] = worst < GOAL_WORST_S
    return found


def show(result: dict[str, Any]) -> None:
    for name, row in result["gaps"].items():
        print(
            f"{name:36s} median {row['median_s']:.2f} s, worst {row['worst_s']:.2f} s "
            f"of {row['gaps']}"
        )
    for goal, met in result["goals"].items():
        print(f"goal: {goal:28s} {'met' if met else 'MISSED'}")
    for kind, asked in result["rounds_by_kind"].items():
        print(f"{kind:6s} moved the writer in {result['moved'].get(kind, 0)} of {asked} rounds")
    rows = result["rows"]
    print(
        f"{rows['acknowledged']} acknowledged, {rows['lost']} of them lost; failed: {rows['failed']}, of "
        f"which {rows['there_of_unknown_outcome']} are there; epoch {result['epoch']}"
    )
    print(f"errors that no client should see: {rows['unexpected_errors'] or 'none'}")
    kinds = ", ".join(f"{what} {count}" for what, count in result["refused_stale"].items())
    print(f"requests of an older epoch refused by storage: {kinds}")
    print(f"the control plane was killed {result['control_kills']} times")
    print("\n".join(result["wrong"]) or "nothing is wrong")


def wrong_in(rounds: Sequence[Round], rows: dict[str, Any]) -> list[str]:
    missed = [f"round {n + 1}, {r}" for n, r in enumerate(rounds) if r.missed]
    return [*rows["wrong"], *missed]


def measure(
    cluster: LocalCluster, kinds: Sequence[str], count: int, *, kill: bool
) -> dict[str, Any]:
    killer = Killer(cluster)
    rounds: list[Round] = []
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
    with load(cluster.writer_url) as acks:
        for n in range(count):
            cluster.until_healthy()
            time.sleep(SETTLE_S)
            rounds.append(one_round(cluster, acks, kinds[n % len(kinds)], killer if kill else None))
            print(f"{n + 1:4d} {rounds[-1]}", flush=True)
        cluster.until_healthy()
    with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM beat").fetchall()}
    now = status(cluster)
    rows = verdict(acks, found)
    return {
        "gaps": summaries(rounds),
        "goals": goals(rounds),
        "rounds_by_kind": dict(Counter(r.kind for r in rounds)),
        "moved": dict(Counter(r.kind for r in rounds if r.moved)),
        "rows": rows,
        "epoch": now["volume"]["epoch"],
        "refused_stale": refused_stale(now["storage"]),
        "control_kills": killer.kills,
        "wrong": wrong_in(rounds, rows),
        "rounds": [{**asdict(r), "moved": r.moved} for r in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="faults, of each kind in turn")
    parser.add_argument("--kinds", default="kill,pause,cut")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--kill-control", action="store_true")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if strange := set(kinds) - set(KINDS):
        parser.error(f"there is no kind {', '.join(sorted(strange))}")
    if arguments.readers < 1 and set(kinds) != {IN_PLACE}:
        parser.error("without a replica nobody can take over")
    with LocalCluster(replicas=arguments.readers) as cluster:
        result = measure(cluster, kinds, arguments.rounds, kill=arguments.kill_control)
    show(result)
    save("failover-control-killed" if arguments.kill_control else "failover", result)
    if result["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
