"""The layout is changed by one command at a time."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from cluster.faults.directory import nodes_of, prepare
from cluster.local.change import change_layout, layout_turn, tell_supervisor
from cluster.local.create import with_new_cluster
from cluster.local.folder import Folder
from cluster.local.layout import ClusterState, StorageSpec, load, save
from engine.errors import ConfigError
from engine.faults.bysql import SqlFaults
from engine.faults.file import ActiveFault, changing, read
from engine.faults.statements import DISK_FAILURE, REPLICA_FAILURE, VOLUME_STATUS, FaultStatement
from tests.cluster.control.test_catalog import make_layout

HOLDER = """
import sys
from pathlib import Path
from cluster.faults.directory import nodes_of, prepare
from cluster.local.change import layout_turn
from cluster.local.folder import Folder
with layout_turn(Folder.at(Path(sys.argv[1]))):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    made = Folder.at(tmp_path)
    made.make()
    save(made.data, make_layout())
    return made


def test_second_command_waits_for_its_turn(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(ConfigError, match="another command"), layout_turn(folder, 0.0):
            pytest.fail("two have the turn")
        holder.stdin.close()
        with layout_turn(folder):
            pass
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(10)


def test_change_is_saved(folder):
    with layout_turn(folder):
        new = change_layout(folder, lambda layout: layout.with_instance("main", port=99))
    assert load(folder.data) == new
    assert len(new.cluster("main").instances) == 4
    assert not tell_supervisor(folder), "there is none"


def test_change_that_cannot_be_changes_nothing(folder):
    with layout_turn(folder), pytest.raises(ConfigError):
        change_layout(folder, lambda layout: layout.without_instance("main-9"))
    assert load(folder.data) == make_layout()


def test_faults_in_sql_know_who_was_added_and_not_who_was_removed(folder):
    prepare(folder, make_layout(), allow=True)
    sql = SqlFaults(folder.faults, "main-1")
    with layout_turn(folder):
        change_layout(
            folder, lambda layout: layout.with_storage(StorageSpec("storage-7", "az1", 98))
        )
        change_layout(folder, lambda layout: layout.with_instance("main", port=99))
        change_layout(folder, lambda layout: layout.without_instance("main-2"))
    assert sql.run(FaultStatement(VOLUME_STATUS))[-1] == ("6", "storage-7", "az1", "")
    sql.run(FaultStatement(DISK_FAILURE, 100.0, "storage-7", 60.0))
    sql.run(FaultStatement(REPLICA_FAILURE, 100.0, "", 60.0))
    assert [f.names for f in read(folder.faults).faults] == [("storage-7",), ("main-3", "main-4")]


def test_replica_failures_in_sql_are_of_the_session_s_own_cluster_that_runs(folder):
    prepare(folder, make_layout(), allow=True)
    with layout_turn(folder):
        change_layout(folder, lambda layout: with_new_cluster(layout, "shop", readers=1))
    SqlFaults(folder.faults, "shop-1").run(FaultStatement(REPLICA_FAILURE, 100.0, "", 60.0))
    assert [f.names for f in read(folder.faults).faults] == [("shop-2",)]
    with layout_turn(folder):
        change_layout(folder, lambda old: old.with_state("shop", ClusterState.STOPPED))
    assert read(folder.faults).faults == ()
    assert not any(node.cluster == "shop" for node in read(folder.faults).nodes)


def test_faults_go_with_whom_they_are_on_so_that_a_new_one_of_its_name_has_none(folder):
    prepare(folder, make_layout(), allow=True)
    with changing(folder.faults) as change:
        for kind, names, peers in (
            ("pause", ("main-3",), ()),
            ("slow-net", ("main-2", "main-3"), ()),
            ("partition", ("storage-1",), ("main-3",)),
            ("partition", ("storage-1",), ("main-2", "main-3")),
            ("pause", ("storage-2",), ()),
        ):
            fault = ActiveFault(change.file.next_id, kind, "x", names, 0.0, peers=peers)
            change.file = change.file.adding(fault)
    with layout_turn(folder):
        change_layout(folder, lambda layout: layout.without_instance("main-3"))
    assert [(f.id, f.names, f.peers) for f in read(folder.faults).faults] == [
        (2, ("main-2",), ()),
        (4, ("storage-1",), ("main-2",)),
        (5, ("storage-2",), ()),
    ]
    with layout_turn(folder):
        change_layout(
            folder, lambda layout: replace(layout, storage=(layout.storage[0], *layout.storage[2:]))
        )
    assert [f.id for f in read(folder.faults).faults] == [2, 4]


def test_a_change_that_moves_nobody_leaves_the_faults_alone(folder):
    prepare(folder, make_layout(), allow=True)
    before = folder.faults.read_bytes()
    with layout_turn(folder):
        change_layout(folder, lambda layout: layout)
    assert folder.faults.read_bytes() == before


def test_where_no_faults_are_allowed_nobody_is_entered(folder):
    prepare(folder, make_layout(), allow=False)
    with layout_turn(folder):
        new = change_layout(folder, lambda layout: layout.with_instance("main", port=99))
    assert read(folder.faults).nodes != nodes_of(new)
