"""The order in which an installation's processes are stopped."""

from __future__ import annotations

from dataclasses import replace

from cluster.local.components import components_of, names_of
from cluster.local.create import with_store
from cluster.local.folder import Folder
from cluster.local.layout import ClusterState
from cluster.local.policy import AutoscalePolicy
from tests.cluster.control.test_catalog import make_layout


def test_nobody_stops_before_the_control_plane_that_would_replace_it(tmp_path):
    found = components_of(Folder.at(tmp_path), make_layout())
    stages = {component.name: component.stage for component in found}
    control = stages.pop("control")
    assert stages
    assert all(control < stage for stage in stages.values())


def test_autoscaling_has_a_process_while_there_is_a_policy(tmp_path):
    layout = make_layout()
    policy = AutoscalePolicy("connections", 2, 1, 4)
    scaled = layout.with_cluster(replace(layout.cluster("main"), autoscale=policy))
    folder = Folder.at(tmp_path)
    before = {c.name for c in components_of(folder, layout)}
    assert {c.name for c in components_of(folder, scaled)} - before == {"autoscale-main"}


def test_an_archived_cluster_has_an_archiver_and_storage_keeps_what_it_has_not_got(tmp_path):
    layout, folder = make_layout(), Folder.at(tmp_path)
    before = {c.name: c.command for c in components_of(folder, layout)}
    archived = with_store(layout, "/store")
    after = {c.name: c.command for c in components_of(folder, archived)}
    assert after.keys() - before.keys() == {"archive-main"}
    name = archived.cluster("main").archive
    assert name.startswith("main-")
    assert with_store(archived, "/other").cluster("main").archive == name, "it stays the same"
    assert all("--archived" in after[node.name] for node in layout.storage)
    assert [c.name for c in components_of(folder, archived) if c.late] == ["archive-main"]
    assert not any("--archived" in command for command in before.values())


def test_stopped_cluster_has_no_processes_and_the_fleet_stays(tmp_path):
    layout, folder = make_layout(), Folder.at(tmp_path)
    fleet = {"control", *(node.name for node in layout.storage)}
    own = {c.name for c in components_of(folder, layout)} - fleet
    assert own == set(names_of(layout.cluster("main"))) - {"autoscale-main", "archive-main"}
    stopped = layout.with_state("main", ClusterState.STOPPED)
    assert {c.name for c in components_of(folder, stopped)} == fleet


def test_storage_stops_after_the_writer_that_still_has_redo_in_flight(tmp_path):
    stages = {c.name: c.stage for c in components_of(Folder.at(tmp_path), make_layout())}
    assert stages["main-1"] < stages["storage-1"]
