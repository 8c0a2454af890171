"""Two nodes in each of three AZs."""

from __future__ import annotations

import pytest

from cluster.control.placement import Candidate, choose_members
from engine.errors import ConfigError


def _fleet(per_az: int) -> list[Candidate]:
    return [
        Candidate(f"s-{az}{n}", f"az{az}", known=True, segments=0)
        for az in "123"
        for n in range(per_az)
    ]


def test_six_nodes_are_all_chosen():
    assert choose_members(_fleet(2)) == ("s-10", "s-11", "s-20", "s-21", "s-30", "s-31")


def test_nodes_with_few_segments_come_first():
    fleet = [*_fleet(2), Candidate("s-19", "az1", known=True, segments=0)]
    busy = [Candidate(c.node, c.az, c.known, 5 if c.node == "s-10" else 0) for c in fleet]
    assert choose_members(busy)[:2] == ("s-11", "s-19")


def test_node_that_never_registered_is_a_last_resort():
    fleet = [Candidate(c.node, c.az, c.node != "s-21", 0) for c in _fleet(2)]
    assert "s-21" in choose_members(fleet)
    more = [*fleet, Candidate("s-29", "az2", known=True, segments=100)]
    assert "s-21" not in choose_members(more)


def test_fewer_than_two_nodes_in_an_az_are_not_enough():
    with pytest.raises(ConfigError, match="only 2 AZs have that many"):
        choose_members(_fleet(2)[:-1])
