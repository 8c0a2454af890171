"""Many replicas behind one endpoint: how evenly clients are spread, and how far replicas lag.

    python -m benchmarks.replicas [--replicas 15] [--rate 1000] [--seconds 20]

Opens four clients a replica on the reader endpoint and counts who got how many. Then inserts single rows at
`--rate` a second on the writer endpoint. Prints the rate that was reached, and in milliseconds

- `commit_lag_ms`: how long commits took from durable on the writer to visible on a replica, median and 99th
  percentile over every commit on every replica: at most so long, as the replicas' counters have steps. A
  commit that a replica got otherwise than by its feed, joining again, is among `commits_not_counted`.
- `shown_lag_ms`: what `sextet status` says of lag, asked ten times a second. It is that of the newest
  commit then: many that come late together are one sample. `answers_missing` are those that a replica
  did not give.

All processes share this machine's CPUs. Exit status 1 if clients were not spread evenly, or if less than
95 % of `--rate` was reached: lag at a lower rate is another figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import psycopg

from benchmarks.local import save
from cluster.cli.client import channel_to
from cluster.local.layout import load as load_layout
from cluster.testing import LocalCluster
from engine.errors import SextetError
from engine.instance.replica import LAG_STEPS_MS, within
from engine.net.methods import CLUSTER_STATUS
from engine.net.pb import control_pb2 as pb

CLIENTS_A_REPLICA = 4
WRITERS = 16
SAMPLE_S = 0.1

REACHED = 0.95
"""The share of the rate asked for that counts as reached."""

CAUGHT_UP_S = 2.0
"""What was committed before is visible everywhere afterwards, or is counted as late."""


@dataclass
class Shown:
    """What `replicas` replicas said of their lag."""

    replicas: int
    lags_ms: list[float] = field(default_factory=list)
    missing: int = 0

    def take(self, status: pb.ClusterStatusReply | None) -> None:
        """None: nobody could be asked."""
        said = [] if status is None else [r.status.lag_us / 1000 for r in answering(status)]
        self.lags_ms += said
        self.missing += self.replicas - len(said)


def answering(status: pb.ClusterStatusReply) -> list[pb.InstanceReport]:
    return [r for r in status.instances if r.view.role == "replica" and r.HasField("status")]


def spread(cluster: LocalCluster, replicas: int) -> dict[str, int]:
    """How many clients each replica has, of four times as many as there are replicas."""
    before = connections(cluster)
    clients = [
        psycopg.connect(cluster.reader_url, autocommit=True, connect_timeout=30)
        for _ in range(CLIENTS_A_REPLICA * replicas)
    ]
    try:
        after = connections(cluster)
        return {name: after[name] - before[name] for name in after}
    finally:
        for client in clients:
            client.close()


def connections(cluster: LocalCluster) -> dict[str, int]:
    found = {
        i["name"]: i["connections"] for i in cluster.status()["instances"] if i["role"] == "replica"
    }
    if None in found.values():
        sys.exit(f"not every replica says how many clients it has: {found}")
    return found


async def write(url: str, rate: float, seconds: float) -> tuple[int, float]:
    """Insert at `rate` rows a second; how many there were, and in how many seconds."""
    pool = await asyncpg.create_pool(url, min_size=WRITERS, max_size=WRITERS, timeout=60)
    loop = asyncio.get_running_loop()
    began, done = loop.time(), 0

    async def work(number: int) -> None:
        nonlocal done
        due = began + number / rate
        async with pool.acquire() as connection:
            statement = await connection.prepare("INSERT INTO beat (v) VALUES ($1)")
            while due < began + seconds:
                await asyncio.sleep(max(0.0, due - loop.time()))
                await statement.fetch(number)
                done += 1
                due += WRITERS / rate

    await asyncio.gather(*(work(n) for n in range(WRITERS)))
    took = loop.time() - began
    await pool.close()
    return done, took


async def ask(control: Any) -> pb.ClusterStatusReply | None:
    request = pb.ClusterStatusRequest(cluster="main")
    try:
        reply: pb.ClusterStatusReply = await control.call(CLUSTER_STATUS, request, timeout=10)
    except SextetError:
        return None
    return reply


async def sample(control: Any, shown: Shown) -> None:
    while True:
        shown.take(await ask(control))
        await asyncio.sleep(SAMPLE_S)


async def counted(control: Any, replicas: int) -> Counter[str]:
    """All replicas' counters added up."""
    await asyncio.sleep(CAUGHT_UP_S)
    status = await ask(control)
    found = [] if status is None else answering(status)
    if len(found) < replicas:
        sys.exit(f"only {len(found)} of {replicas} replicas say what they have counted")
    return sum((Counter(dict(r.status.counters)) for r in found), Counter())


async def measure(
    cluster: LocalCluster, replicas: int, rate: float, seconds: float
) -> dict[str, Any]:
    layout = load_layout(cluster.folder)
    assert layout is not None
    shown = Shown(replicas)
    await write(cluster.writer_url, rate, 2.0)  # everybody is warm
    async with channel_to(layout.control_address) as control:
        before = await counted(control, replicas)
        sampling = asyncio.create_task(sample(control, shown))
        done, took = await write(cluster.writer_url, rate, seconds)
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling
        after = await counted(control, replicas)
    commits = after["commits_applied"] - before["commits_applied"]
    by_step = {step: after[within(step)] - before[within(step)] for step in LAG_STEPS_MS}
    return {
        "writes_per_s": round(done / took),
        "commits_counted": commits,
        "commits_not_counted": done * replicas - commits,
        "commit_lag_ms": {
            "p50": at_most(by_step, 0.5 * commits),
            "p99": at_most(by_step, 0.99 * commits),
        },
        "commits_within_ms": by_step,
        "shown_lag_ms": of_samples(shown.lags_ms),
        "answers": len(shown.lags_ms),
        "answers_missing": shown.missing,
    }


def at_most(by_step: dict[int, int], commits: float) -> int | None:
    """The step within which so many commits were visible, None if they took longer than all."""
    return next((step for step, count in by_step.items() if count >= commits), None)


def of_samples(lags: Sequence[float]) -> dict[str, float]:
    ordered = sorted(lags)
    places = {"p50": len(lags) // 2, "p99": len(lags) * 99 // 100, "max": len(lags) - 1}
    return {name: round(ordered[place], 2) for name, place in places.items()} if lags else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=15)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    began = time.perf_counter()
    with LocalCluster(replicas=arguments.replicas) as cluster:
        cluster.until_healthy()
        print(
            f"{arguments.replicas} replicas after {time.perf_counter() - began:.1f} s", flush=True
        )
        with psycopg.connect(cluster.writer_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE beat (id INTEGER PRIMARY KEY, v INTEGER)")
        clients = spread(cluster, arguments.replicas)
        measured = asyncio.run(
            measure(cluster, arguments.replicas, arguments.rate, arguments.seconds)
        )
    least, most = min(clients.values()), max(clients.values())
    result: dict[str, Any] = {
        "replicas": arguments.replicas,
        "clients": clients,
        "spread": [least, most],
        "wanted_writes_per_s": arguments.rate,
        **measured,
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    save(f"replicas-{arguments.replicas}", result)
    wrong = []
    if most - least > 1:
        wrong.append(f"clients are not spread evenly: from {least} to {most} a replica")
    if measured["writes_per_s"] < REACHED * arguments.rate:
        wrong.append(
            f"RATE NOT REACHED: {measured['writes_per_s']} writes/s instead of {arguments.rate:g}; these "
            f"lags are not those at {arguments.rate:g} writes/s"
        )
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
