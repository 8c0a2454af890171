"""Custom endpoints: the layout is changed and the endpoint process told of it (SIGHUP)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from cluster.cli.client import running_layout
from cluster.cli.console import narrow_table, out, print_json
from cluster.cli.errors import CommandFailed
from cluster.local.change import change_layout, layout_turn
from cluster.local.components import endpoint_name
from cluster.local.folder import Folder
from cluster.local.layout import HOST, EndpointSpec, Layout
from cluster.local.ports import answers, free_ports, is_free, require_free
from cluster.local.state import running_state

WAIT_S = 10.0
POLL_S = 0.05


def add_endpoint(
    folder: Folder,
    cluster: str,
    name: str,
    *,
    members: tuple[str, ...],
    exclude: tuple[str, ...],
    port: int | None,
) -> None:
    """Returns once it listens. Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder)
    with layout_turn(folder):

        def grown(layout: Layout) -> Layout:
            chosen = port
            if chosen is None:
                chosen = next(free_ports(max(layout.ports), taken=layout.ports))
            else:
                require_free(chosen)
            layout.running_cluster(cluster)  # else nobody would open the port
            return layout.with_endpoint(cluster, EndpointSpec(name, chosen, members, exclude))

        new = change_layout(folder, grown).cluster(cluster).endpoints[-1]
        _tell(folder, cluster)
    if not _until(lambda: answers(new.port)):
        raise CommandFailed(
            f"endpoint {name} does not listen on port {new.port}; see "
            f"{folder.log(endpoint_name(cluster))}"
        )
    out.print(f"endpoint {name}  {_url(new.port, cluster)}", soft_wrap=True)


def remove_endpoint(folder: Folder, cluster: str, name: str) -> None:
    """Returns once its port is closed. Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder)
    with layout_turn(folder):
        old = running_layout(folder).cluster(cluster)
        change_layout(folder, lambda layout: layout.without_endpoint(cluster, name))
        _tell(folder, cluster)
    port = next(endpoint.port for endpoint in old.endpoints if endpoint.name == name)
    if not _until(lambda: is_free(port)):
        raise CommandFailed(f"endpoint {name} is removed but its port {port} is not closed")
    out.print(f"endpoint {name} is removed")


def list_endpoints(folder: Folder, cluster: str, *, as_json: bool) -> None:
    """Print them. Raises NotRunning."""
    spec = running_layout(folder).cluster(cluster)
    names = [instance.name for instance in spec.instances]
    rows: list[dict[str, Any]] = [
        {"name": "writer", "url": spec.writer_url, "kind": "writer", "members": None},
        {"name": "reader", "url": spec.reader_url, "kind": "reader", "members": None},
    ]
    rows += [
        {
            "name": endpoint.name,
            "url": _url(endpoint.port, cluster),
            "kind": "members" if endpoint.members else "exclude",
            "members": [name for name in names if endpoint.admits(name)],
        }
        for endpoint in spec.endpoints
    ]
    if as_json:
        print_json(rows)
        return
    said = {"writer": "the writer", "reader": "the replicas"}
    table = narrow_table(("name", "URL", "clients are given to"), right=())
    for row in rows:
        whom = said.get(row["kind"]) or ", ".join(row["members"]) or "nobody"
        table.add_row(row["name"], row["url"], whom)
    out.print(table)


def _url(port: int, cluster: str) -> str:
    return f"postgresql://postgres@{HOST}:{port}/{cluster}"


def _tell(folder: Folder, cluster: str) -> None:
    """The endpoint process reads the layout again; if it is starting it reads it anyway."""
    state = running_state(folder)
    child = state.child(endpoint_name(cluster)) if state is not None else None
    if child is not None and child.process is not None:
        child.process.send(signal.SIGHUP)


def _until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
