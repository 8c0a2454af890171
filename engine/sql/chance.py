"""SQLite's random numbers, from the runtime's random port.

`random()`, `randomblob()`, and rowids beyond the largest one come from one generator per process,
which SQLite seeds once from the *default* VFS, whatever VFS a connection uses. So seeding it takes a
default VFS for a moment, whose only own method is the seed. From then on the same calls give the
same numbers.
"""

from __future__ import annotations

import random

import apsw

_NAME = "sextet-seed"


class _Seed(apsw.VFS):
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        super().__init__(_NAME, "", makedefault=True)

    def xRandomness(self, numbytes: int) -> bytes:
        return self._rng.randbytes(numbytes)


def seed_sqlite(rng: random.Random) -> None:
    """Seed the generator of this process afresh."""
    vfs = _Seed(rng)
    try:
        apsw.randomness(0)  # forget the old state ...
        apsw.randomness(1)  # ... so that this asks the default VFS for a new one
    finally:
        vfs.unregister()
