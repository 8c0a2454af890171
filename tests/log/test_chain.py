"""The chain of frames that is a segment's SCL."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.log.chain import Chain


def test_frames_in_order_move_the_scl() -> None:
    chain = Chain()
    assert chain.offer(0, 5)
    assert chain.offer(5, 9)
    assert chain.scl == 9


def test_a_frame_ahead_of_a_gap_waits() -> None:
    chain = Chain()
    assert not chain.offer(5, 9)
    assert (chain.scl, chain.pending) == (0, 1)
    assert chain.offer(0, 5)
    assert (chain.scl, chain.pending) == (9, 0)


def test_duplicates_change_nothing() -> None:
    chain = Chain()
    chain.offer(0, 5)
    assert not chain.offer(0, 5)
    assert chain.scl == 5


def test_cut_forgets_what_is_above() -> None:
    chain = Chain()
    chain.offer(0, 5)
    chain.offer(5, 9)
    chain.offer(20, 30)
    chain.cut(7)
    assert (chain.scl, chain.pending) == (7, 0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_any_order_ends_at_the_same_scl(steps: list[int], rng: object) -> None:
    """Against a dumb model: the longest gap-free prefix of what was offered."""
    links, at = [], 0
    for step in steps:
        links.append((at, at + step))
        at += step
    rng.shuffle(links)  # type: ignore[attr-defined]
    chain = Chain()
    offered: dict[int, int] = {}
    for prev, last in links:
        chain.offer(prev, last)
        offered[prev] = last
        reach = 0
        while reach in offered:
            reach = offered[reach]
        assert chain.scl == reach
    assert chain.scl == at
    assert chain.pending == 0
