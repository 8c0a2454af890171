"""What an answer, or none, shows of an instance."""

from __future__ import annotations

import pytest

from cluster.control.health import Seen
from cluster.control.looks import FRESH_S, HEARD_S, STALLED_US, Look
from cluster.control.rows import ClusterRow
from engine.net.pb import instance_pb2 as ipb

ROW = ClusterRow("main", 1, "main-1", 5, 1000, storage_full=False)


def look(at: float = 10.0, **status: object) -> Look:
    return Look(at, ipb.InstanceStatusReply(**status))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ({"role": "writer", "state": "available", "epoch": 5}, Seen.WORKING),
        ({"role": "writer", "state": "importing", "epoch": 5}, Seen.WORKING),
        ({"role": "writer", "state": "committing", "epoch": 5}, Seen.WORKING),
        ({"role": "writer", "state": "recovering"}, Seen.RECOVERING),
        ({"role": "writer", "state": "available", "epoch": 4}, Seen.RECOVERING),
        ({"role": "replica", "state": "available", "epoch": 5}, Seen.RECOVERING),
        (
            {"role": "writer", "state": "available", "epoch": 5, "stalled_us": STALLED_US},
            Seen.NO_QUORUM,
        ),
        (
            {"role": "writer", "state": "available", "epoch": 5, "quorums": [{"write": False}]},
            Seen.NO_QUORUM,
        ),
    ],
)
def test_of_the_writer(status, seen):
    assert look(**status).as_writer(ROW) is seen


def test_of_the_writer_without_an_answer():
    assert Look(1.0, None, Seen.REFUSED).as_writer(ROW) is Seen.REFUSED
    assert Look(1.0, None).as_writer(ROW) is Seen.SILENT


@pytest.mark.parametrize("state", ["available", "disconnected", "joining"])
def test_a_replica_that_knows_its_cluster_can_take_over_while_its_answer_is_fresh(state):
    seen = look(role="replica", state=state)
    assert seen.can_take_over(10.0 + FRESH_S / 2)
    assert not seen.can_take_over(10.0 + FRESH_S * 2)
    assert not look(role="replica", state="starting").can_take_over(10.0)
    assert not look(role="writer", state=state).can_take_over(10.0)
    assert not Look(10.0, None).can_take_over(10.0)


def test_a_witness_has_just_heard_from_the_writer_of_this_epoch():
    heard = {"role": "replica", "state": "available", "epoch": 5, "silent_us": 100_000}
    assert look(**heard).hears_writer(ROW, 10.0)
    assert not look(**heard).hears_writer(ROW, 10.0 + HEARD_S)
    assert not look(**heard | {"silent_us": 600_000}).hears_writer(ROW, 10.0)
    assert not look(**heard | {"epoch": 4}).hears_writer(ROW, 10.0)
    assert not look(**heard | {"state": "disconnected"}).hears_writer(ROW, 10.0)
