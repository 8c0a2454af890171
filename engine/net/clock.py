"""The real clock: the event loop's time, and the wall's."""

from __future__ import annotations

import asyncio
import time


class LoopClock:
    """Clock port over the running loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_us(self) -> int:
        return time.time_ns() // 1000
