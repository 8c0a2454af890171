"""G7: once faults have healed, a write succeeds, and so does a read on every endpoint.

Only of what clients try: a workload that never writes, or never asks an endpoint, shows nothing of it.

Kinds: no-write, no-read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import Endpoint, Outcome, Transaction

CHECKER = "liveness"


def check(
    history: Iterable[Transaction],
    *,
    healed_at: float,
    within_s: float,
    writes: bool = True,
    endpoints: Collection[Endpoint] = (Endpoint.WRITER, Endpoint.READER),
) -> list[Violation]:
    """All must begin after `healed_at` and be committed `within_s` seconds after it.

    `writes`: whether clients try to commit any; `endpoints`: those that they ask.
    """
    findings = Findings(CHECKER)
    served = [
        t
        for t in history
        if t.outcome is Outcome.COMMITTED
        and t.invoked_at >= healed_at
        and t.completed_at <= healed_at + within_s
    ]
    if writes and not any(t.wrote for t in served):
        findings.add(
            "no-write",
            f"no write was committed within {within_s:g}s after all faults had healed",
            at=healed_at + within_s,
        )
    for endpoint in sorted(endpoints):
        strong = endpoint is Endpoint.READER  # whose sessions are through the same door
        if not any(
            t.endpoint is endpoint or (strong and t.endpoint is Endpoint.STRONG) for t in served
        ):
            findings.add(
                "no-read",
                f"no transaction was answered on the {endpoint.value} endpoint within {within_s:g}s"
                " after all faults had healed",
                at=healed_at + within_s,
            )
    return findings.found
