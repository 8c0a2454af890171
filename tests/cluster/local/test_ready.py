"""When a start is given up: by what this start does, not by what an earlier one left behind."""

from __future__ import annotations

import os
import subprocess

import pytest

from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout
from cluster.local.processes import ProcessId
from cluster.local.ready import RESTARTS_MAX, Readiness, _Clusters, _raise_if_hopeless
from cluster.local.state import ChildState, SupervisorState, save_state
from tests.cluster.control.test_catalog import make_layout


def _save(folder: Folder, supervisor: ProcessId, restarts: int, *names: str) -> None:
    children = tuple(ChildState(n, None, restarts, exit_status=1) for n in names or ("main-1",))
    save_state(folder, SupervisorState(supervisor, stopping=False, children=children))


def _look(folder: Folder, listening: set[str], layout: Layout | None = None) -> set[str]:
    """One look; the clusters that it gave up."""
    layout = layout or make_layout()
    clusters = _Clusters(layout.running, deadline=0.0)
    _raise_if_hopeless(folder, listening, layout, clusters)
    return set(clusters.given_up)


@pytest.fixture
def folder(tmp_path) -> Folder:
    made = Folder.at(tmp_path)
    made.make()
    return made


def test_component_that_keeps_ending_is_named(folder):
    me = ProcessId.of(os.getpid())
    assert me is not None
    _save(folder, me, RESTARTS_MAX - 1)
    _look(folder, set())
    _save(folder, me, RESTARTS_MAX)
    _look(folder, {"main-1"})  # it was restarted, and now it listens
    with pytest.raises(Readiness, match="main-1 keeps ending") as raised:
        _look(folder, set())
    assert raised.value.component == "main-1"


def test_start_does_without_two_storage_nodes_and_not_without_three(folder):
    me = ProcessId.of(os.getpid())
    assert me is not None
    _save(folder, me, RESTARTS_MAX, "storage-1", "storage-4")
    _look(folder, set())
    _save(folder, me, RESTARTS_MAX, "storage-1", "storage-4", "storage-6")
    with pytest.raises(Readiness, match="storage-1 keeps ending"):
        _look(folder, set())


def test_what_never_listens_is_not_waited_for(folder):
    me = ProcessId.of(os.getpid())
    assert me is not None
    _save(folder, me, RESTARTS_MAX, "autoscale-main")
    _look(folder, set())


def test_restarts_under_an_earlier_supervisor_do_not_count(folder):
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        earlier = ProcessId.of(child.pid)
        child.kill()
    assert earlier is not None
    _save(folder, earlier, RESTARTS_MAX * 2)
    _look(folder, set())


def test_cluster_that_keeps_ending_is_given_up_and_the_others_are_waited_for(folder):
    me = ProcessId.of(os.getpid())
    assert me is not None
    other = ClusterSpec("other", 90, 91, 20 * 1024**2, (InstanceSpec("other-1", 1, "az1", 92),))
    both = make_layout().with_cluster(other)
    _save(folder, me, RESTARTS_MAX, "other-1", "endpoint-other")
    assert _look(folder, set(), both) == {"other"}
    _save(folder, me, RESTARTS_MAX, "other-1", "main-2")
    with pytest.raises(Readiness, match="main-2 keeps ending"):
        _look(folder, set(), both)
