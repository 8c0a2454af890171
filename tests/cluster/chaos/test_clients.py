"""What a client makes of an answer, and what the recorder makes of what clients were told."""

from __future__ import annotations

import random

import pytest

from cluster.chaos.clients import outcome_of, promised
from cluster.chaos.recorder import APPENDS_PER_GENERATION, Recorder, longest_gap
from cluster.chaos.wire import Failed
from cluster.sim.history import Append, Endpoint, Outcome, Transaction


@pytest.mark.parametrize(
    ("sqlstate", "deciding", "outcome"),
    [
        ("08007", True, Outcome.UNKNOWN),
        ("", True, Outcome.UNKNOWN),
        ("08006", True, Outcome.UNKNOWN),
        ("", False, Outcome.ABORTED),
        ("40001", True, Outcome.ABORTED),
        ("57P01", True, Outcome.ABORTED),
    ],
)
def test_what_is_known_of_a_transaction_that_failed(sqlstate, deciding, outcome) -> None:
    failed = Failed(sqlstate, "", lost=not sqlstate)
    assert outcome_of(failed, deciding=deciding) is outcome


def test_only_a_commit_or_a_strong_read_promises_the_newest_state() -> None:
    assert promised(Endpoint.WRITER, strong=False, wrote=True) is Endpoint.WRITER
    assert promised(Endpoint.WRITER, strong=True, wrote=False) is Endpoint.STRONG
    assert promised(Endpoint.READER, strong=True, wrote=False) is Endpoint.STRONG
    assert not promised(Endpoint.WRITER, strong=False, wrote=False).newest
    assert not promised(Endpoint.READER, strong=False, wrote=False).newest


def transaction(seq: int, outcome: Outcome, completed: float) -> Transaction:
    return Transaction(
        client="c1",
        seq=seq,
        session="c1-1",
        instance="main-1",
        endpoint=Endpoint.WRITER,
        invoked_at=completed - 0.1,
        completed_at=completed,
        outcome=outcome,
        ops=(Append(f"g{seq}", seq),),
    )


def test_the_recorder_counts_and_stops_at_its_limit() -> None:
    recorder = Recorder(lambda: 0.0, limit=3)
    recorder.record(transaction(1, Outcome.COMMITTED, 1.0), wrote=True)
    recorder.record(transaction(2, Outcome.UNKNOWN, 2.0), wrote=False, error="08007")
    assert not recorder.full
    recorder.record(transaction(3, Outcome.ABORTED, 3.0), wrote=False, error="lost")
    assert recorder.full
    assert recorder.outcomes == {"committed": 1, "unknown": 1, "aborted": 1}
    assert recorder.errors == {"08007": 1, "lost": 1}
    assert recorder.acknowledged == [1.0]
    assert recorder.keys == ["g1", "g2", "g3"]


def test_values_are_never_given_twice_and_lists_do_not_grow_for_ever() -> None:
    recorder, rng = Recorder(lambda: 0.0), random.Random(1)
    appended: dict[str, list[int]] = {}
    for _ in range(20 * APPENDS_PER_GENERATION):
        appended.setdefault(recorder.key(rng), []).append(recorder.value())
    values = [value for some in appended.values() for value in some]
    assert len(set(values)) == len(values)
    assert max(map(len, appended.values())) < APPENDS_PER_GENERATION / 2


def test_the_longest_gap_counts_from_the_start_and_to_the_end() -> None:
    assert longest_gap([], 1.0, 9.0) == (1.0, 9.0)
    assert longest_gap([2.0, 3.0, 7.0], 1.0, 8.0) == (3.0, 7.0)
    assert longest_gap([2.0, 3.0], 1.0, 9.0) == (3.0, 9.0)
    assert longest_gap([6.0], 1.0, 7.0) == (1.0, 6.0)
