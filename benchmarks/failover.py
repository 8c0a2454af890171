"""What clients notice of a failover: the writer is killed, stopped, cut off or moved, in turn, under load.

    python -m benchmarks.failover [--rounds N] [--kinds kill,pause,cut,move] [--readers N]
                                  [--kill-control]

kill   SIGKILL; mostly its supervisor has it back before anybody else is named
pause  SIGSTOP until another writer has committed, then SIGCONT
cut    nothing passes between it and anybody else, until another writer has committed (`sextet fault`)
move   `sextet failover`

With `--kill-control` the control plane gets SIGKILL together with every fault.

Two pools work all the time, psycopg's and asyncpg's, four connections each, one small insert after the
other. Prints for each kind and pool the longest time without an acknowledged commit from the fault on;
then acknowledged rows that are missing (must be 0) and what storage refused of old writers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from benchmarks.local import Cluster, cluster, save

WORKERS = 4
PAUSE_S = 0.005
"""Between two transactions of one worker, and after an error."""

SETTLE_S = 3.0
"""Between two faults, after everyone is back."""

WAIT_S = 60.0
PSYCOPG, ASYNCPG = "psycopg pool", "asyncpg pool"


class Acks:
    """What both pools were told."""

    def __init__(self) -> None:
        self.at: dict[str, list[float]] = {PSYCOPG: [], ASYNCPG: []}
        self.keys: set[int] = set()
        self.errors = 0
        self.states: Counter[str] = Counter()
        self.stop = threading.Event()
        self._next = itertools.count(1)

    def key(self) -> int:
        return next(self._next)

    def acked(self, client: str, key: int) -> None:
        self.keys.add(key)
        self.at[client].append(time.perf_counter())

    def failed(self, error: Exception) -> None:
        self.errors += 1
        self.states[getattr(error, "sqlstate", None) or type(error).__name__] += 1

    def last(self) -> float:
        """The moment of the newest ack of all."""
        return max(times[-1] for times in self.at.values() if times)

    def gap(self, client: str, since: float) -> float:
        """The longest time without an ack from `since` to now, seconds."""
        moments = [since, *(at for at in list(self.at[client]) if at > since), time.perf_counter()]
        return max(b - a for a, b in itertools.pairwise(moments))


def psycopg_worker(pool: ConnectionPool[Any], acks: Acks) -> None:
    while not acks.stop.is_set():
        key = acks.key()
        try:
            with pool.connection() as connection:
                connection.execute("INSERT INTO beat VALUES (%s)", (key,))
        except (psycopg.Error, PoolTimeout) as error:
            acks.failed(error)
        else:
            acks.acked(PSYCOPG, key)
        time.sleep(PAUSE_S)


async def asyncpg_workers(url: str, acks: Acks) -> None:
    pool = await asyncpg.create_pool(url, min_size=WORKERS, max_size=WORKERS, timeout=WAIT_S)

    async def work() -> None:
        while not acks.stop.is_set():
            key = acks.key()
            try:
                async with pool.acquire() as connection:
                    await connection.execute("INSERT INTO beat VALUES ($1)", key)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                acks.failed(error)
            else:
                acks.acked(ASYNCPG, key)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    pool.terminate()


@contextmanager
def load(url: str) -> Iterator[Acks]:
    """Both pools at work for the length of the block."""
    acks = Acks()
    arguments = {"autocommit": True, "connect_timeout": int(WAIT_S)}
    with ConnectionPool(
        url, min_size=WORKERS, max_size=WORKERS, kwargs=arguments, timeout=WAIT_S
    ) as pool:
        threads = [
            threading.Thread(target=psycopg_worker, args=(pool, acks)) for _ in range(WORKERS)
        ]
        threads.append(threading.Thread(target=lambda: asyncio.run(asyncpg_workers(url, acks))))
        for thread in threads:
            thread.start()
        try:
            yield acks
        finally:
            acks.stop.set()
            for thread in threads:
                thread.join(WAIT_S)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.perf_counter() + WAIT_S
    while not true():
        if time.perf_counter() > deadline:
            sys.exit(f"not within {WAIT_S:.0f} s: {what}")
        time.sleep(0.1)


def until_all_well(made: Cluster, replicas: int) -> None:
    def well() -> bool:
        rows = made.status()["instances"]
        ready = [row for row in rows if row["state"] == "available"]
        return len(ready) == replicas + 1 and sum(r["role"] == "writer" for r in ready) == 1

    until(well, "one writer and all replicas are available")


def break_writer(made: Cluster, kind: str) -> tuple[float, Callable[[], None]]:
    """The moment of the fault, and what ends it."""
    writer = made.writer()
    began = time.perf_counter()
    match kind:
        case "kill":
            os.kill(writer["pid"], signal.SIGKILL)
            return began, lambda: None
        case "pause":
            os.kill(writer["pid"], signal.SIGSTOP)

            def resume() -> None:
                until(lambda: made.writer()["name"] != writer["name"], "another writer")
                os.kill(writer["pid"], signal.SIGCONT)

            return began, resume
        case "cut":
            made.sextet("fault", "isolate", writer["name"])

            def mend() -> None:
                until(lambda: made.writer()["name"] != writer["name"], "another writer")
                made.sextet("fault", "heal")

            return began, mend
        case _:
            made.sextet("failover")
            return began, lambda: None


def one_round(
    made: Cluster, acks: Acks, kind: str, *, kill_control: bool = False
) -> dict[str, float]:
    """Each pool's gap, seconds."""
    began, end = break_writer(made, kind)
    if kill_control:
        made.sextet("fault", "kill", "control")
    end()
    before = {client: len(times) for client, times in acks.at.items()}
    until(
        lambda: all(len(acks.at[client]) > count + 20 for client, count in before.items()),
        f"both pools commit again after {kind}",
    )
    return {client: acks.gap(client, began) for client in acks.at}


def summary(gaps: list[float]) -> dict[str, float]:
    return {
        "rounds": len(gaps),
        "median_s": round(statistics.median(gaps), 2),
        "worst_s": round(max(gaps), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="faults, of each kind in turn")
    parser.add_argument("--kinds", default="kill,pause,move")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--kill-control", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # lost connections are what we want
    kinds = arguments.kinds.split(",")
    if strange := set(kinds) - {"kill", "pause", "cut", "move"}:
        parser.error(f"there is no kind {', '.join(sorted(strange))}")
    gaps: dict[tuple[str, str], list[float]] = {}
    with cluster(readers=arguments.readers) as made:
        with made.connect() as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY)")
        with load(made.status()["endpoints"]["writer"]) as acks:
            for n in range(arguments.rounds):
                until_all_well(made, arguments.readers)
                time.sleep(SETTLE_S)
                kind = kinds[n % len(kinds)]
                for client, gap in one_round(
                    made, acks, kind, kill_control=arguments.kill_control
                ).items():
                    gaps.setdefault((kind, client), []).append(gap)
                shown = ", ".join(f"{client} {gaps[kind, client][-1]:.2f} s" for client in acks.at)
                print(f"{n + 1:4d} {kind:6s} {shown}", flush=True)
            until_all_well(made, arguments.readers)
        with made.connect() as connection:
            rows = connection.execute("SELECT id FROM beat").fetchall()
        status = made.status()
    found = {row[0] for row in rows}
    lost = len(acks.keys - found)
    refused = sum(s["counters"].get("refused_stale_epoch", 0) for s in status["storage"])
    every = {
        client: [g for (_, c), some in gaps.items() if c == client for g in some]
        for client in acks.at
    }
    result = {
        **{f"{kind}, {client}": summary(some) for (kind, client), some in sorted(gaps.items())},
        **{f"all, {client}": summary(some) for client, some in every.items()},
    }
    for name, row in result.items():
        print(
            f"{name:24s} median {row['median_s']:.2f} s, worst {row['worst_s']:.2f} s "
            f"of {row['rounds']:.0f}"
        )
    print(
        f"{len(acks.keys)} acknowledged, {lost} of them lost; {acks.errors} errors; epoch "
        f"{status['volume']['epoch']}; storage refused {refused} requests of old writers"
    )
    save(
        "failover-control-killed" if arguments.kill_control else "failover",
        {
            "gaps": result,
            "acknowledged": len(acks.keys),
            "lost": lost,
            "errors": acks.errors,
            "sqlstates": dict(acks.states),
            "epochs": status["volume"]["epoch"],
            "refused_of_old_writers": refused,
        },
    )
    if lost:
        sys.exit(1)


if __name__ == "__main__":
    main()
