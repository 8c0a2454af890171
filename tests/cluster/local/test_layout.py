"""cluster.json: values that check themselves, a file that is refused when it is not understood."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace

import pytest

from cluster.local import create, layout
from cluster.local.layout import ClusterSpec, EndpointSpec, InstanceSpec, Layout, StorageSpec
from cluster.local.policy import AutoscalePolicy
from engine.errors import ConfigError


def _layout() -> Layout:
    instances = (InstanceSpec("main-1", 1, "az1", 4), InstanceSpec("main-2", 2, "az2", 5))
    main = ClusterSpec("main", 1, 2, 20 * 1024**2, instances)
    return Layout(3, (StorageSpec("storage-1", "az1", 6),), (main,))


def test_layout_survives_its_file(tmp_path):
    layout.save(tmp_path, _layout())
    assert layout.load(tmp_path) == _layout()


def test_policy_and_what_it_added_survive_the_file(tmp_path):
    policy = AutoscalePolicy("load", 2.5, 1, 4, 10, 60)
    grown = _layout().with_instance("main", port=7, auto=True)
    changed = grown.with_cluster(replace(grown.cluster("main"), autoscale=policy))
    layout.save(tmp_path, changed)
    assert layout.load(tmp_path) == changed
    assert [i.auto for i in changed.cluster("main").instances] == [False, False, True]


def test_no_file_is_no_layout(tmp_path):
    assert layout.load(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, this Sextet knows 1"),
        ({"control_port": None}, "is damaged"),
        ({"storage": [{"name": "storage-1"}]}, "is damaged"),
        ({"clusters": [{"name": "main", "strange": 1}]}, "is damaged"),
    ],
)
def test_file_that_is_not_understood_is_refused(tmp_path, change, says):
    value = layout.to_json(_layout()) | change
    (tmp_path / layout.FILE).write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=says):
        layout.load(tmp_path)


def test_file_cut_short_is_refused(tmp_path):
    text = json.dumps(layout.to_json(_layout()))
    (tmp_path / layout.FILE).write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="is damaged"):
        layout.load(tmp_path)


def test_port_given_twice_is_refused():
    with pytest.raises(ConfigError, match="port 6 is given twice"):
        _layout().with_storage(StorageSpec("storage-2", "az1", 6))


def test_name_given_twice_is_refused():
    with pytest.raises(ConfigError, match="name storage-1 is given twice"):
        _layout().with_storage(StorageSpec("storage-1", "az2", 7))


def test_new_instance_gets_the_next_number_and_the_emptiest_az():
    grown = _layout().with_instance("main", port=7)
    assert grown.cluster("main").instances[-1] == InstanceSpec("main-3", 3, "az3", 7)


def test_new_instance_as_it_is_wanted():
    wanted = {"az": "az2", "tier": 0, "size": "small", "name": "reports"}
    grown = _layout().with_instance("main", port=7, **wanted)
    assert grown.cluster("main").instances[-1] == InstanceSpec("reports", 3, "az2", 7, 0, "small")


def test_new_instance_does_not_take_a_name_that_somebody_has():
    grown = _layout().with_instance("main", port=7, name="main-4")
    assert grown.with_instance("main", port=8).cluster("main").instances[-1].name == "main-5"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"az": "az9"}, "no AZ az9; choose one of az1, az2, az3"),
        ({"name": "main-1"}, "name main-1 is given twice"),
        ({"name": "storage-9"}, "'storage-9' cannot be an instance's name"),
        ({"name": "../x"}, "cannot be an instance's name"),
        ({"name": "x" * 41}, "cannot be an instance's name"),
        ({"tier": 16}, "tier 16"),
    ],
)
def test_instance_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        _layout().with_instance("main", port=7, **wrong)


def test_there_are_fifteen_replicas_at_most():
    grown = _layout()
    for port in range(100, 114):
        grown = grown.with_instance("main", port=port)
    assert len(grown.cluster("main").instances) == 16
    with pytest.raises(ConfigError, match="main has 16 instances, as many as there may be"):
        grown.with_instance("main", port=200)


def test_removed_instance_is_gone_and_the_last_one_stays():
    left = _layout().without_instance("main-1")
    assert [i.name for i in left.cluster("main").instances] == ["main-2"]
    with pytest.raises(ConfigError, match="main-2 is the last instance of main"):
        left.without_instance("main-2")
    with pytest.raises(ConfigError, match="no instance main-9 here; there is: main-1, main-2"):
        _layout().without_instance("main-9")


def test_custom_endpoints_survive_the_file_and_are_optional(tmp_path):
    with_both = (
        _layout()
        .with_endpoint("main", EndpointSpec("reports", 50, members=("main-2",)))
        .with_endpoint("main", EndpointSpec("others", 51, exclude=("main-1",)))
    )
    layout.save(tmp_path, with_both)
    assert layout.load(tmp_path) == with_both
    value = layout.to_json(_layout())
    del value["clusters"][0]["endpoints"], value["clusters"][0]["reader_lag_ms_max"]
    assert layout.from_json(value) == _layout()
    left = with_both.without_endpoint("main", "reports")
    assert [e.name for e in left.cluster("main").endpoints] == ["others"]
    assert [left.cluster("main").endpoints[0].admits(n) for n in ("main-1", "main-9")] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (("reports", 50, ("main-9",)), "main has no instance main-9; there is: main-1, main-2"),
        (("writer", 50, ("main-1",)), "'writer' cannot be a custom endpoint's name"),
        (("reports", 6, ("main-1",)), "port 6 is given twice"),
        (("reports", 50), "needs either members or a list of exclusions"),
        (("reports", 50, ("main-1",), ("main-2",)), "needs either members"),
    ],
)
def test_custom_endpoint_that_cannot_be_is_refused(endpoint, says):
    with pytest.raises(ConfigError, match=says):
        _layout().with_endpoint("main", EndpointSpec(*endpoint))


def test_unknown_custom_endpoint_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="no custom endpoint x; there is: none"):
        _layout().without_endpoint("main", "x")


def test_file_of_before_there_were_tiers_and_sizes_is_understood(tmp_path):
    value = layout.to_json(_layout())
    for instance in value["clusters"][0]["instances"]:
        del instance["tier"], instance["size"]
    (tmp_path / layout.FILE).write_text(json.dumps(value))
    loaded = layout.load(tmp_path)
    assert loaded == _layout()
    assert [(i.tier, i.size) for i in loaded.cluster("main").instances] == [(1, "medium")] * 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tier": 16}, "tier 16 of main-9 cannot be; choose 0 to 15"),
        ({"tier": -1}, "tier -1 of main-9"),
        ({"size": "huge"}, "no size 'huge'; choose one of small, medium, large, xlarge"),
    ],
)
def test_tier_and_size_are_checked(wrong, says):
    with pytest.raises(ConfigError, match=says):
        InstanceSpec("main-9", 9, "az1", 9, **wrong)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="there is no cluster other here; there is: main"):
        _layout().cluster("other")
    with pytest.raises(ConfigError, match="there is: storage-1"):
        _layout().storage_node("storage-9")


# -- making one


@pytest.fixture
def port():
    """A free port with another free one behind it, and nobody on either."""
    for candidate in range(21000, 31000, 50):
        if all(create.is_free(candidate + n) for n in range(20)):
            return candidate
    raise AssertionError("no free ports")


def test_new_layout_has_two_segments_places_per_az(port):
    made = create.new_layout(port=port, readers=2)
    assert [(s.name, s.az) for s in made.storage] == [
        ("storage-1", "az1"),
        ("storage-2", "az1"),
        ("storage-3", "az2"),
        ("storage-4", "az2"),
        ("storage-5", "az3"),
        ("storage-6", "az3"),
    ]
    main = made.cluster("main")
    assert (main.writer_port, main.reader_port) == (port, port + 1)
    assert [(i.name, i.az) for i in main.instances] == [
        ("main-1", "az1"),
        ("main-2", "az2"),
        ("main-3", "az3"),
    ]


def test_taken_endpoint_port_says_which_and_what_to_do(port):
    with (
        socket.create_server(("127.0.0.1", port + 1)),
        pytest.raises(
            ConfigError,
            match=f"port {port + 1} is taken by another program; choose another with --port",
        ),
    ):
        create.new_layout(port=port)


def test_taken_inner_ports_are_stepped_over(port):
    with socket.create_server(("127.0.0.1", port + 3)):
        assert port + 3 not in create.new_layout(port=port).ports


@pytest.mark.parametrize("readers", [-1, 16])
def test_number_of_readers_is_bounded(readers, port):
    with pytest.raises(ConfigError, match="choose 0 to 15"):
        create.new_layout(port=port, readers=readers)


def test_stopped_installation_moves_only_inner_ports_that_others_took(port):
    made = create.new_layout(port=port)
    taken = made.storage[2].port
    with socket.create_server(("127.0.0.1", taken)):
        moved = create.with_free_ports(made)
    assert moved.storage[2].port not in made.ports
    others = set(made.ports) - {taken}
    assert others <= set(moved.ports)


def test_stopped_installation_does_not_move_a_taken_endpoint_by_itself(port):
    made = create.new_layout(port=port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match="--port"),
    ):
        create.with_free_ports(made)


def test_endpoints_can_be_moved_onto_ports_of_inner_processes(port):
    made = create.new_layout(port=port)
    moved = create.move_endpoints(made, "main", port + 2)
    main = moved.cluster("main")
    assert (main.writer_port, main.reader_port) == (port + 2, port + 3)
    assert len(set(moved.ports)) == len(moved.ports)
