"""The same cluster for programs that run in an event loop: whatever takes time is awaited.

Clients in the same loop, such as an asyncpg pool, go on while a fault begins or something is waited for.
A call that is cancelled is not undone: what has begun in its thread is carried through there.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from cluster.faults.kit import FaultKit
from cluster.testing.local import HEALTHY_S, LOG_LINES, POLL_S, LocalCluster, did_not_come

P = ParamSpec("P")
T = TypeVar("T")


def _beside(
    method: Callable[Concatenate[FaultKit, P], T],
) -> Callable[Concatenate[AsyncFaultKit, P], Coroutine[Any, Any, T]]:
    """The method in a thread beside the loop."""

    @functools.wraps(method)
    async def call(self: AsyncFaultKit, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self._kit, *args, **kwargs)

    return call


class AsyncFaultKit:
    """`FaultKit`, awaited: the same methods, with the same arguments and answers."""

    def __init__(self, kit: FaultKit) -> None:
        self._kit = kit

    begin = _beside(FaultKit.begin)
    heal = _beside(FaultKit.heal)
    active = _beside(FaultKit.active)
    effects = _beside(FaultKit.effects)
    resolve = _beside(FaultKit.resolve)

    kill = _beside(FaultKit.kill)
    pause = _beside(FaultKit.pause)
    resume = _beside(FaultKit.resume)
    wipe = _beside(FaultKit.wipe)
    crash_at = _beside(FaultKit.crash_at)
    az_down = _beside(FaultKit.az_down)
    az_up = _beside(FaultKit.az_up)
    partition = _beside(FaultKit.partition)
    isolate = _beside(FaultKit.isolate)
    slow_net = _beside(FaultKit.slow_net)
    drop = _beside(FaultKit.drop)
    slow_disk = _beside(FaultKit.slow_disk)
    fill_disk = _beside(FaultKit.fill_disk)
    fail_fsync = _beside(FaultKit.fail_fsync)
    corrupt = _beside(FaultKit.corrupt)
    clock_skew = _beside(FaultKit.clock_skew)


class AsyncLocalCluster:
    """`LocalCluster`, awaited: `async with AsyncLocalCluster() as cluster: ...`.

    The arguments are those of `LocalCluster`. `AsyncLocalCluster.of(cluster)` is another way to use one
    that there is already, such as a fixture's.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        folder: str | os.PathLike[str] | None = None,
        port: int | None = None,
        max_storage: str = "1G",
    ) -> None:
        self._cluster = LocalCluster(
            replicas=replicas, folder=folder, port=port, max_storage=max_storage
        )

    @classmethod
    def of(cls, cluster: LocalCluster) -> Self:
        """The same cluster: stopped, it is stopped for both."""
        made = cls.__new__(cls)
        made._cluster = cluster
        return made

    # -- its life

    async def start(self) -> Self:
        """Start, and return once both endpoints answer SQL; nothing is left of it if this is cancelled.

        Raises ClusterDown, ConfigError.
        """
        await self._cluster.__aenter__()
        return self

    async def stop(self) -> None:
        """End every process and delete a temporary folder. Stopping twice is no error."""
        await asyncio.to_thread(self._cluster.stop)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- what an application needs: no more than a look at a small file, so not awaited

    @property
    def writer_url(self) -> str:
        """For any PostgreSQL client: always the current writer."""
        return self._cluster.writer_url

    @property
    def reader_url(self) -> str:
        """For any PostgreSQL client: a replica with few connections."""
        return self._cluster.reader_url

    @property
    def folder(self) -> Path:
        """Everything of this cluster: data, logs, catalog."""
        return self._cluster.folder

    # -- what a test needs

    @property
    def fault(self) -> AsyncFaultKit:
        """Break it: `await cluster.fault.kill("writer")`, `await cluster.fault.heal()`, and more."""
        return AsyncFaultKit(self._cluster.fault)

    async def writer(self) -> str:
        """The name of the instance that is writer now."""
        return (await self.fault.resolve("writer"))[0]

    async def sextet(self, *arguments: object, timeout_s: float = 120.0) -> str:
        """Run `sextet ARGUMENTS` on this cluster; what it printed.

        Raises ClusterDown if it fails or takes longer than `timeout_s`.
        """
        return await asyncio.to_thread(self._cluster.sextet, *arguments, timeout_s=timeout_s)

    async def status(self) -> dict[str, Any]:
        """What `sextet status --json` says."""
        return await asyncio.to_thread(self._cluster.status)

    async def logs(self, name: str, lines: int = LOG_LINES) -> str:
        """The last lines of a node's log: "main-1", "storage-3", "control", "supervisor"."""
        return await asyncio.to_thread(self._cluster.logs, name, lines)

    async def missing(self) -> list[str]:
        """What `until_healthy` waits for, in words: empty if all is well."""
        return await asyncio.to_thread(self._cluster.missing)

    async def until_healthy(self, timeout_s: float = HEALTHY_S) -> None:
        """Return once every instance and storage node is up and every group has six whole copies.

        Heal faults before (`await cluster.fault.heal()`). Raises ClusterDown, naming what is missing.
        """
        left: list[str] = []

        async def whole() -> bool:
            left[:] = await self.missing()
            return not left

        await self.until(whole, "a healthy cluster", timeout_s, lambda: left)

    async def until(
        self,
        true: Callable[[], bool | Awaitable[bool]],
        what: str,
        timeout_s: float = HEALTHY_S,
        why: Callable[[], object] = lambda: "",
    ) -> None:
        """Return as soon as `true()` is. Raises ClusterDown with `what`, and what `why()` says.

        It is called in the loop: a function that takes long should be a coroutine's.
        """
        deadline = time.monotonic() + timeout_s
        while not await _told(true()):
            if time.monotonic() > deadline:
                raise did_not_come(what, timeout_s, why())
            await asyncio.sleep(POLL_S)


async def _told(answer: bool | Awaitable[bool]) -> bool:
    return await answer if inspect.isawaitable(answer) else answer
