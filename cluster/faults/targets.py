"""Whom a target names: a node, a zone or a role, looked up at the moment of asking."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from cluster.faults.catalogue import STEPS
from cluster.faults.directory import nodes_of
from cluster.local.folder import Folder
from cluster.local.layout import AZS, Layout
from engine.errors import ConfigError
from engine.faults.file import Node
from engine.steps import Step

ROLES = ("writer", "replica", "storage", "endpoint", "all")


class Targets:
    """The nodes of one installation as its layout has them now."""

    def __init__(self, folder: Folder, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self.nodes = nodes_of(layout)
        self._by_name = {node.name: node for node in self.nodes}

    def resolve(self, target: str) -> tuple[str, ...]:
        """Names of the nodes that `target` names now. Raises ConfigError naming what there is."""
        if target in self._by_name:
            return (target,)
        if target in AZS:
            return self._names(node for node in self.nodes if node.az == target)
        match target:
            case "writer":
                return self._some(self.writers(), target)
            case "replica":
                writers = self.writers()
                replicas = (n for n in self.nodes if n.kind == "instance" and n.name not in writers)
                return self._some(self._names(replicas), target)
            case "storage" | "endpoint":
                return self._names(node for node in self.nodes if node.kind == target)
            case "all":
                return self._names(self.nodes)
        raise ConfigError(
            f"there is no {target or 'target without a name'}; a target is one of "
            f"{', '.join(self._by_name)}, {', '.join(AZS)}, {', '.join(ROLES[:-1])} or {ROLES[-1]}"
        )

    def storage(self, target: str, what: str) -> tuple[str, ...]:
        """The storage nodes among them. Raises ConfigError if there is none."""
        found = self._of_kind("storage", target)
        if not found:
            there = ", ".join(self._of_kind("storage", "all"))
            raise ConfigError(f"{what} needs a disk, and {target} has none; there is: {there}")
        return found

    def taking(self, step: Step, target: str) -> tuple[str, ...]:
        """Those among them that take `step`. Raises ConfigError if there is none."""
        kind = next(kind for kind, steps in STEPS.items() if step in steps)
        found = self._of_kind(kind, target)
        if not found:
            takers = ", ".join(self._of_kind(kind, "all")) or "nobody that a fault reaches here"
            raise ConfigError(f"{target} never takes the step {step.value}; these do: {takers}")
        return found

    def _of_kind(self, kind: str, target: str) -> tuple[str, ...]:
        return tuple(n for n in self.resolve(target) if self._by_name[n].kind == kind)

    def writers(self) -> tuple[str, ...]:
        """The writer of every cluster that runs, by the catalog or else by the layout."""
        known = {cluster.name: cluster.writer_first for cluster in self._layout.running}
        known |= {c: w for c, w in _nominated(self._folder.catalog).items() if c in known}
        return tuple(known.values())

    def _names(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        return tuple(node.name for node in nodes)

    def _some(self, names: tuple[str, ...], target: str) -> tuple[str, ...]:
        if not names:
            raise ConfigError(f"no instance is a {target} now; see `sextet status`")
        return names


def _nominated(catalog: Path) -> dict[str, str]:
    """Each cluster's writer as the catalog on the disk has it; the control plane may be the one down."""
    if not catalog.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT name, writer FROM clusters").fetchall())
    except sqlite3.Error:
        return {}
