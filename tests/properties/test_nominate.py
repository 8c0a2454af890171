"""The successor against a dumb model: nobody else would have been better."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.nominate import Candidate, successor

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from([f"main-{n}" for n in range(1, 17)]),
        number=st.just(0),
        tier=st.integers(0, 15),
        read_lsn=st.integers(0, 3),
        healthy=st.booleans(),
        blamed=st.booleans(),
    ),
    max_size=16,
    unique_by=lambda c: c.name,
).map(
    lambda found: [
        Candidate(c.name, n, c.tier, c.read_lsn, c.healthy, c.blamed) for n, c in enumerate(found)
    ]
)


@given(candidates, st.sampled_from([f"main-{n}" for n in range(1, 17)]))
def test_nobody_is_better_than_the_successor(found, writer):
    able = [c for c in found if c.healthy and c.name != writer]
    name = successor(found, instead_of=writer)
    if not able:
        assert name is None
        return
    (best,) = (c for c in able if c.name == name)
    for other in able:
        if best.blamed != other.blamed:
            assert other.blamed
        elif best.tier != other.tier:
            assert best.tier < other.tier
        elif best.read_lsn != other.read_lsn:
            assert best.read_lsn > other.read_lsn
        else:
            assert best.number <= other.number


@given(candidates, st.randoms())
def test_the_order_in_which_they_are_told_does_not_matter(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert successor(found, instead_of="main-1") == successor(shuffled, instead_of="main-1")


def test_tier_before_lag_lag_before_number_and_the_blamed_last():
    behind = Candidate("main-2", 2, 0, 10, healthy=True)
    ahead = Candidate("main-3", 3, 1, 99, healthy=True)
    assert successor([behind, ahead], instead_of="main-1") == "main-2"
    equal = Candidate("main-3", 3, 0, 99, healthy=True)
    assert successor([behind, equal], instead_of="main-1") == "main-3"
    dead = Candidate("main-2", 2, 0, 100, healthy=False)
    assert successor([dead, ahead], instead_of="main-1") == "main-3"
    blamed = Candidate("main-2", 2, 0, 100, healthy=True, blamed=True)
    assert successor([blamed, ahead], instead_of="main-1") == "main-3"
    assert successor([blamed], instead_of="main-1") == "main-2"
    assert successor([blamed], instead_of="main-2") is None
