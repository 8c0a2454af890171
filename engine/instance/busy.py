"""Saying beforehand that nobody will be answered for a while.

A commit is one computation that nothing interrupts (`engine.volume.writer.VolumeWriter.commit`), and of
hundreds of megabytes it takes seconds. Whoever watches this instance would take it for hung and name
another writer, and the commit would be lost, again and again. So those who watch are told first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

HEARD_S = 0.6
"""How long it is waited for that somebody has heard: the control plane asks four times a second."""


class Busy:
    """One instance's. `on_announce` is called at each announcement."""

    def __init__(self) -> None:
        self.on_announce: Callable[[], None] = lambda: None
        self._computing = 0
        self._heard = asyncio.Event()

    @property
    def computing(self) -> bool:
        return self._computing > 0

    @property
    def state(self) -> str:
        """What the status says meanwhile: "committing", or ""."""
        if not self._computing:
            return ""
        self._heard.set()
        return "committing"

    async def announce(self) -> None:
        """Before the computation; returns when it may begin, in the same step of the loop.

        Those who watch may be away: then nobody will misunderstand either.
        """
        self._heard.clear()
        self._computing += 1
        try:
            self.on_announce()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARD_S):
                    await self._heard.wait()
        finally:
            asyncio.get_running_loop().call_soon(self._done)

    def _done(self) -> None:
        self._computing -= 1
