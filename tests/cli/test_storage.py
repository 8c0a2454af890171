"""`sextet storage`: what is shown of the fleet, and when copies count as equal."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.storage import fleet_report, verdict_to_json
from cluster.cli.verify import Digest, GroupVerdict
from engine.types import Member
from engine.volume.fencing import membership_from_pb, membership_to_pb
from engine.volume.membership import begin
from tests.cli.test_report import _status, _storage


def changing():
    """storage-1 is down, and storage-7 is to take its place in group 0."""
    status = _status()
    before = membership_from_pb(status.cluster.memberships[0])
    new = Member("storage-7", "az1", "127.0.0.1:7", "life-storage-7")
    during = begin(before, old=before.members[0], new=new)
    status.cluster.memberships[0].CopyFrom(membership_to_pb(during))
    status.storage[0].ClearField("status")
    seventh = _storage("storage-7", 7, pgs=1)
    seventh.status.segments[0].scl = 20
    status.storage.append(seventh)
    return status


def test_the_fleet_and_what_is_being_replaced():
    status = changing()
    status.storage[1].drained = True
    report = fleet_report(status)
    nodes = {node["name"]: node for node in report["nodes"]}
    assert [nodes[f"storage-{n}"]["state"] for n in (1, 2, 3, 7)] == ["down", "drained", "up", "up"]
    assert (nodes["storage-1"]["segments"], nodes["storage-1"]["held"]) == (2, 0)
    assert (nodes["storage-7"]["segments"], nodes["storage-7"]["joining"]) == (0, 1)
    assert report["replacements"] == [
        {"pg": 0, "old": "storage-1", "new": "storage-7", "scl": 20, "behind": 30}
    ]


def test_who_has_not_begun_to_copy_is_behind_by_nobody_knows_how_much():
    status = changing()
    del status.storage[-1].status.segments[0]
    (row,) = fleet_report(status)["replacements"]
    assert (row["scl"], row["behind"]) == (None, None)


@pytest.mark.parametrize(
    ("digests", "errors", "equal"),
    [
        ({"a": "x", "b": "x"}, {}, True),
        ({"a": "x", "b": "y"}, {}, False),
        ({"a": "x", "b": "x"}, {"c": "is down"}, False),
        ({}, {}, False),
    ],
)
def test_copies_are_equal_if_all_answer_and_say_the_same(digests, errors, equal):
    found = {node: Digest(1, 2, value) for node, value in digests.items()}
    verdict = GroupVerdict(0, 9, found, errors)
    assert verdict.equal is equal
    assert verdict_to_json(verdict)["equal"] is equal


@pytest.mark.parametrize("command", ["list", "add", "drain", "verify"])
def test_every_command_has_help(command):
    result = CliRunner().invoke(app, ["storage", command, "--help"])
    assert result.exit_code == 0
    assert "--data" in result.output
