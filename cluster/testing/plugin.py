"""The pytest plugin: fixtures with a running cluster.

Where Sextet is installed by pip it is there; from a checkout, `-p cluster.testing.plugin` or, in the
topmost conftest.py,

    pytest_plugins = ["cluster.testing.plugin"]

`sextet_cluster` is one cluster for the whole session; each pytest-xdist worker has its own. `sextet` is
the same cluster in order: after the test every fault is healed and everybody is up again, so the next
test finds nothing of what this one broke. Data stays: use tables of your own, or drop them.
`sextet_async` is `sextet` for tests that are coroutines, whichever plugin runs those.

`--sextet-replicas N`, or `sextet_replicas = N` in the configuration, says how many replicas it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # loaded by every pytest run on this machine, so it must be quick
    from cluster.testing.asynchronous import AsyncLocalCluster
    from cluster.testing.local import LocalCluster

REPLICAS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sextet")
    group.addoption(
        "--sextet-replicas",
        type=int,
        default=None,
        metavar="N",
        help=f"read replicas of the cluster that the fixture `sextet` gives (default: {REPLICAS})",
    )
    parser.addini("sextet_replicas", "read replicas of the fixture `sextet`'s cluster", default="")


@pytest.fixture(scope="session")
def sextet_cluster(pytestconfig: pytest.Config) -> Iterator[LocalCluster]:
    """One running cluster for all tests; see `sextet`."""
    wanted = pytestconfig.getoption("--sextet-replicas")
    if wanted is None:
        wanted = int(pytestconfig.getini("sextet_replicas") or REPLICAS)
    from cluster.testing.local import LocalCluster

    with LocalCluster(replicas=wanted) as cluster:
        yield cluster


@pytest.fixture
def sextet(sextet_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The session's cluster, whole again after the test."""
    yield sextet_cluster
    sextet_cluster.fault.heal()
    sextet_cluster.until_healthy()


@pytest.fixture
def sextet_async(sextet: LocalCluster) -> AsyncLocalCluster:
    """`sextet`, awaited: it is started and made whole again outside of the test's loop."""
    from cluster.testing.asynchronous import AsyncLocalCluster

    return AsyncLocalCluster.of(sextet)
