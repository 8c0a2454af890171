"""Clusters come, rest and go while the installation runs, and the others do not notice.

What is wanted is written into the layout first, durably; control plane and supervisor follow it, at once if
they are told and otherwise when they start again. So a caller that is killed anywhere leaves a cluster that
is as it was, as it should be, or on its way there: the same call again takes it to the end.

These functions block, for seconds; they are not for an event loop. `wait_s` is for how long another
command may be changing the layout.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from cluster.local.adopt import adopt
from cluster.local.change import LOCK_WAIT_S, change_layout, layout_turn, tell_supervisor
from cluster.local.components import names_of
from cluster.local.create import with_free_ports_of, with_new_cluster
from cluster.local.folder import Folder
from cluster.local.layout import (
    DEFAULT_MAX_STORAGE,
    DEFAULT_READERS,
    DEFAULT_RETENTION_DAYS,
    ClusterSpec,
    ClusterState,
    Layout,
    load,
)
from cluster.local.ready import READY_S, wait_for_sql
from cluster.local.state import running_state
from cluster.local.stopping import StillRunning
from engine.errors import ConfigError

ADOPT_WAIT_S = 10.0
"""A control plane that was killed is back before."""

END_S = 20.0
"""Longer than the supervisor waits before it ends a process the hard way."""

POLL_S = 0.05


def create_cluster(
    folder: Folder,
    name: str,
    *,
    readers: int = DEFAULT_READERS,
    port: int | None = None,
    max_storage_bytes: int = DEFAULT_MAX_STORAGE,
    retention_days: int = DEFAULT_RETENTION_DAYS,
    backtrack_window_s: int = 0,
    restoring: bool = False,
    wait_s: float = LOCK_WAIT_S,
    ready_s: float = READY_S,
) -> ClusterSpec:
    """A new empty cluster with a volume, instances and endpoints of its own, once it takes SQL.

    One that an earlier call has begun is taken to its end as it was begun. With `restoring` it is a new one
    in any case, and counts as one being created until `restored` says that it has its contents.

    Raises ConfigError if it cannot be or is there already, Readiness if it takes no SQL: then it stays, as
    one being created.
    """

    def begun(old: Layout) -> Layout:
        creating = [c for c in old.clusters if c.name == name and c.state is ClusterState.CREATING]
        if creating and not restoring:
            refuse_unfinished(creating[0])
            return old
        return with_new_cluster(
            old,
            name,
            readers=readers,
            port=port,
            max_storage_bytes=max_storage_bytes,
            retention_days=retention_days,
            backtrack_window_s=backtrack_window_s,
            restoring=restoring,
        )

    with layout_turn(folder, wait_s):
        check_running(folder)
        layout = change_layout(folder, begun)
        tell(folder, layout)
    spec = layout.cluster(name)
    if restoring:
        wait_for_sql(folder, spec, timeout=ready_s)
        return spec
    return seen_running(folder, spec, wait_s, ready_s)


def restored(folder: Folder, name: str, *, wait_s: float = LOCK_WAIT_S) -> None:
    """It has what it was created for, and is as any other from now on. Raises ConfigError if it is not
    there, or is not being restored, any more."""

    def whole(old: Layout) -> Layout:
        spec = old.cluster(name)
        if not spec.restoring or spec.state is not ClusterState.CREATING:
            raise ConfigError(f"{name} was stopped or deleted while it was being restored")
        return old.with_cluster(replace(spec, state=ClusterState.RUNNING, restoring=False))

    with layout_turn(folder, wait_s):
        change_layout(folder, whole)


def is_restoring(layout: Layout, name: str) -> bool:
    """Whether there is a cluster of that name that a restore was to fill, and nobody has seen that done."""
    return any(c.name == name and c.restoring for c in layout.clusters)


def start_cluster(
    folder: Folder, name: str, *, wait_s: float = LOCK_WAIT_S, ready_s: float = READY_S
) -> ClusterSpec:
    """Once it takes SQL; no harm if it runs. Raises ConfigError, Readiness: then it goes on starting."""

    def started(old: Layout) -> Layout:
        spec = old.cluster(name)
        refuse_unfinished(spec)
        if spec.runs:
            return old
        if not processes_of(folder, spec):  # else it was being stopped, and its ports are its own
            old = with_free_ports_of(old, name)
        return old.with_state(name, ClusterState.RUNNING)

    with layout_turn(folder, wait_s):
        check_running(folder)
        layout = change_layout(folder, started)
        tell(folder, layout)
    return seen_running(folder, layout.cluster(name), wait_s, ready_s)


def stop_cluster(folder: Folder, name: str, *, wait_s: float = LOCK_WAIT_S) -> bool:
    """Once its processes have ended; its volume stays. No harm if it is stopped.

    Whether the control plane knows; else it hears of it when it is back. Raises ConfigError, and
    StillRunning if a process does not end.
    """
    with layout_turn(folder, wait_s):
        check_running(folder)
        layout = change_layout(folder, lambda old: old.with_state(name, ClusterState.STOPPED))
        # The catalog first: then nobody is taken for dead.
        adopted = tell(folder, layout)
    _until_ended(folder, layout.cluster(name))
    return adopted


def delete_cluster(folder: Folder, name: str, *, wait_s: float = LOCK_WAIT_S) -> None:
    """Stopped, and then gone with its volume. Storage nodes drop their segments when they are told, now
    or when they are back.

    Raises ConfigError if it is the last one, or if the control plane is away: then the cluster is being
    deleted, and there is no way back. Raises StillRunning if a process does not end: then it is stopped.
    """
    with layout_turn(folder, wait_s):
        check_running(folder)
        layout = _loaded(folder)
        layout.without_cluster(name)  # raises unless it can be
        if layout.cluster(name).runs:
            layout = change_layout(folder, lambda old: old.with_state(name, ClusterState.STOPPED))
        tell(folder, layout)
    _until_ended(folder, layout.cluster(name))
    with layout_turn(folder, wait_s):
        layout = _loaded(folder)
        if any(c.name == name for c in layout.clusters):  # else another command was faster
            _refuse_if_it_runs(layout, name)
            layout = change_layout(folder, lambda old: old.with_state(name, ClusterState.DELETING))
            if not have_adopted(layout):
                raise ConfigError(
                    f"{name} is being deleted, but the control plane does not answer, see "
                    f"{folder.log('control')}; then finish it with `sextet cluster delete {name}`"
                )
            change_layout(folder, lambda old: old.without_cluster(name))
            for told in (folder.endpoint_view(name), folder.archive_state(name)):
                told.unlink(missing_ok=True)  # a later one may have its name


def refuse_unfinished(spec: ClusterSpec) -> None:
    """Raises ConfigError for one that an unfinished `sextet clone` or `sextet restore` has begun."""
    if spec.fork is not None:
        raise ConfigError(
            f"{spec.name} is being cloned from {spec.fork.source}; finish that with `sextet clone "
            f"{spec.fork.source} {spec.name}`, or remove it with `sextet cluster delete {spec.name}`"
        )
    if spec.restoring:
        raise ConfigError(
            f"{spec.name} is being restored, or that broke off: give that command again, or remove what "
            f"it left with `sextet cluster delete {spec.name}`"
        )


def _refuse_if_it_runs(layout: Layout, name: str) -> None:
    if layout.cluster(name).runs:
        raise ConfigError(f"{name} was started by another command while it should be deleted")


# -- telling, and seeing it done


def check_running(folder: Folder) -> None:
    if running_state(folder) is None:
        raise ConfigError(f"no cluster is running in {folder.data}; start it with `sextet up`")


def _loaded(folder: Folder) -> Layout:
    layout = load(folder.data)
    if layout is None:
        raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
    return layout


def tell(folder: Folder, layout: Layout) -> bool:
    """Whether the control plane knows. Raises ConfigError if the supervisor is gone."""
    adopted = have_adopted(layout)
    if not tell_supervisor(folder):
        check_running(folder)
    return adopted


def have_adopted(layout: Layout) -> bool:
    """Have the control plane take the layout over; it may have been killed just now."""
    deadline = time.monotonic() + ADOPT_WAIT_S
    while not asyncio.run(adopt(layout)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def seen_running(folder: Folder, spec: ClusterSpec, wait_s: float, ready_s: float) -> ClusterSpec:
    """Once it takes SQL, which is noted if that is news."""
    wait_for_sql(folder, spec, timeout=ready_s)

    def seen(old: Layout) -> Layout:
        if any(c.name == spec.name and c.state is ClusterState.CREATING for c in old.clusters):
            running = replace(old.cluster(spec.name), state=ClusterState.RUNNING, fork=None)
            return old.with_cluster(running)
        return old

    if spec.state is ClusterState.CREATING:
        with layout_turn(folder, wait_s):
            return change_layout(folder, seen).cluster(spec.name)
    return spec


def processes_of(folder: Folder, spec: ClusterSpec) -> list[str]:
    """The cluster's processes that the supervisor keeps, or is ending."""
    state = running_state(folder)
    if state is None:
        return []
    return [name for name in names_of(spec) if state.child(name) is not None]


def _until_ended(folder: Folder, spec: ClusterSpec) -> None:
    deadline = time.monotonic() + END_S
    while left := processes_of(folder, spec):
        if time.monotonic() > deadline:
            raise StillRunning(
                f"{', '.join(left)} of {spec.name} does not end; see `sextet status`"
            )
        time.sleep(POLL_S)
