"""How long a commit stays readable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.volume.window import STEPS, HotWindow

SECONDS, REDO = 32.0, 3200


def test_nothing_is_let_go_of_before_the_window_is_full() -> None:
    window = HotWindow(SECONDS, REDO)
    assert window.begins(5, now=0, redo=0) == 0
    assert window.begins(6, now=SECONDS - 0.1, redo=REDO) == 0
    assert window.begins(7, now=SECONDS, redo=0) == 5


def test_it_ends_in_bytes_too() -> None:
    window = HotWindow(SECONDS, REDO)
    window.begins(5, now=0, redo=0)
    assert window.begins(6, now=0.1, redo=10 * REDO) == 5, (
        "one large transaction: what was before stays"
    )
    assert window.begins(6, now=0.1, redo=11 * REDO + 1) == 6


def test_without_a_window_it_follows_the_durable_point() -> None:
    window = HotWindow(0, REDO)
    for lsn in range(1, 100):
        assert window.begins(lsn, now=0, redo=0) == lsn


def test_at_rest_it_arrives_at_the_durable_point() -> None:
    window = HotWindow(SECONDS, REDO)
    found = [window.begins(9 if at else 5, now=at / 10, redo=at) for at in range(400)]
    assert (found[0], found[-1]) == (0, 9)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 600)), max_size=300))
def test_what_is_within_stays_and_what_is_well_outside_goes(steps: list[tuple[float, int]]) -> None:
    window = HotWindow(SECONDS, REDO)
    now, redo, lsn = 0.0, 0, 0
    commits: list[tuple[float, int, int]] = []
    for wait, size in steps:
        now, redo, lsn = now + wait, redo + size, lsn + 1
        begins = window.begins(lsn, now=now, redo=redo)
        commits.append((now, redo, lsn))
        for at, made, commit in commits:
            if now - at < SECONDS and redo - made <= REDO:
                assert commit >= begins
        old = [c for at, _, c in commits if now - at >= SECONDS + 5 + SECONDS / STEPS]
        assert begins >= max(old, default=0)
        assert len(window._samples) <= 3 * STEPS
