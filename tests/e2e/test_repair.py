"""Storage nodes that lose their disks, are gone, are added and drained, with real processes under load."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from tests.e2e.test_under_load import Load, check_rows, nobody_restarts

pytestmark = pytest.mark.e2e


def fleet(cluster) -> dict[str, Any]:
    return json.loads(cluster.sextet("storage", "list", "--json").stdout)


def copies(cluster) -> dict[str, Any]:
    """What `sextet storage verify` found, whether equal or not."""
    return json.loads(cluster.sextet("storage", "verify", "--json", check=False).stdout)


def until_equal(cluster, *, away: str = "") -> None:
    """Nothing is being replaced, and six copies of every group are equal, none of them on `away`."""
    last: object = None

    def equal() -> bool:
        nonlocal last
        now = fleet(cluster)
        if now["replacements"] or any(n["state"] == "repairing" for n in now["nodes"]):
            last = now
            return False
        last = found = copies(cluster)
        return found["equal"] and all(
            len(group["copies"]) == 6 and away not in group["copies"] for group in found["groups"]
        )

    try:
        cluster.until(equal, "six equal copies", seconds=60)
    except AssertionError:
        raise AssertionError(f"no six equal copies: {last}") from None


def lose(cluster, *names: str) -> None:
    """The nodes die and their folders are gone; who calls this keeps them from being restarted."""
    for name in names:
        cluster.kill(name)
    for name in names:
        shutil.rmtree(cluster.folder.storage(name))


def make_table(cluster) -> None:
    cluster.query("CREATE TABLE load (k INTEGER, part INTEGER, PRIMARY KEY (k, part))")


def test_a_folder_deleted_while_its_node_is_down_is_made_again(new_cluster):
    cluster = new_cluster()
    make_table(cluster)
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(200)
        with nobody_restarts(cluster):
            lose(cluster, "storage-3")
            load.wait_for_more(100)
            cluster.kill("control")  # repair goes on from the catalog
        load.wait_for_more(100)

        def whole() -> bool:
            shown = cluster.sextet("storage", "verify", "--json", check=False).stdout
            return bool(shown) and json.loads(shown)["equal"]  # nothing: no control plane yet

        cluster.until(whole, "storage-3 is whole")
        with nobody_restarts(cluster):  # now four are left only if storage-3 counts
            cluster.kill("storage-5")
            cluster.kill("storage-6")
            load.wait_for_more(100)
    assert not load.states, "a write failed"
    until_equal(cluster)
    check_rows(cluster, load)


@pytest.mark.long
def test_one_more_node_and_one_drained_under_load(new_cluster):
    cluster = new_cluster()
    make_table(cluster)
    refused = cluster.sextet("storage", "drain", "storage-1", check=False)
    assert refused.returncode == 1
    assert "add one first" in refused.stderr
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(200)
        assert "storage-7 serves in az1" in cluster.sextet("storage", "add", "--az", "az1").stdout
        cluster.sextet("storage", "drain", "storage-1")
        load.wait_for_more(100)
    assert not load.states, "a write failed"
    nodes = {node["name"]: node for node in fleet(cluster)["nodes"]}
    assert (nodes["storage-1"]["state"], nodes["storage-1"]["held"]) == ("drained", 0)
    assert nodes["storage-7"]["segments"] >= 1
    until_equal(cluster, away="storage-1")
    check_rows(cluster, load)
    cluster.down()
    cluster.up()
    until_equal(cluster, away="storage-1")


@pytest.mark.long
def test_three_that_lost_everything_are_made_again_from_the_three_that_are_left(new_cluster):
    cluster = new_cluster()
    make_table(cluster)
    with Load(cluster.url(), timeout_ms=20_000) as load:
        load.wait_for_more(200)
        with nobody_restarts(cluster):
            lose(cluster, "storage-2", "storage-5", "storage-6")
            with cluster.connect(reader=True) as replica:
                assert replica.execute("SELECT count(*) >= 200 FROM load").fetchone() == (True,)
        load.wait_for_more(100)
    assert not load.refused, "a write that waited was refused"
    until_equal(cluster)
    check_rows(cluster, load)


def test_a_node_that_stays_away_is_replaced_and_drops_what_it_has_when_it_returns(
    new_cluster, monkeypatch
):
    monkeypatch.setenv("SEXTET_REPLACE_AFTER", "1.5")
    cluster = new_cluster()
    make_table(cluster)
    cluster.sextet("storage", "add", "--az", "az2")
    with Load(cluster.url(), timeout_ms=5000) as load:
        load.wait_for_more(100)
        with nobody_restarts(cluster):
            cluster.kill("storage-4")

            def replaced() -> bool:
                nodes = {node["name"]: node for node in fleet(cluster)["nodes"]}
                return nodes["storage-4"]["segments"] == 0 and nodes["storage-7"]["segments"] > 0

            cluster.until(replaced, "storage-7 has taken over")
            load.wait_for_more(50)

        def dropped() -> bool:
            (node,) = (n for n in fleet(cluster)["nodes"] if n["name"] == "storage-4")
            return node["state"] == "up" and node["held"] == 0

        cluster.until(dropped, "storage-4 has dropped its segments")
    assert not load.states, "a write failed"
    until_equal(cluster, away="storage-4")
    check_rows(cluster, load)
