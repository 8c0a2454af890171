"""G1, G4: no two nodes hold different bytes for one record or one version of one page, and what each
holds is the committed log, all of it.

Give only what its node would give to others: a copy that fails its checksum is damaged, not different.

Kinds
- record-differs, page-differs: two nodes disagree.
- record-not-sent: no writer ever sent this record, or not with these bytes.
- page-not-of-log: a page version is not what the log's records make of that page up to its LSN.
- record-missing: neither in a page version nor as a record is something there that the log has. Only of
  a copy that is `whole`: complete up to the end, with nothing in it unreadable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.sim.checkers import Findings, Violation
from engine.log.apply import apply_record
from engine.log.record import Record
from engine.types import LSN, Epoch, NodeId, PageNo, PgNo

CHECKER = "segments"


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node holds of one protection group."""

    node: NodeId
    pg: PgNo
    records: Mapping[tuple[Epoch, LSN], bytes] = field(default_factory=dict)
    pages: Mapping[tuple[PageNo, LSN], bytes] = field(default_factory=dict)
    """The LSN is that of the newest record in the image."""
    whole: bool = False
    """It says that it has everything, and nothing in it is rotten."""


def check(holdings: Sequence[Holding]) -> list[Violation]:
    """Each with each."""
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
            findings,
        )
        _compare(
            "page",
            [(h.node, h.pages) for h in members],
            lambda key: f"page {key[0]} at {key[1]}",
            pg,
            findings,
        )
    return findings.found


def _compare(
    what: str,
    held: Sequence[tuple[NodeId, Mapping[tuple[int, LSN], bytes]]],
    name: Callable[[tuple[int, LSN]], str],
    pg: PgNo,
    findings: Findings,
) -> None:
    for key in sorted({key for _, items in held for key in items}):
        by_value: dict[bytes, list[NodeId]] = {}
        for node, items in held:
            if (value := items.get(key)) is not None:
                by_value.setdefault(value, []).append(node)
        if len(by_value) > 1:
            camps = " and ".join(", ".join(nodes) for nodes in by_value.values())
            findings.add(
                f"{what}-differs",
                f"{name(key)} of group {pg} differs between {camps}",
                nodes=[node for nodes in by_value.values() for node in nodes],
                lsns=(key[1],),
            )


def check_against_log(
    holdings: Iterable[Holding],
    log: Sequence[Record],
    sent: Mapping[tuple[Epoch, LSN], bytes],
    pg_of: Callable[[PageNo], PgNo],
) -> list[Violation]:
    """Each with the log. `log`: the committed records in order; `sent`: the bytes of every record that any
    writer ever sent, by epoch and LSN."""
    findings = Findings(CHECKER)
    by_page: defaultdict[PageNo, list[Record]] = defaultdict(list)
    for record in log:
        by_page[record.page].append(record)
    images = _Images(by_page)
    for held in sorted(holdings, key=lambda h: (h.pg, h.node)):
        for (epoch, lsn), data in held.records.items():
            if sent.get((epoch, lsn)) != data:
                message = f"{held.node} holds record {lsn} of epoch {epoch}, which nobody sent so"
                findings.add("record-not-sent", message, nodes=[held.node], lsns=[lsn])
        for (page, lsn), image in held.pages.items():
            if images.at(page, lsn) != image:
                message = f"{held.node} holds page {page} at {lsn}, and it is not that of the log"
                findings.add("page-not-of-log", message, nodes=[held.node], lsns=[lsn])
        if held.whole:
            _complete(held, [p for p in sorted(by_page) if pg_of(p) == held.pg], by_page, findings)
    return findings.found


def _complete(
    held: Holding,
    pages: Iterable[PageNo],
    by_page: Mapping[PageNo, Sequence[Record]],
    findings: Findings,
) -> None:
    newest: dict[PageNo, LSN] = {}
    for page, lsn in held.pages:
        newest[page] = max(lsn, newest.get(page, 0))
    for page in pages:
        for record in by_page[page]:
            if record.lsn > newest.get(page, 0) and (record.epoch, record.lsn) not in held.records:
                message = (
                    f"{held.node} has record {record.lsn} neither in page {page} nor in its log"
                )
                findings.add("record-missing", message, nodes=[held.node], lsns=[record.lsn])


class _Images:
    """Pages as of the LSNs of their records, each worked out once."""

    def __init__(self, by_page: Mapping[PageNo, Sequence[Record]]) -> None:
        self._by_page = by_page
        self._made: dict[PageNo, dict[LSN, bytes]] = {}

    def at(self, page: PageNo, lsn: LSN) -> bytes | None:
        """None if the log has no record of the page with this LSN."""
        if page not in self._made:
            image: bytes | None = None
            made = self._made[page] = {}
            for record in self._by_page.get(page, ()):
                image = made[record.lsn] = apply_record(image, record)
        return self._made[page].get(lsn)
