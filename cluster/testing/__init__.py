"""Clusters for your own tests: real processes in a temporary folder, faults by command, nothing left.

    with LocalCluster(replicas=2) as cluster:
        connection = psycopg.connect(cluster.writer_url)
        cluster.fault.kill("writer")

In an event loop it is `async with AsyncLocalCluster()` and `await cluster.fault.kill("writer")`. With
pytest the fixtures `sextet`, `sextet_async` and `sextet_cluster` are there once this package is installed
(`cluster.testing.plugin`); docs/testing.md shows how to use them.
"""

from cluster.testing.asynchronous import AsyncFaultKit, AsyncLocalCluster
from cluster.testing.local import ClusterDown, LocalCluster

__all__ = ["AsyncFaultKit", "AsyncLocalCluster", "ClusterDown", "LocalCluster"]
