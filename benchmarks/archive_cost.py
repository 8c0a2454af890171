"""What archiving costs commits, and how far the archive is behind them.

    python -m benchmarks.archive_cost [--rounds 10] [--seconds 10] [--clients 16] [--replicas 0]

Two installations run side by side: one as every one is, and one whose layout names no archive, which no
command can make. It has no archiver, and its storage nodes drop their log as soon as they may. In turn,
each round in the other order, `--clients` connections insert small rows into one of them as fast as they
can, while the other one idles. Prints of each the median, the least and the most over all rounds of

- `commits_per_s`, and `p50_ms` and `p99_ms` of how long a commit took;
- `lag_s`: how far behind now the newest moment was to which the cluster could have been restored, as
  `sextet status` shows it, asked for twenty times a second during the rounds with an archive; all samples'
  median and 99th percentile, and the most.

All processes share this machine's CPUs and disk, and the archive is on that disk too: a folder in the data
folder. Nothing is asserted about time. Exit status 1 if the archive did not come to hold every commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import psycopg

from benchmarks.local import save
from cluster.local.archiving import ArchiveState, load_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from cluster.testing import LocalCluster

SAMPLE_S = 0.05
CAUGHT_UP_S = 120.0
ON, OFF = "archived", "not archived"


class Unarchived(LocalCluster):
    """As it would be if nobody archived."""

    def _layout_of(self, folder: Folder) -> Layout:
        layout = super()._layout_of(folder)
        return replace(layout, clusters=tuple(replace(c, archive="") for c in layout.clusters))


@dataclass
class Measured:
    """Of one of the two installations, a value for each round."""

    commits_per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)

    def take(self, latencies_s: Sequence[float], seconds: float) -> None:
        ordered = sorted(latencies_s)
        self.commits_per_s.append(len(ordered) / seconds)
        self.p50_ms.append(1000 * ordered[len(ordered) // 2])
        self.p99_ms.append(1000 * ordered[len(ordered) * 99 // 100])

    def summary(self) -> dict[str, Any]:
        return {
            name: spread(values)
            for name, values in (
                ("commits_per_s", self.commits_per_s),
                ("p50_ms", self.p50_ms),
                ("p99_ms", self.p99_ms),
            )
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


async def work(url: str, clients: int, seconds: float) -> tuple[list[float], float]:
    """How long each commit took, and how long all of it."""
    pool = await asyncpg.create_pool(url, min_size=clients, max_size=clients, timeout=60)
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    began = loop.time()

    async def client() -> None:
        async with pool.acquire() as connection:
            insert = await connection.prepare("INSERT INTO beat (text) VALUES ($1)")
            while (start := loop.time()) < began + seconds:
                await insert.fetch("a row of some twenty bytes")
                latencies.append(loop.time() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    took = loop.time() - began
    await pool.close()
    return latencies, took


async def sample(folder: Folder, lags_s: list[float]) -> None:
    while True:
        state = load_archive_state(folder, "main")
        if state is not None and state.known_us:
            lags_s.append(max(0.0, time.time() - state.known_us / 1e6))
        await asyncio.sleep(SAMPLE_S)


async def one_round(
    cluster: LocalCluster, clients: int, seconds: float, lags_s: list[float] | None
) -> tuple[list[float], float]:
    if lags_s is None:
        return await work(cluster.writer_url, clients, seconds)
    sampling = asyncio.create_task(sample(Folder.at(cluster.folder), lags_s))
    found = await work(cluster.writer_url, clients, seconds)
    sampling.cancel()
    with suppress(asyncio.CancelledError):
        await sampling
    return found


def state_of(cluster: LocalCluster) -> ArchiveState | None:
    return load_archive_state(Folder.at(cluster.folder), "main")


def caught_up(cluster: LocalCluster) -> float:
    """Seconds until everything that is committed now is in the archive."""
    began = time.perf_counter()
    now_us = time.time_ns() // 1000

    def holds_all() -> bool:
        state = state_of(cluster)
        return state is not None and state.known_us >= now_us

    cluster.until(holds_all, "everything is archived", CAUGHT_UP_S, lambda: state_of(cluster))
    return time.perf_counter() - began


def lag_of(lags_s: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(lags_s)
    if not ordered:
        return {"samples": 0}
    return {
        "samples": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[len(ordered) * 99 // 100], 2),
        "max": round(ordered[-1], 2),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    results = {ON: Measured(), OFF: Measured()}
    lags_s: list[float] = []
    ends_s: list[float] = []
    with (
        LocalCluster(replicas=arguments.replicas) as archived,
        Unarchived(replicas=arguments.replicas) as bare,
    ):
        clusters = {ON: archived, OFF: bare}
        for cluster in clusters.values():
            with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
                connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, text TEXT)")
        if state_of(bare) is not None:
            sys.exit("what should not archive does")
        caught_up(archived)
        for cluster in clusters.values():  # everybody is warm
            asyncio.run(one_round(cluster, arguments.clients, 1.0, None))
        for number in range(arguments.rounds):
            for name in (ON, OFF) if number % 2 else (OFF, ON):
                lags = lags_s if name == ON else None
                results[name].take(
                    *asyncio.run(
                        one_round(clusters[name], arguments.clients, arguments.seconds, lags)
                    )
                )
                ends_s.append(caught_up(archived))  # so that no round pays for another one
                rate = results[name].commits_per_s[-1]
                print(f"round {number + 1}, {name}: {rate:.0f} commits/s", flush=True)
    ratios = [
        on / off
        for on, off in zip(results[ON].commits_per_s, results[OFF].commits_per_s, strict=True)
    ]
    return {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "clients": arguments.clients,
        "replicas": arguments.replicas,
        **{name: measured.summary() for name, measured in results.items()},
        "commits_archived_to_not": spread(ratios),
        "lag_s": lag_of(lags_s),
        "until_caught_up_s": spread(ends_s),
        "cpus": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=0)
    result = measure(parser.parse_args())
    print(json.dumps(result, indent=2))
    save("archive-cost", result)


if __name__ == "__main__":
    main()
