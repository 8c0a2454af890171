"""Clusters that are being cloned: what the layout says of them, and what is left of a clone that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.local import cloning
from cluster.local.cloning import Cloned, clone_cluster, is_begun, with_clone
from cluster.local.components import components_of
from cluster.local.create import new_layout
from cluster.local.folder import Folder
from cluster.local.layout import (
    ClusterSpec,
    ClusterState,
    ForkSpec,
    Layout,
    from_json,
    load,
    save,
    to_json,
)
from cluster.local.ready import Readiness
from engine.errors import ConfigError, SextetError, Unavailable
from engine.net.pb import control_pb2 as pb
from engine.net.pb import storage_pb2 as spb
from engine.types import CommitMark
from tests.e2e.conftest import free_port

FORK = ForkSpec("main", at_lsn=7)


@pytest.fixture(scope="module")
def main() -> Layout:
    return new_layout(port=free_port(), readers=0, max_storage_bytes=20 * 1024**2)


@pytest.fixture
def layout(main: Layout) -> Layout:
    return with_clone(main, FORK, "copy", readers=1, port=None)


def test_a_clone_is_as_large_as_its_source_may_be_and_has_no_processes_yet(
    layout: Layout, tmp_path: Path
) -> None:
    copy = layout.cluster("copy")
    assert (copy.state, copy.runs, copy.fork) == (ClusterState.CLONING, False, FORK)
    assert copy.max_storage_bytes == 20 * 1024**2
    assert [i.name for i in copy.instances] == ["copy-1", "copy-2"]
    started = [c.name for c in components_of(Folder.at(tmp_path), layout)]
    assert not [name for name in started if "copy" in name]


def test_its_past_is_kept_as_long_as_it_is_told_and_not_as_its_sources(layout: Layout) -> None:
    main = replace(layout.cluster("main"), retention_days=7, backtrack_window_s=3600)
    layout = layout.with_cluster(main)
    plain = with_clone(layout, FORK, "plain", readers=0, port=None)
    told = with_clone(
        plain, FORK, "told", readers=0, port=None, retention_days=2, backtrack_window_s=7200
    )
    kept = [(c.name, c.retention_days, c.backtrack_window_s) for c in told.clusters]
    assert kept == [("main", 7, 3600), ("copy", 1, 0), ("plain", 1, 0), ("told", 2, 7200)]


def test_it_is_in_the_file(layout: Layout) -> None:
    assert from_json(to_json(layout)) == layout
    old = to_json(layout)
    for cluster in old["clusters"]:
        del cluster["fork"]
    with pytest.raises(ConfigError, match="copy is being cloned from nothing"):
        from_json(old)


def test_its_source_stays_until_it_is_made(layout: Layout) -> None:
    for change in (
        lambda: layout.with_state("main", ClusterState.DELETING),
        lambda: layout.without_cluster("main"),
    ):
        with pytest.raises(ConfigError, match="finish that with `sextet clone main copy`, or"):
            change()
    assert not layout.with_state("main", ClusterState.STOPPED).cluster("main").runs
    made = layout.with_state("copy", ClusterState.CREATING)
    assert made.with_state("main", ClusterState.DELETING)


def test_it_can_only_be_made_or_deleted(layout: Layout) -> None:
    for state in (ClusterState.RUNNING, ClusterState.STOPPED):
        with pytest.raises(ConfigError, match="cluster copy is being cloned; finish that with"):
            layout.with_state("copy", state)
    with pytest.raises(ConfigError, match="cluster copy is being cloned; finish that with"):
        layout.running_cluster("copy")
    assert layout.with_state("copy", ClusterState.CREATING).running_cluster("copy")
    assert layout.with_state("copy", ClusterState.DELETING).without_cluster("copy")


def test_what_cannot_be_cloned(layout: Layout) -> None:
    with pytest.raises(ConfigError, match="there is no cluster none here"):
        with_clone(layout, ForkSpec("none"), "new", readers=0, port=None)
    with pytest.raises(ConfigError, match="copy is being cloned from main; finish that"):
        with_clone(layout, ForkSpec("copy"), "new", readers=0, port=None)
    with pytest.raises(ConfigError, match="there is a cluster copy already"):
        with_clone(layout, FORK, "copy", readers=0, port=None)
    gone = layout.with_state("copy", ClusterState.DELETING)
    with pytest.raises(ConfigError, match="copy is being deleted"):
        with_clone(gone, ForkSpec("copy"), "new", readers=0, port=None)


def test_whose_clone_is_begun(layout: Layout) -> None:
    assert is_begun(layout, "main", "copy")
    assert not is_begun(layout, "copy", "main")
    assert not is_begun(layout, "main", "other")
    assert is_begun(layout.with_state("copy", ClusterState.CREATING), "main", "copy")
    assert not is_begun(layout.with_state("copy", ClusterState.DELETING), "main", "copy")
    done = replace(layout.cluster("copy"), state=ClusterState.RUNNING, fork=None)
    assert not is_begun(layout.with_cluster(done), "main", "copy")


# -- the call


class Stage:
    """An installation without processes: what is told to whom is noted."""

    def __init__(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.answer: pb.ForkVolumeReply | SextetError = pb.ForkVolumeReply(
            volume=2, commit=spb.CommitPoint(lsn=7, time_us=8, pages=9)
        )
        self.running: SextetError | None = None
        for name in ("check_running", "tell", "wait_for_sql"):
            monkeypatch.setattr(cloning, name, self._noting(name))
        monkeypatch.setattr(cloning, "have_adopted", lambda _layout: True)
        monkeypatch.setattr(cloning, "_fork_volume", self._fork)
        monkeypatch.setattr(cloning, "seen_running", self._seen)
        monkeypatch.setattr(cloning, "delete_cluster", self._delete)

    def _noting(self, name: str) -> Callable[..., bool]:
        def note(*_: object, **__: object) -> bool:
            self.said.append(name)
            return True

        return note

    async def _fork(self, layout: Layout, name: str, fork: ForkSpec) -> pb.ForkVolumeReply:
        self.said.append(f"fork {layout.cluster(name).state}")
        assert fork == layout.cluster(name).fork
        if isinstance(self.answer, SextetError):
            raise self.answer
        return self.answer

    def _seen(self, _folder: Folder, spec: ClusterSpec, *_: object) -> ClusterSpec:
        self.said.append(f"seen {spec.state}")
        if self.running is not None:
            raise self.running
        return spec

    def _delete(self, _folder: Folder, name: str) -> None:
        self.said.append(f"delete {name}")

    @contextmanager
    def copying(self, why: str) -> Iterator[Callable[[], None]]:
        self.said.append(why)
        yield lambda: self.said.append("bring")
        self.said.append("copied")

    def clone(self) -> Cloned:
        return clone_cluster(self.folder, FORK, "copy", full_copy=self.copying, readers=0)

    @property
    def state(self) -> ClusterState:
        layout = load(self.folder.data)
        assert layout is not None
        return layout.cluster("copy").state


@pytest.fixture
def stage(main: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    folder = Folder.at(tmp_path)
    folder.make()
    save(folder.data, main)
    return Stage(folder, monkeypatch)


def test_the_volume_is_made_before_anything_is_started(stage: Stage) -> None:
    made = stage.clone()
    assert made.commit == CommitMark(7, 8, 9)
    assert stage.said == ["check_running", "fork cloning", "check_running", "tell", "seen creating"]
    assert stage.state is ClusterState.CREATING


def test_a_full_copy_is_brought_once_it_takes_sql(stage: Stage) -> None:
    stage.answer = pb.ForkVolumeReply(volume=2, copy="there are many")
    made = stage.clone()
    assert (made.commit, made.copy) == (None, "there are many")
    assert stage.said[2:] == [
        "there are many",
        "check_running",
        "tell",
        "wait_for_sql",
        "bring",
        "copied",
        "seen creating",
    ]


def test_what_cannot_be_leaves_nothing(stage: Stage) -> None:
    stage.answer = ConfigError("there is no such moment")
    with pytest.raises(ConfigError, match="there is no such moment"):
        stage.clone()
    assert stage.said[-1] == "delete copy"


def test_what_an_earlier_call_has_begun_is_not_removed_by_a_later_one(stage: Stage) -> None:
    stage.answer = Unavailable("three nodes are away")
    with pytest.raises(
        Unavailable, match="three nodes are away; copy is being cloned: finish that"
    ):
        stage.clone()
    stage.answer = ConfigError("there is no such moment")
    with pytest.raises(ConfigError):
        stage.clone()
    assert not [said for said in stage.said if said.startswith("delete")]
    assert stage.state is ClusterState.CLONING


def test_one_that_does_not_come_up_stays_and_is_gone_on_with(stage: Stage) -> None:
    stage.running = Readiness("copy-1 keeps ending", "copy-1")
    with pytest.raises(Readiness):
        stage.clone()
    assert stage.state is ClusterState.CREATING
    stage.running = None
    stage.said.clear()
    assert stage.clone().commit == CommitMark(7, 8, 9)
    assert stage.said[1] == "fork creating"
