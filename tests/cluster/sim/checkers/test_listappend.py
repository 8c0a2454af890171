"""Lists: every anomaly by its smallest history; right histories are left alone; speed is linear."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.sim.checkers import MAX_PER_KIND
from cluster.sim.checkers.listappend import check, looked_at
from cluster.sim.history import Append, Endpoint, History, Outcome, ReadList
from tests.cluster.sim.checkers.histories import Script, a, kinds, r, rr, w
from tests.cluster.sim.checkers.model import Bug, Model

Build = Callable[[Script], None]
SCRIPTS: dict[str, tuple[Build, list[str]]] = {}


def anomaly(*expected: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        SCRIPTS[build.__name__] = (build, sorted(expected))
        return build

    return register


@anomaly("G0")
def writes_of_two_transactions_interleave(s: Script) -> None:
    s.add(a("x", 1), a("y", 1))
    s.add(a("x", 2), a("y", 2))
    s.add(r("x", 1, 2))
    s.add(r("y", 2, 1))


@anomaly("G1a")
def an_aborted_append_is_read(s: Script) -> None:
    s.aborted(a("x", 1))
    s.add(r("x", 1))


@anomaly("G1a", "incompatible-order")
def an_aborted_append_is_read_and_gone_later(s: Script) -> None:
    s.aborted(a("x", 1))
    s.add(r("x", 1))
    s.add(a("x", 2), a("x", 3))
    s.add(r("x", 2, 3))


@anomaly("G1a", "dirty-update")
def an_append_follows_an_aborted_one(s: Script) -> None:
    s.aborted(a("x", 1))
    s.add(a("x", 2))
    s.add(r("x", 1, 2))


@anomaly("G1b", "G-single")
def a_transaction_is_seen_half_way(s: Script) -> None:
    s.add(a("x", 1), a("x", 2))
    s.add(r("x", 1))
    s.add(r("x", 1, 2))


@anomaly("G1c")
def two_transactions_read_each_other(s: Script) -> None:
    s.add(a("x", 1), r("y", 1))
    s.add(a("y", 1), r("x", 1))


@anomaly("G1c")
def one_reads_what_was_appended_after_it(s: Script) -> None:
    s.add(a("x", 1), r("y", 5))
    s.add(a("x", 2), a("y", 5))
    s.add(r("x", 1))


@anomaly("G-single")
def a_read_misses_half_of_what_it_saw(s: Script) -> None:
    s.add(a("x", 1), a("y", 1))
    s.add(r("x", 1), r("y"))
    s.add(r("y", 1))


@anomaly("G-single")
def a_transaction_of_unknown_outcome_is_there_in_part(s: Script) -> None:
    s.unknown(a("x", 1), a("y", 1), at=(0, 1))
    s.add(r("x", 1), at=(2, 3))
    s.add(r("x", 1), r("y"), at=(4, 5))


@anomaly("lost-update", "G-single")
def an_update_is_lost(s: Script) -> None:
    s.add(r("x"), a("x", 1))
    s.add(r("x"), a("x", 2))
    s.add(r("x", 1, 2))


@anomaly("lost-update", "G2")
def an_update_is_lost_and_never_read(s: Script) -> None:
    s.add(r("x"), a("x", 1))
    s.add(r("x"), a("x", 2))


@anomaly("G2")
def write_skew(s: Script) -> None:
    s.add(r("x"), r("y"), a("x", 1))
    s.add(r("x"), r("y"), a("y", 1))
    s.add(r("x", 1), r("y", 1))


@anomaly("G2")
def write_skew_that_nobody_read(s: Script) -> None:
    s.add(r("x"), a("y", 1))
    s.add(r("y"), a("x", 1))


@anomaly("G2")
def a_reader_sees_one_of_two_that_crossed(s: Script) -> None:
    """Fekete's read-only anomaly: two anti-dependencies in a row, so no long fork."""
    s.add(a("x", 1))
    s.replica(r("x", 1), r("y"))
    s.add(r("x"), a("y", 1))


@anomaly("long-fork")
def two_replicas_see_two_commits_in_two_orders(s: Script) -> None:
    s.add(a("x", 1))
    s.add(a("y", 1))
    s.replica(r("x", 1), r("y"))
    s.replica(r("x"), r("y", 1))


@anomaly("long-fork")
def the_same_between_writer_and_replica(s: Script) -> None:
    s.add(a("x", 1))
    s.add(a("y", 1))
    s.add(r("x", 1), r("y"))
    s.replica(r("x"), r("y", 1))


@anomaly("incompatible-order")
def two_reads_disagree(s: Script) -> None:
    s.add(a("x", 1))
    s.add(a("x", 2))
    s.add(r("x", 1))
    s.add(r("x", 2))


@anomaly("duplicate-element")
def an_append_took_effect_twice(s: Script) -> None:
    s.add(a("x", 1))
    s.add(r("x", 1, 1))


@anomaly("duplicate-element")
def an_append_took_effect_again_later(s: Script) -> None:
    s.add(a("x", 1))
    s.add(a("x", 2))
    s.add(r("x", 1, 2, 1))


@anomaly("garbage")
def what_nobody_appended(s: Script) -> None:
    s.add(r("x", 7))


@anomaly("internal")
def an_own_append_is_missing(s: Script) -> None:
    s.add(r("x"), a("x", 1), r("x"))


@anomaly("internal")
def an_own_append_is_missing_at_first_read(s: Script) -> None:
    s.add(a("x", 1))
    s.add(a("x", 2), r("x", 1))


@anomaly("internal")
def the_snapshot_moves_within_a_transaction(s: Script) -> None:
    s.add(a("x", 1))
    s.replica(r("x"), r("x", 1))


@anomaly("stale-read", "G-single-realtime")
def an_acknowledged_commit_is_gone(s: Script) -> None:
    s.add(a("x", 1), at=(0, 1))
    s.add(r("x"), at=(2, 3))


@anomaly("stale-read", "G-single-realtime")
def the_same_with_others_between(s: Script) -> None:
    s.add(a("y", 1), at=(0, 3))
    s.add(a("x", 1), at=(0, 1))
    s.add(r("z"), at=(2, 10))
    s.add(r("x"), at=(4, 5))


@anomaly("stale-read", "G-single-realtime")
def a_zombie_writer_serves_the_past(s: Script) -> None:
    s.add(a("x", 1), at=(0, 1))
    s.add(a("x", 2), at=(2, 3))
    s.add(r("x", 1), at=(4, 5))
    s.add(r("x", 1, 2), at=(6, 7))


@anomaly("G-single-realtime")
def the_writer_is_behind_what_a_replica_showed(s: Script) -> None:
    s.unknown(a("x", 1), at=(0, 1))
    s.replica(r("x", 1), at=(2, 3))
    s.add(r("x"), at=(4, 5))


@anomaly("G1c-realtime")
def a_read_sees_the_future(s: Script) -> None:
    s.replica(r("x", 1), at=(0, 1))
    s.add(a("x", 1), at=(2, 3))


@anomaly("session-regress", "G-single-session")
def a_replica_session_goes_back(s: Script) -> None:
    s.add(a("x", 1))
    s.replica(r("x", 1), session="s")
    s.replica(r("x"), session="s")


@anomaly("G-single-session")
def a_replica_session_goes_back_on_another_key(s: Script) -> None:
    s.add(a("x", 1), a("y", 1))
    s.replica(r("x", 1), session="s")
    s.replica(r("y"), session="s")
    s.replica(r("y", 1))


@anomaly("G-single-session")
def the_same_in_no_time_at_all(s: Script) -> None:
    s.add(a("x", 1), at=(0, 0), session="s")
    s.add(r("x"), at=(0, 0), session="s")


@anomaly("G-single-session")
def the_same_over_a_new_connection(s: Script) -> None:
    s.add(a("x", 1), at=(0, 0), session="s", client="c")
    s.add(r("x"), at=(0, 0), session="t", client="c")


@anomaly("lsn-order")
def lists_and_lsns_disagree(s: Script) -> None:
    s.add(a("x", 1), commit_lsn=9)
    s.add(a("x", 2), commit_lsn=8)
    s.add(r("x", 1, 2))


@anomaly("read-point")
def a_read_shows_more_than_its_read_point(s: Script) -> None:
    s.add(a("x", 1), commit_lsn=9)
    s.replica(r("x", 1), read_lsn=8)


@anomaly("read-point")
def a_read_shows_less_than_its_read_point(s: Script) -> None:
    s.add(a("x", 1), commit_lsn=9)
    s.replica(r("x"), read_lsn=9)
    s.add(r("x", 1))


@anomaly("read-point")
def a_read_misses_what_nobody_ever_saw(s: Script) -> None:
    s.add(a("x", 1), commit_lsn=9)
    s.replica(r("x"), read_lsn=9)


@anomaly("G-single")
def the_reads_of_an_aborted_transaction_count_too(s: Script) -> None:
    s.add(a("x", 1), a("y", 1))
    s.aborted(r("x", 1), r("y"))


# -- what is allowed


@anomaly()
def nothing(s: Script) -> None:
    pass


@anomaly()
def a_replica_lags(s: Script) -> None:
    s.add(a("x", 1), at=(0, 1), commit_lsn=3)
    s.replica(r("x"), at=(2, 3), read_lsn=0)
    s.replica(r("x", 1), at=(4, 5), read_lsn=3)
    s.replica(r("x"), at=(6, 7))  # another session


@anomaly()
def an_unknown_commit_comes_late(s: Script) -> None:
    s.unknown(r("x"), a("x", 1), at=(0, 1))
    s.add(r("x"), at=(2, 3))
    s.add(r("x", 1), at=(4, 5))


@anomaly()
def an_unknown_commit_never_comes(s: Script) -> None:
    s.unknown(r("x"), a("x", 1), at=(0, 1))
    s.add(r("x"), at=(2, 3))


@anomaly()
def a_session_that_goes_on_after_an_unknown_commit(s: Script) -> None:
    s.add(r("x"), at=(0, 1), session="s")
    s.add(a("x", 1), at=(1, 2), session="s", outcome=Outcome.UNKNOWN)
    s.add(r("x"), at=(2, 3), session="s")
    s.add(r("x", 1), at=(4, 5), session="s")


@anomaly()
def a_tie_in_time_is_concurrent(s: Script) -> None:
    s.add(a("x", 1), at=(0, 1))
    s.add(r("x"), at=(1, 2))
    s.add(r("x", 1), at=(2, 3))


@anomaly()
def lost_answers_say_nothing(s: Script) -> None:
    s.unknown(ReadList("x", None), a("x", 1), ReadList("x", None))
    s.add(r("x", 1))


@anomaly()
def several_appends_and_reads_in_one_transaction(s: Script) -> None:
    s.add(a("x", 1), r("x", 1), a("x", 2), r("x", 1, 2))
    s.add(a("x", 3), a("x", 4), r("x", 1, 2, 3, 4), r("x", 1, 2, 3, 4))
    s.add(r("x", 1, 2))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_anomaly(name: str) -> None:
    build, expected = SCRIPTS[name]
    script = Script()
    build(script)
    found = check(script.history)
    assert kinds(found) == expected, "\n".join(map(str, found))
    for violation in found:
        assert violation.checker == "listappend"
        assert violation.transactions
        assert all(t.name in str(violation) for t in violation.transactions)


def test_a_cycle_is_told_step_by_step() -> None:
    script = Script()
    script.add(a("x", 1), a("y", 1))
    script.add(r("x", 1), r("y"))
    (violation,) = check(script.history)
    assert violation.message == (
        "no serial order has them all: client of s2/2 -[rw y: its append missing]->"
        " client of s1/1 -[wr x: up to 1]-> client of s2/2"
    )
    assert violation.at == 100.0


def test_one_value_twice_is_the_workloads_mistake() -> None:
    for ops in ((a("x", 1), a("x", 1)), (a("x", 1),)):
        script = Script()
        script.add(a("x", 1))
        script.add(*ops)
        with pytest.raises(ValueError, match="appended twice"):
            check(script.history)


def test_a_broken_run_reports_a_few_of_each_kind() -> None:
    script = Script()
    for n in range(100):
        script.add(r(f"k{n}", 7))
    assert len(check(script.history)) == MAX_PER_KIND


def test_helper_nodes_for_many_blind_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.sim.checkers.dependencies.PAIRS_MAX", 1)
    for seed in range(20):
        assert check(Model(seed, only="l").history(count=100, final_reads=False)) == []
    for build in (an_acknowledged_commit_is_gone, write_skew_that_nobody_read):
        script = Script()
        build(script)
        for _ in range(2):
            script.add(r("x"))
        assert check(script.history)


def test_twenty_thousand_transactions_are_no_trouble() -> None:
    """No time is asserted; a checker that is not nearly linear never ends this one."""
    lists: dict[str, tuple[int, ...]] = {}
    script = Script()
    for n in range(20_000):
        key = f"k{n // 400 * 5 + n % 5}"
        before = lists.get(key, ())
        end = (n + 0.5, n + 1.0 + n % 7)
        if n % 10 < 6:
            script.add(ReadList(key, before), Append(key, n), at=end, session=f"s{n % 16}")
            lists[key] = (*before, n)
        else:
            endpoint = Endpoint.WRITER if n % 2 else Endpoint.READER
            script.add(ReadList(key, before), at=end, session=f"r{n}", endpoint=endpoint)
    assert check(script.history) == []
    script.add(ReadList("k0", ()), at=(1e6, 1e6))
    assert kinds(check(script.history)) == ["G-single-realtime", "stale-read"]


def test_the_order_of_recording_does_not_matter() -> None:
    history = Model(3, bug=Bug.LOST_COMMITS).history(count=200)
    assert check(history)
    assert check(History(reversed(list(history)))) == check(history)


def test_what_was_looked_at_is_appends_and_answered_reads() -> None:
    s = Script()
    s.add(a("x", 1), r("x", 1), a("y", 2))
    s.aborted(ReadList("x", None))
    s.add(w("r", 1), rr("r", 1))
    assert looked_at(s.history) == 3
