"""Many replicas behind one endpoint: how evenly clients are spread, and how far replicas lag.

    python -m benchmarks.replicas [--replicas 15] [--rate 1000] [--seconds 20]

Opens four clients a replica on the reader endpoint and counts who got how many. Then inserts single rows at
`--rate` a second on the writer endpoint, and asks every replica ten times a second how long its newest
commit took from the writer to being visible there. Prints the rate that was reached, and the lag's median
and 99th percentile over all samples, in milliseconds. All processes share this machine's CPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from typing import Any

import asyncpg
import psycopg

from benchmarks.local import save
from cluster.cli.client import channel_to
from cluster.local.layout import load as load_layout
from cluster.testing import LocalCluster
from engine.net.methods import CLUSTER_STATUS
from engine.net.pb import control_pb2 as pb

CLIENTS_A_REPLICA = 4
WRITERS = 16
SAMPLE_S = 0.1


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


def connections(cluster: LocalCluster) -> Counter[str]:
    return Counter(
        {
            i["name"]: i["connections"]
            for i in cluster.status()["instances"]
            if i["role"] == "replica"
        }
    )


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


async def sample(address: str, stop: asyncio.Event) -> list[float]:
    """Lags of all replicas, milliseconds, ten times a second."""
    lags: list[float] = []
    async with channel_to(address) as control:
        while not stop.is_set():
            status = await control.call(
                CLUSTER_STATUS, pb.ClusterStatusRequest(cluster="main"), timeout=10
            )
            lags += [
                report.status.lag_us / 1000
                for report in status.instances
                if report.view.role == "replica" and report.HasField("status")
            ]
            await asyncio.sleep(SAMPLE_S)
    return lags


async def measure(cluster: LocalCluster, rate: float, seconds: float) -> tuple[float, list[float]]:
    layout = load_layout(cluster.folder)
    assert layout is not None
    await write(cluster.writer_url, rate, 2.0)  # everybody is warm
    stop = asyncio.Event()
    sampling = asyncio.create_task(sample(layout.control_address, stop))
    done, took = await write(cluster.writer_url, rate, seconds)
    stop.set()
    return done / took, sorted(await sampling)


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
        rate, lags = asyncio.run(measure(cluster, arguments.rate, arguments.seconds))
    result: dict[str, Any] = {
        "replicas": arguments.replicas,
        "clients": clients,
        "spread": [min(clients.values()), max(clients.values())],
        "wanted_writes_per_s": arguments.rate,
        "writes_per_s": round(rate),
        "lag_ms_p50": round(lags[len(lags) // 2], 2),
        "lag_ms_p99": round(lags[len(lags) * 99 // 100], 2),
        "samples": len(lags),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    save(f"replicas-{arguments.replicas}", result)


if __name__ == "__main__":
    main()
