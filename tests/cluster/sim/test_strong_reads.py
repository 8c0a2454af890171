"""Strong reads at the reader endpoint while everything goes wrong: each sees what was acknowledged before.

The simulator's checkers hold them to what the writer endpoint promises; here they get something to check.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.sim.history import Endpoint, Outcome
from cluster.sim.jobs import attempt
from cluster.sim.schedule import Task
from cluster.sim.swarm import draw

WEIGHTS = {"append": 6, "lists": 8, "bank": 2, "register-write": 2}
SEEDS = range(1, 9)
TRANSACTIONS_PER_S = 40


@pytest.mark.sim
def test_strong_reads_are_of_the_newest_state_whatever_fails() -> None:
    answered = elsewhere = 0
    for seed in SEEDS:
        plan = draw(seed, safety_s=8.0)
        mix = replace(
            plan.mix,
            strong_share=0.6,
            reader_share=0.7,
            weights=WEIGHTS,
            think_s=plan.mix.clients / TRANSACTIONS_PER_S,
        )
        result = attempt(Task(replace(plan, mix=mix)))
        found = [(v.checker, v.kind, v.message) for v in result.violations]
        assert not found, f"seed {seed}"
        strong = [t for t in result.history if t.endpoint is Endpoint.STRONG]
        answered += sum(t.outcome is Outcome.COMMITTED for t in strong)
        writers = {t.instance for t in result.history if t.commit_lsn is not None}
        elsewhere += sum(t.instance not in writers for t in strong)
    assert answered > 25 * len(SEEDS), answered
    assert elsewhere > answered / 4, "most of them on replicas"
