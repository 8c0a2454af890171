"""A simulated object store: a bucket that outlives every node, and the way to it.

`Bucket` is the store; `SimObjects` is one process's object store port. Faults are the bucket's: while it
is `unreachable` nobody gets an answer, and a `create` or `delete` under way may have taken effect or not.
"""

from __future__ import annotations

import asyncio
import random

from engine.errors import ConfigError, ObjectExists, ObjectMissing, Unavailable
from engine.objects import check_key, folders_of

LATENCY_S = 0.004


class Bucket:
    """What is stored, by key."""

    def __init__(self, rng: random.Random) -> None:
        self.objects: dict[str, bytes] = {}
        self.unreachable = False
        self.rng = rng
        self._folders: dict[str, int] = {}  # how many objects are below

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise ObjectExists(f"{key} exists in the bucket already")
        if self._folders.get(key):
            raise ConfigError(f"{key} is a folder of this store, no object")
        above = folders_of(key)
        if any(folder in self.objects for folder in above):
            raise ConfigError(f"{key}: an object of this store is where a folder must be")
        self.objects[key] = data
        for folder in above:
            self._folders[folder] = self._folders.get(folder, 0) + 1

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            for folder in folders_of(key):
                self._folders[folder] -= 1


class SimObjects:
    """ObjectStore port over a bucket, with latency."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def create(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._there(may_have=True)
        self._bucket.create(key, data)
        await self._back()

    async def read(self, key: str) -> bytes:
        check_key(key)
        await self._there()
        found = self._bucket.objects.get(key)
        await self._back()
        if found is None:
            raise ObjectMissing(f"the bucket has no {key}")
        return found

    async def keys(self, prefix: str = "") -> list[str]:
        await self._there()
        found = sorted(key for key in self._bucket.objects if key.startswith(prefix))
        await self._back()
        return found

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._there(may_have=True)
        self._bucket.delete(key)
        await self._back()

    async def _there(self, *, may_have: bool = False) -> None:
        """The way there; a request may still arrive whose answer will not."""
        await asyncio.sleep(LATENCY_S * (0.5 + self._bucket.rng.random()))
        if self._bucket.unreachable and not (may_have and self._bucket.rng.random() < 0.5):
            raise Unavailable("the object store does not answer")

    async def _back(self) -> None:
        await asyncio.sleep(LATENCY_S * (0.5 + self._bucket.rng.random()))
        if self._bucket.unreachable:
            raise Unavailable("the object store does not answer")
