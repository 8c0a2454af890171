"""cluster.json: values that check themselves, a file that is refused when it is not understood."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace

import pytest

from cluster.local import create, layout
from cluster.local.backtracking import parse_window, window_text
from cluster.local.layout import (
    ClusterSpec,
    ClusterState,
    EndpointSpec,
    InstanceSpec,
    Layout,
    StorageSpec,
)
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


def test_how_to_archive_survives_the_file_and_old_files_get_the_defaults(tmp_path):
    main = replace(_layout().cluster("main"), archive="main-1", retention_days=35)
    changed = replace(_layout().with_cluster(main), store="s3://b/a", archive_every_s=5.0)
    layout.save(tmp_path, changed)
    assert layout.load(tmp_path) == changed
    value = layout.to_json(_layout())
    del value["store"], value["archive_every_s"]
    del value["clusters"][0]["archive"], value["clusters"][0]["retention_days"]
    (tmp_path / layout.FILE).write_text(json.dumps(value))
    assert layout.load(tmp_path) == _layout()


@pytest.mark.parametrize("days", [0, 36, -1])
def test_retention_that_cannot_be_is_refused(days):
    with pytest.raises(ConfigError, match=f"a retention of {days} days cannot be; choose 1 to 35"):
        replace(_layout().cluster("main"), retention_days=days)


def test_the_backtrack_window_survives_the_file_and_old_files_have_none(tmp_path):
    main = replace(_layout().cluster("main"), backtrack_window_s=90 * 60)
    changed = _layout().with_cluster(main)
    layout.save(tmp_path, changed)
    assert layout.load(tmp_path) == changed
    value = layout.to_json(changed)
    del value["clusters"][0]["backtrack_window_s"]
    (tmp_path / layout.FILE).write_text(json.dumps(value))
    assert layout.load(tmp_path) == _layout()


def test_new_clusters_get_a_window_if_they_are_told(port):
    made = create.new_layout(port=port, readers=0, backtrack_window_s=3600)
    assert made.cluster("main").backtrack_window_s == 3600
    more = create.with_new_cluster(
        made, "lab", readers=0, retention_days=2, backtrack_window_s=48 * 3600
    )
    more = create.with_new_cluster(more, "other", readers=0)
    assert [c.backtrack_window_s for c in more.clusters] == [3600, 48 * 3600, 0]
    with pytest.raises(ConfigError, match="of 72h needs a retention of at least 3 days, not 1"):
        create.with_new_cluster(more, "bad", readers=0, backtrack_window_s=72 * 3600)
    for wrong in (-1, 72 * 3600 + 1):
        with pytest.raises(ConfigError, match=f"a backtrack window of {wrong} s cannot be"):
            replace(made.cluster("main"), retention_days=35, backtrack_window_s=wrong)


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("24h", 86400, "24h"),
        ("72h", 259200, "72h"),
        ("90m", 5400, "90m"),
        ("120 m", 7200, "2h"),
        ("1.5h", 5400, "90m"),
        (" 45S ", 45, "45s"),
    ],
)
def test_windows_are_understood(text, seconds, shown):
    assert parse_window(text) == seconds
    assert window_text(seconds) == shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("73h", "a backtrack window of 73h cannot be; choose one of at most 72h"),
        ("0h", "a backtrack window of 0h cannot be"),
        ("0.1s", "a backtrack window of 0.1s cannot be"),
        ("24", "'24' is no backtrack window; write it like 24h or 90m"),
        ("-1h", "'-1h' is no backtrack window"),
        ("1d", "'1d' is no backtrack window"),
        ("", "'' is no backtrack window"),
        ("١h", "is no backtrack window"),
    ],
)
def test_what_is_no_window_is_refused(text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_window(text)


@pytest.mark.parametrize("seconds", [0, 0.05, 3601, float("nan")])
def test_archiving_that_is_too_rare_or_never_ends_is_refused(seconds):
    with pytest.raises(ConfigError, match=re.escape("choose 0.1 to 3600 s")):
        replace(_layout(), archive_every_s=seconds)


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


# -- many clusters


def _two(port: int) -> Layout:
    return create.with_new_cluster(create.new_layout(port=port, readers=0), "shop", readers=1)


def test_new_cluster_has_its_own_names_and_ports(port):
    shop = _two(port).cluster("shop")
    first = create.new_layout(port=port, readers=0)
    assert shop.state is ClusterState.CREATING
    assert shop.reader_port == shop.writer_port + 1
    assert [(i.name, i.number, i.az) for i in shop.instances] == [
        ("shop-1", 1, "az1"),
        ("shop-2", 2, "az2"),
    ]
    assert not {shop.writer_port, shop.reader_port, *(i.port for i in shop.instances)} & {
        *first.ports
    }


def test_new_cluster_where_it_is_wanted(port):
    first = create.new_layout(port=port, readers=0)
    assert create.with_new_cluster(first, "shop", port=port + 40).cluster("shop").writer_port == (
        port + 40
    )
    with pytest.raises(ConfigError, match=f"port {first.control_port} is this installation's own"):
        create.with_new_cluster(first, "shop", port=first.control_port)
    with (
        socket.create_server(("127.0.0.1", port + 31)),
        pytest.raises(ConfigError, match=f"port {port + 31} is taken by another program"),
    ):
        create.with_new_cluster(first, "shop", port=port + 30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("main", "there is a cluster main already"),
        ("storage-9", "'storage-9' cannot be a cluster's name"),
        ("endpoint", "'endpoint' cannot be a cluster's name"),
        ("../x", "cannot be a cluster's name"),
        ("x" * 33, "cannot be a cluster's name: a letter, then at most 31"),
        ("main-1", "main-1 cannot be a cluster's name: an instance is called so"),
        ("extra", "extra cannot be a cluster's name: its instances would be called extra-1"),
    ],
)
def test_cluster_name_that_cannot_be_is_refused(name, says):
    layout = _layout().with_instance("main", port=7, name="extra-7")
    with pytest.raises(ConfigError, match=re.escape(says)):
        create.with_new_cluster(layout, name)


def test_instance_is_not_called_like_a_cluster(port):
    layout = _two(port)
    with pytest.raises(ConfigError, match="shop cannot be an instance's name: a cluster is called"):
        layout.with_instance("main", port=1, name="shop")
    other = create.with_new_cluster(layout, "main-2", readers=0)
    assert other.with_instance("main", port=1).cluster("main").instances[-1].name == "main-3"


def test_state_of_a_cluster_survives_the_file_and_is_optional(tmp_path, port):
    two = _two(port).with_state("shop", ClusterState.STOPPED)
    layout.save(tmp_path, two)
    assert layout.load(tmp_path) == two
    value = layout.to_json(_layout())
    del value["clusters"][0]["state"]
    assert layout.from_json(value) == _layout()
    assert _layout().cluster("main").runs
    value["clusters"][0]["state"] = "asleep"
    with pytest.raises(ConfigError, match="is damaged"):
        layout.from_json(value)


def test_stopped_cluster_gets_no_instance_and_says_how_to_start_it(port):
    stopped = _two(port).with_state("shop", ClusterState.STOPPED)
    assert [c.name for c in stopped.running] == ["main"]
    with pytest.raises(ConfigError, match="shop is stopped; start it with `sextet cluster start"):
        stopped.with_instance("shop", port=1)
    assert stopped.with_state("shop", ClusterState.RUNNING).running[1].name == "shop"


def test_there_is_no_way_back_from_deleting_and_the_last_cluster_stays(port):
    two = _two(port)
    going = two.with_state("shop", ClusterState.DELETING)
    for state in (ClusterState.RUNNING, ClusterState.STOPPED):
        with pytest.raises(
            ConfigError, match="being deleted; finish that with `sextet cluster del"
        ):
            going.with_state("shop", state)
    assert [c.name for c in going.without_cluster("shop").clusters] == ["main"]
    for left in (going, going.without_cluster("shop")):
        with pytest.raises(ConfigError, match="main is the last cluster here"):
            left.without_cluster("main")
        with pytest.raises(ConfigError, match="main is the last cluster here"):
            left.with_state("main", ClusterState.DELETING)
    assert [c.name for c in two.without_cluster("main").clusters] == ["shop"]


def test_taken_port_of_a_stopped_cluster_matters_when_it_is_started(port):
    two = _two(port).with_state("shop", ClusterState.STOPPED)
    shop = two.cluster("shop")
    with socket.create_server(("127.0.0.1", shop.writer_port)):
        assert create.with_free_ports(two) == two
        with pytest.raises(ConfigError, match=f"port {shop.writer_port} is taken"):
            create.with_free_ports_of(two, "shop")
    with socket.create_server(("127.0.0.1", shop.instances[0].port)):
        moved = create.with_free_ports_of(two, "shop")
    assert moved.cluster("shop").instances[0].port not in two.ports
    assert moved.cluster("main") == two.cluster("main")
