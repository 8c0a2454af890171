"""A cluster that begins as a clone of another one.

As in `cluster.local.clusters` the layout says first what is wanted: a cluster that is *being cloned*, and
of what. Then the control plane makes its volume (`cluster.control.forking`), and only then it gets
processes, as any cluster that is *being created*. A caller that is killed anywhere leaves one of these,
which the same call takes to its end, and which `delete_cluster` removes.

Where pages cannot be shared the caller has to bring a full copy (`FullCopy`) into the new cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from cluster.local.change import LOCK_WAIT_S, change_layout, layout_turn
from cluster.local.clusters import (
    check_running,
    delete_cluster,
    have_adopted,
    refuse_unfinished,
    seen_running,
    tell,
)
from cluster.local.create import with_new_cluster
from cluster.local.folder import Folder
from cluster.local.layout import (
    DEFAULT_READERS,
    DEFAULT_RETENTION_DAYS,
    ClusterSpec,
    ClusterState,
    ForkSpec,
    Layout,
)
from cluster.local.ready import READY_S, Readiness, wait_for_sql
from engine.errors import SextetError, Unavailable
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import FORK_VOLUME
from engine.net.pb import control_pb2 as pb
from engine.types import CommitMark
from engine.volume.fencing import commit_from_pb

CALL_S = 90.0
"""The control plane gives up before."""

FORK_S = 30.0
"""A control plane that was killed is back before, and asked again."""

PAUSE_S = 0.2

FullCopy = Callable[[str], AbstractContextManager[Callable[[], None]]]
"""Given why no pages are shared: takes a copy of the source, and gives what brings it into the new cluster,
which is called once that takes SQL."""


@dataclass(frozen=True, slots=True)
class Cloned:
    """`commit`: with whose state it begins; None for a full copy, and then `copy` says why it is one.
    `volume_s`: how long its volume took to make; the rest is the start of its processes."""

    spec: ClusterSpec
    commit: CommitMark | None
    copy: str
    volume_s: float


def clone_cluster(
    folder: Folder,
    fork: ForkSpec,
    name: str,
    *,
    full_copy: FullCopy,
    readers: int = DEFAULT_READERS,
    port: int | None = None,
    retention_days: int = DEFAULT_RETENTION_DAYS,
    backtrack_window_s: int = 0,
    wait_s: float = LOCK_WAIT_S,
    ready_s: float = READY_S,
) -> Cloned:
    """A new cluster that begins as `fork` says, once it takes SQL. The source goes on, or rests.

    One that an earlier call has begun is taken to its end as it was begun. Raises ConfigError if it cannot
    be, or whatever `full_copy` raises: then there is no new cluster. Raises Unavailable or Readiness if it
    does not come about now: then it stays, as one that is being cloned or created.
    """
    fresh = True

    def begun(old: Layout) -> Layout:
        nonlocal fresh
        if is_begun(old, fork.source, name):
            fresh = False
            return old
        return with_clone(
            old,
            fork,
            name,
            readers=readers,
            port=port,
            retention_days=retention_days,
            backtrack_window_s=backtrack_window_s,
        )

    with layout_turn(folder, wait_s):
        check_running(folder)
        layout = change_layout(folder, begun)
        adopted = have_adopted(layout)
    try:
        if not adopted:
            raise Unavailable(f"the control plane does not answer, see {folder.log('control')}")
        return _finish(folder, layout, name, full_copy, wait_s, ready_s)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; {name} is being cloned: finish that with the same command, or remove it with "
            f"`sextet cluster delete {name}`"
        ) from error
    except Readiness:
        raise
    except SextetError:
        if fresh:
            delete_cluster(folder, name)
        raise


def with_clone(
    layout: Layout,
    fork: ForkSpec,
    name: str,
    *,
    readers: int,
    port: int | None,
    retention_days: int = DEFAULT_RETENTION_DAYS,
    backtrack_window_s: int = 0,
) -> Layout:
    """With one more cluster, which is being cloned. Raises ConfigError if it cannot be."""
    source = layout.cluster(fork.source)
    if source.state is ClusterState.DELETING:
        layout.running_cluster(fork.source)  # raises
    refuse_unfinished(source)
    return with_new_cluster(
        layout,
        name,
        readers=readers,
        port=port,
        max_storage_bytes=source.max_storage_bytes,
        retention_days=retention_days,
        backtrack_window_s=backtrack_window_s,
        fork=fork,
    )


def is_begun(layout: Layout, source: str, name: str) -> bool:
    """Whether an earlier call has begun to make `name` from `source`, and nobody deletes it."""
    found = next((c for c in layout.clusters if c.name == name), None)
    return (
        found is not None
        and found.fork is not None
        and found.fork.source == source
        and found.state is not ClusterState.DELETING
    )


def _finish(
    folder: Folder,
    layout: Layout,
    name: str,
    full_copy: FullCopy,
    wait_s: float,
    ready_s: float,
) -> Cloned:
    fork = layout.cluster(name).fork
    assert fork is not None
    began = time.monotonic()
    made = asyncio.run(_fork_volume(layout, name, fork))
    volume_s = time.monotonic() - began

    def opened(old: Layout) -> Layout:
        if not is_begun(old, fork.source, name):
            return old  # somebody else has taken it further, or deletes it
        return old.with_state(name, ClusterState.CREATING)

    with ExitStack() as stack:
        bring = stack.enter_context(full_copy(made.copy)) if made.copy else None
        with layout_turn(folder, wait_s):
            check_running(folder)
            layout = change_layout(folder, opened)
            spec = layout.cluster(name)
            tell(folder, layout)
        if bring is not None:
            wait_for_sql(folder, spec, timeout=ready_s)
            bring()
    spec = seen_running(folder, spec, wait_s, ready_s)
    commit = commit_from_pb(made.commit)
    return Cloned(spec, None if made.copy else commit, made.copy, volume_s)


async def _fork_volume(layout: Layout, name: str, fork: ForkSpec) -> pb.ForkVolumeReply:
    """Raises ConfigError if it can never be, Unavailable."""
    request = pb.ForkVolumeRequest(cluster=name, at_lsn=fork.at_lsn, at_time_us=fork.at_time_us)
    deadline = time.monotonic() + FORK_S
    channel = GrpcTransport().connect(layout.control_address)
    try:
        while True:
            try:
                return await channel.call(FORK_VOLUME, request, timeout=CALL_S)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(PAUSE_S)
    finally:
        await channel.close()
