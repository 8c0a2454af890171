"""What instances, clusters and snapshots may be called.

A name becomes part of a socket's path, of log files and of the names of processes, so it is short, plain,
and does not begin like those of other components.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.errors import ConfigError

NAME_MAX = 40
"""Characters of an instance's name, which is part of its socket's path."""

CLUSTER_NAME_MAX = 32
"""Of a cluster's name: its instances are called CLUSTER-NUMBER."""

RESERVED = ("archive", "autoscale", "control", "endpoint", "storage", "supervisor")
"""What other components' names, log files and folders begin with."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")


def is_name(text: str) -> bool:
    """Whether it is short and plain enough for an instance, a custom endpoint or a snapshot."""
    return len(text) <= NAME_MAX and _NAME.fullmatch(text) is not None


def check_snapshot_name(name: str) -> None:
    """Raises ConfigError unless a snapshot may be called so; it becomes part of objects' keys."""
    if not is_name(name):
        raise ConfigError(
            f"{name!r} cannot be a snapshot's name: a small letter, then at most {NAME_MAX - 1} small "
            "letters, digits and '-'"
        )


def check_instance_name(name: str, *, clusters: Collection[str]) -> None:
    """Raises ConfigError unless an instance may be called so."""
    if not is_name(name) or name.startswith(RESERVED):
        raise ConfigError(f"{name!r} cannot be an instance's name: {_rule(NAME_MAX)}")
    if name in clusters:
        raise ConfigError(f"{name} cannot be an instance's name: a cluster is called so")


def check_cluster_name(name: str, *, taken: Collection[str]) -> None:
    """Raises ConfigError unless a new cluster may be called so; `taken` are names of other things."""
    if len(name) > CLUSTER_NAME_MAX or not is_name(name) or name.startswith(RESERVED):
        raise ConfigError(f"{name!r} cannot be a cluster's name: {_rule(CLUSTER_NAME_MAX)}")
    if name in taken:
        raise ConfigError(f"{name} cannot be a cluster's name: an instance is called so")
    own = [other for other in taken if re.fullmatch(rf"{name}-\d+", other)]
    if own:
        raise ConfigError(
            f"{name} cannot be a cluster's name: its instances would be called {name}-1, {name}-2 …, "
            f"and there is an instance {own[0]}"
        )


def _rule(length: int) -> str:
    return (
        f"a letter, then at most {length - 1} letters, digits and '-', and not beginning with "
        f"{', '.join(RESERVED)}"
    )
