"""G7: once faults have healed, a write succeeds, and so does a read on every endpoint.

Kinds: no-write, no-read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cluster.sim.checkers import Findings, Violation
from cluster.sim.history import Append, Endpoint, Outcome, Transaction, Write

CHECKER = "liveness"


def check(
    history: Iterable[Transaction],
    *,
    healed_at: float,
    within_s: float,
    endpoints: Collection[Endpoint] = (Endpoint.WRITER, Endpoint.READER),
) -> list[Violation]:
    """Both must begin after `healed_at` and be committed `within_s` seconds after it."""
    findings = Findings(CHECKER)
    served = [
        t
        for t in history
        if t.outcome is Outcome.COMMITTED
        and t.invoked_at >= healed_at
        and t.completed_at <= healed_at + within_s
    ]
    if not any(isinstance(op, Append | Write) for t in served for op in t.ops):
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
