"""Clusters for your own tests: real processes in a temporary folder, faults by command, nothing left.

    with LocalCluster(replicas=2) as cluster:
        connection = psycopg.connect(cluster.writer_url)
        cluster.fault.kill("writer")

`async with` works as well. With pytest the fixtures `sextet` and `sextet_cluster` are there once this
package is installed (`cluster.testing.plugin`); docs/testing.md shows how to use them.
"""

from cluster.testing.local import ClusterDown, LocalCluster

__all__ = ["ClusterDown", "LocalCluster"]
