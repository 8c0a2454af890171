"""A simulated object store: a bucket that outlives every node, and the way to it.

`Bucket` is the store; `SimObjects` is one process's object store port. A request that was sent arrives
whether its sender still lives or not, and so it may take effect after the sender's next life has looked.
While the network between the two is cut it is sent again and again, as TCP does, and arrives when the cut
ends, if that is soon enough; by then the sender may have given it up.

Faults are those of the network on the way (`Way`), and the bucket's own: it is full, or suddenly empty.
While it is `unreachable` nobody gets an answer, which is said at once, and a `create` or `delete` under
way may have taken effect or not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.sim.disk import DiskImage
from cluster.sim.network import RETRANSMIT_S, Network
from cluster.sim.process import Life
from engine.errors import ConfigError, DiskFull, ObjectExists, ObjectMissing, Unavailable
from engine.objects import check_key, folders_of

T = TypeVar("T")

STORE = "store"
"""The store's name as a target of faults and a host of the network."""

LATENCY_S = 0.004
ANSWER_S = 4.0
"""A client waits so long for an answer."""

ARRIVES_WITHIN_S = 10.0
"""What could not arrive for so long never does."""


class Bucket:
    """What is stored, by key. `image` has the faults of its disk."""

    def __init__(self, rng: random.Random) -> None:
        self.objects: dict[str, bytes] = {}
        self.unreachable = False
        self.rng = rng
        self.image = DiskImage(STORE, rng)
        self._folders: dict[str, int] = {}  # how many objects are below

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise ObjectExists(f"{key} exists in the bucket already")
        if self._folders.get(key):
            raise ConfigError(f"{key} is a folder of this store, no object")
        above = folders_of(key)
        if any(folder in self.objects for folder in above):
            raise ConfigError(f"{key}: an object of this store is where a folder must be")
        if self.image.limit is not None:
            self.image.effects["disk full"] = self.image.effects.get("disk full", 0) + 1
            raise DiskFull(f"the bucket has no room for {key}")
        self.objects[key] = data
        for folder in above:
            self._folders[folder] = self._folders.get(folder, 0) + 1

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            for folder in folders_of(key):
                self._folders[folder] -= 1

    def wipe(self) -> None:
        """Another, empty store is there from now on."""
        self.objects.clear()
        self._folders.clear()


@dataclass(frozen=True, slots=True)
class Way:
    """Between a process's life and the store."""

    network: Network
    host: str
    life: Life


class SimObjects:
    """ObjectStore port over a bucket, with latency; without a `way` nothing is between the two."""

    def __init__(self, bucket: Bucket, way: Way | None = None) -> None:
        self._bucket = bucket
        self._way = way

    async def create(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._ask(lambda: self._bucket.create(key, data), may_have=True)

    async def read(self, key: str) -> bytes:
        check_key(key)
        found = await self._ask(lambda: self._bucket.objects.get(key))
        if found is None:
            raise ObjectMissing(f"the bucket has no {key}")
        return found

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._ask(
            lambda: sorted(key for key in self._bucket.objects if key.startswith(prefix))
        )

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._ask(lambda: self._bucket.delete(key), may_have=True)

    async def _ask(self, act: Callable[[], T], *, may_have: bool = False) -> T:
        """Have it done over there. `may_have`: of what is asked of an unreachable store half is done."""
        if self._way is not None:
            self._way.life.check()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._send(there=True, then=lambda: self._arrive(act, answer, may_have))
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError as error:
            raise Unavailable(f"the object store has not answered for {ANSWER_S:g} s") from error

    def _arrive(self, act: Callable[[], T], answer: asyncio.Future[T], may_have: bool) -> None:
        away = self._bucket.unreachable
        failed: Exception | None = None
        done: T | None = None
        if not away or (may_have and self._bucket.rng.random() < 0.5):
            try:
                done = act()
            except (ConfigError, DiskFull, ObjectExists, Unavailable) as error:
                failed = error

        def answered() -> None:
            if answer.done():
                return  # given up
            error = failed
            if away or self._bucket.unreachable:
                error = Unavailable("the object store does not answer")
            if error is None:
                answer.set_result(done)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)
                answer.exception()  # who asked may have died: then nobody will, and that is no bug

        self._send(there=False, then=answered)

    def _send(self, *, there: bool, then: Callable[[], None], since: float = -1.0) -> None:
        """One message; `then` when it has arrived. It is on its way whatever becomes of its sender."""
        loop = asyncio.get_running_loop()
        since = loop.time() if since < 0 else since
        delay = LATENCY_S * (0.5 + self._bucket.rng.random())
        if self._way is None:
            loop.call_later(delay, then)
            return
        network, host = self._way.network, self._way.host
        path = (host, STORE) if there else (STORE, host)

        def arrive() -> None:
            if not network.blocked(*path):
                then()
                return
            network.hold(*path)
            if loop.time() - since < ARRIVES_WITHIN_S:
                loop.call_later(RETRANSMIT_S, arrive, context=network.context)

        loop.call_later(delay + network.delay(*path), arrive, context=network.context)
