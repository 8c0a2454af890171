"""G4: no two nodes hold different bytes for one record, nor for one version of one page.

Give only what its node would give to others: a copy that fails its checksum is damaged, not different.
Digests do as well as bytes.

Kinds: record-differs, page-differs; with `settled` also record-missing, page-missing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.sim.checkers import Findings, Violation
from engine.types import LSN, Epoch, NodeId, PageNo, PgNo

CHECKER = "segments"

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node holds of one protection group."""

    node: NodeId
    pg: PgNo
    records: Mapping[tuple[Epoch, LSN], bytes] = field(default_factory=dict)
    pages: Mapping[tuple[PageNo, LSN], bytes] = field(default_factory=dict)
    """The LSN is that of the newest record in the image."""


def check(holdings: Sequence[Holding], *, settled: bool = False) -> list[Violation]:
    """`settled`: all members of a group must hold the same, because nothing happens any more.

    Nodes collect garbage and coalesce each at their own pace, so give what lies above every
    PGMRPL then, and pages as of one LSN.
    """
    findings = Findings(CHECKER)
    groups: dict[PgNo, list[Holding]] = {}
    for holding in sorted(holdings, key=lambda h: (h.pg, h.node)):
        groups.setdefault(holding.pg, []).append(holding)
    for pg, members in groups.items():
        _compare(
            "record",
            [(h.node, h.records) for h in members],
            lambda key: f"record {key[1]} of epoch {key[0]}",
            pg,
            settled,
            findings,
        )
        _compare(
            "page",
            [(h.node, h.pages) for h in members],
            lambda key: f"page {key[0]} at {key[1]}",
            pg,
            settled,
            findings,
        )
    return findings.found


def _compare(
    what: str,
    held: Sequence[tuple[NodeId, Mapping[tuple[int, LSN], bytes]]],
    name: Callable[[tuple[int, LSN]], str],
    pg: PgNo,
    settled: bool,
    findings: Findings,
) -> None:
    for key in sorted({key for _, items in held for key in items}):
        by_value: dict[bytes, list[NodeId]] = {}
        missing = []
        for node, items in held:
            value = items.get(key)
            if value is None:
                missing.append(node)
            else:
                by_value.setdefault(value, []).append(node)
        if len(by_value) > 1:
            camps = " and ".join(", ".join(nodes) for nodes in by_value.values())
            findings.add(
                f"{what}-differs",
                f"{name(key)} of group {pg} differs between {camps}",
                nodes=[node for nodes in by_value.values() for node in nodes],
                lsns=(key[1],),
            )
        if settled and missing:
            findings.add(
                f"{what}-missing",
                f"{name(key)} of group {pg} is missing at {', '.join(missing)}",
                nodes=missing,
                lsns=(key[1],),
            )
