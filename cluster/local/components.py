"""Which processes an installation consists of: names, command lines, and the order to stop them."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.local.folder import Folder, socket_name
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout, StorageSpec, address
from cluster.local.spawn import PYTHON_MODULE


@dataclass(frozen=True, slots=True)
class Component:
    """One process to keep alive. Components of a lower `stage` are stopped first."""

    name: str
    stage: int
    command: tuple[str, ...]
    late: bool = False
    """Nobody waits for it: it starts when the others have had the time to."""


CONTROL_STAGE, ENDPOINT_STAGE, INSTANCE_STAGE, STORAGE_STAGE = range(4)
"""First nobody is replaced any more who stops before the others; clients are turned away; a writer can
still finish what it has in flight; the rest follows."""


AUTOSCALE = "autoscale-"
"""What the names of the processes begin with that carry out auto-scaling policies."""


def components_of(folder: Folder, layout: Layout) -> tuple[Component, ...]:
    """Every process of the installation, in the order in which to start them."""
    found = [
        Component("control", CONTROL_STAGE, _python("cluster.control", "--data", str(folder.data)))
    ]
    found += [_storage(folder, layout, node) for node in layout.storage]
    for cluster in layout.running:
        found += [_instance(layout, cluster, instance) for instance in cluster.instances]
        found.append(_endpoint(folder, cluster))
        if cluster.archive:
            found.append(_archiver(folder, cluster))
        if cluster.autoscale is not None:
            found.append(_autoscale(folder, cluster))
    return tuple(found)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (*PYTHON_MODULE, module, *arguments)


def _storage(folder: Folder, layout: Layout, node: StorageSpec) -> Component:
    command = _python(
        "engine.storage",
        *("--name", node.name, "--az", node.az),
        *("--listen", address(node.port), "--control", layout.control_address),
        *("--folder", str(folder.storage(node.name))),
        *(("--archived",) if any(cluster.archive for cluster in layout.clusters) else ()),
    )
    return Component(node.name, STORAGE_STAGE, command)


def _instance(layout: Layout, cluster: ClusterSpec, instance: InstanceSpec) -> Component:
    command = _python(
        "engine.instance",
        *("--name", instance.name, "--number", str(instance.number)),
        *("--cluster", cluster.name, "--az", instance.az),
        *("--listen", address(instance.port), "--control", layout.control_address),
        *("--socket", socket_name(instance.name), "--size", instance.size),
        *("--hot-window", f"{layout.hot_window_s:g}"),
    )
    return Component(instance.name, INSTANCE_STAGE, command)


def _autoscale(folder: Folder, cluster: ClusterSpec) -> Component:
    command = _python("cluster.autoscale", "--data", str(folder.data), "--cluster", cluster.name)
    return Component(AUTOSCALE + cluster.name, CONTROL_STAGE, command)


ARCHIVER = "archive-"


def archiver_name(cluster: str) -> str:
    return ARCHIVER + cluster


def _archiver(folder: Folder, cluster: ClusterSpec) -> Component:
    name = archiver_name(cluster.name)
    command = _python(
        "cluster.archiver", "--name", name, "--data", str(folder.data), "--cluster", cluster.name
    )
    return Component(name, INSTANCE_STAGE, command, late=True)


def endpoint_name(cluster: str) -> str:
    return f"endpoint-{cluster}"


def names_of(cluster: ClusterSpec) -> tuple[str, ...]:
    """The processes that are this cluster's alone, those included that it may have no more."""
    own = [instance.name for instance in cluster.instances]
    others = endpoint_name(cluster.name), AUTOSCALE + cluster.name, archiver_name(cluster.name)
    return (*own, *others)


def _endpoint(folder: Folder, cluster: ClusterSpec) -> Component:
    command = _python("cluster.endpoint", "--data", str(folder.data), "--cluster", cluster.name)
    return Component(endpoint_name(cluster.name), ENDPOINT_STAGE, command)
