"""Making a layout whose ports are free: a new one, or an old one whose ports others have taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from cluster.local.layout import (
    AZS,
    DEFAULT_MAX_STORAGE,
    DEFAULT_PORT,
    DEFAULT_READERS,
    MAIN,
    READERS_MAX,
    STORAGE_PER_AZ,
    ClusterSpec,
    InstanceSpec,
    Layout,
    StorageSpec,
)
from cluster.local.ports import free_ports, is_free, require_free
from engine.errors import ConfigError


def new_layout(
    *,
    port: int = DEFAULT_PORT,
    readers: int = DEFAULT_READERS,
    max_storage_bytes: int = DEFAULT_MAX_STORAGE,
) -> Layout:
    """Cluster "main" and its fleet: endpoints on `port` and `port` + 1, the rest on free ports above.

    Raises ConfigError if an endpoint's port is taken or `readers` is out of range.
    """
    if not 0 <= readers <= READERS_MAX:
        raise ConfigError(f"{readers} readers cannot be; choose 0 to {READERS_MAX}")
    require_free(port)
    require_free(port + 1)
    ports = free_ports(port + 1, taken=())
    control_port = next(ports)
    instances = tuple(
        InstanceSpec(f"{MAIN}-{number}", number, AZS[(number - 1) % len(AZS)], next(ports))
        for number in range(1, readers + 2)
    )
    azs = [az for az in AZS for _ in range(STORAGE_PER_AZ)]
    storage = tuple(
        StorageSpec(f"storage-{number}", az, next(ports)) for number, az in enumerate(azs, start=1)
    )
    main = ClusterSpec(MAIN, port, port + 1, max_storage_bytes, instances)
    return Layout(control_port, storage, (main,))


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

    Endpoint ports are the users' and stay: raises ConfigError if one is taken. The others are
    nobody's business and move if need be.
    """
    for cluster in layout.clusters:
        require_free(cluster.writer_port)
        require_free(cluster.reader_port)
        for endpoint in cluster.endpoints:
            require_free(endpoint.port)
    ports: Iterator[int] = free_ports(max(layout.ports), taken=layout.ports)
    return _map_inner_ports(layout, lambda old: old if is_free(old) else next(ports))


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
