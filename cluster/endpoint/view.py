"""The last cluster view that an endpoint heard of, kept in a file for when the control plane is away."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.local.files import read_json, write_json
from engine.errors import ConfigError
from engine.net.pb import control_pb2 as pb

WRITER = "writer"


@dataclass(frozen=True, slots=True)
class Target:
    """An instance that takes clients on `socket`, a path relative to the data folder."""

    name: str
    role: str
    socket: str


@dataclass(frozen=True, slots=True)
class EndpointView:
    """Who there is; `version` is the catalog's."""

    version: int = 0
    targets: tuple[Target, ...] = ()


def view_from_pb(view: pb.ClusterView) -> EndpointView:
    return EndpointView(
        view.version,
        tuple(
            Target(i.name, i.role, i.socket) for i in sorted(view.instances, key=lambda i: i.name)
        ),
    )


def save_view(path: Path, view: EndpointView) -> None:
    write_json(path, asdict(view))


def load_view(path: Path) -> EndpointView:
    """What was saved last; an empty view if there is nothing usable: it is only a head start."""
    try:
        value = read_json(path)
        if value is None:
            return EndpointView()
        targets = tuple(Target(**target) for target in value["targets"])
        return EndpointView(int(value["version"]), targets)
    except (ConfigError, KeyError, TypeError, ValueError):
        return EndpointView()
