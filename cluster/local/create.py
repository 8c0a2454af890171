"""Making layouts and clusters whose ports are free: new ones, or old ones whose ports others have taken."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace

from cluster.local.layout import (
    AZS,
    DEFAULT_MAX_STORAGE,
    DEFAULT_PORT,
    DEFAULT_READERS,
    DEFAULT_RETENTION_DAYS,
    MAIN,
    READERS_MAX,
    STORAGE_PER_AZ,
    ClusterSpec,
    ClusterState,
    ForkSpec,
    InstanceSpec,
    Layout,
    StorageSpec,
)
from cluster.local.names import check_cluster_name
from cluster.local.ports import LAST_PORT, free_ports, is_free, require_free
from engine.errors import ConfigError


def new_layout(
    *,
    port: int = DEFAULT_PORT,
    readers: int = DEFAULT_READERS,
    max_storage_bytes: int = DEFAULT_MAX_STORAGE,
    retention_days: int = DEFAULT_RETENTION_DAYS,
    backtrack_window_s: int = 0,
) -> Layout:
    """Cluster "main" and its fleet: endpoints on `port` and `port` + 1, the rest on free ports above.

    Raises ConfigError if an endpoint's port is taken or a number is out of range.
    """
    require_free(port)
    require_free(port + 1)
    ports = free_ports(port + 1, taken=())
    control_port = next(ports)
    instances = _instances(MAIN, readers, ports)
    azs = [az for az in AZS for _ in range(STORAGE_PER_AZ)]
    storage = tuple(
        StorageSpec(f"storage-{number}", az, next(ports)) for number, az in enumerate(azs, start=1)
    )
    main = ClusterSpec(
        MAIN,
        port,
        port + 1,
        max_storage_bytes,
        instances,
        retention_days=retention_days,
        backtrack_window_s=backtrack_window_s,
    )
    return Layout(control_port, storage, (main,))


def _instances(cluster: str, readers: int, ports: Iterator[int]) -> tuple[InstanceSpec, ...]:
    """A writer and `readers` replicas, the AZs in turn. Raises ConfigError for a number out of range."""
    if not 0 <= readers <= READERS_MAX:
        raise ConfigError(f"{readers} readers cannot be; choose 0 to {READERS_MAX}")
    return tuple(
        InstanceSpec(f"{cluster}-{number}", number, AZS[(number - 1) % len(AZS)], next(ports))
        for number in range(1, readers + 2)
    )


def with_new_cluster(
    layout: Layout,
    name: str,
    *,
    readers: int = DEFAULT_READERS,
    port: int | None = None,
    max_storage_bytes: int = DEFAULT_MAX_STORAGE,
    retention_days: int = DEFAULT_RETENTION_DAYS,
    backtrack_window_s: int = 0,
    fork: ForkSpec | None = None,
    restoring: bool = False,
) -> Layout:
    """With one more cluster, which is being created, or cloned if `fork` says of what, or is there to be
    filled by a restore.

    Its endpoints are on `port` and the next one, or else on the first free pair above all endpoints; its
    instances on free ports above everybody's.

    Raises ConfigError if the name, the number of readers, the port, the retention or the backtrack window
    cannot be.
    """
    if any(cluster.name == name for cluster in layout.clusters):
        raise ConfigError(f"there is a cluster {name} already; see `sextet cluster list`")
    check_cluster_name(name, taken=layout.node_names)
    if port is None:
        port = _free_pair(layout)
    for own in (port, port + 1):
        if own in layout.ports:
            raise ConfigError(f"port {own} is this installation's own; choose another with --port")
        require_free(own)
    ports = free_ports(max(*layout.ports, port + 1), taken=())
    spec = ClusterSpec(
        name,
        port,
        port + 1,
        max_storage_bytes,
        _instances(name, readers, ports),
        state=ClusterState.CREATING if fork is None else ClusterState.CLONING,
        archive=new_archive_name(name),
        retention_days=retention_days,
        backtrack_window_s=backtrack_window_s,
        fork=fork,
        restoring=restoring,
    )
    return layout.with_cluster(spec)


def with_store(layout: Layout, store: str) -> Layout:
    """With every cluster's log archived to `store` from now on, "" for the folder in the data folder."""
    named = tuple(
        c if c.archive else replace(c, archive=new_archive_name(c.name)) for c in layout.clusters
    )
    return replace(layout, store=store, clusters=named)


def new_archive_name(cluster: str) -> str:
    """No other cluster's ever, of this installation or of another one with the same store."""
    return f"{cluster}-{secrets.token_hex(4)}"


def _free_pair(layout: Layout) -> int:
    """The first of two ports for endpoints. Raises ConfigError if there are none."""
    taken = layout.ports
    for port in free_ports(max(_endpoint_ports(layout)), taken=taken):
        if port < LAST_PORT and port + 1 not in taken and is_free(port + 1):
            return port
    raise ConfigError("no two free ports side by side are left; choose some with --port")


def _endpoint_ports(layout: Layout) -> list[int]:
    found = []
    for cluster in layout.clusters:
        found += [cluster.writer_port, cluster.reader_port]
        found += [endpoint.port for endpoint in cluster.endpoints]
    return found


def move_endpoints(layout: Layout, cluster: str, port: int) -> Layout:
    """With the endpoints of `cluster` on `port` and `port` + 1, and whatever was there elsewhere."""
    moved = replace(layout.cluster(cluster), writer_port=port, reader_port=port + 1)
    own = {port, port + 1}
    ports = free_ports(port + 1, taken={*layout.ports, *own})
    cleared = _map_inner_ports(layout, lambda old: next(ports) if old in own else old)
    instances = cleared.cluster(cluster).instances
    return cleared.with_cluster(replace(moved, instances=instances))


def with_free_ports(layout: Layout) -> Layout:
    """The same installation, stopped until now, on ports that are free today.

    Endpoint ports are the users' and stay: raises ConfigError if one is taken, unless its cluster is to
    stay stopped. The others are nobody's business and move if need be.
    """
    for cluster in layout.running:
        _require_endpoints(cluster)
    ports: Iterator[int] = free_ports(max(layout.ports), taken=layout.ports)
    return _map_inner_ports(layout, lambda old: old if is_free(old) else next(ports))


def with_free_ports_of(layout: Layout, name: str) -> Layout:
    """As `with_free_ports`, for one cluster that was stopped until now while others ran."""
    cluster = layout.cluster(name)
    _require_endpoints(cluster)
    ports = free_ports(max(layout.ports), taken=layout.ports)
    instances = tuple(
        i if is_free(i.port) else replace(i, port=next(ports)) for i in cluster.instances
    )
    return layout.with_cluster(replace(cluster, instances=instances))


def _require_endpoints(cluster: ClusterSpec) -> None:
    require_free(cluster.writer_port)
    require_free(cluster.reader_port)
    for endpoint in cluster.endpoints:
        require_free(endpoint.port)


def _map_inner_ports(layout: Layout, choose: Callable[[int], int]) -> Layout:
    return replace(
        layout,
        control_port=choose(layout.control_port),
        storage=tuple(replace(s, port=choose(s.port)) for s in layout.storage),
        clusters=tuple(
            replace(c, instances=tuple(replace(i, port=choose(i.port)) for i in c.instances))
            for c in layout.clusters
        ),
    )
