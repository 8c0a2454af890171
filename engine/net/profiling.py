"""A node that is told where to (SEXTET_PROFILE) says what its event loop's thread spends its time on.

SIGUSR1 begins a profile, and ends it: then FOLDER/NAME.prof is there, for `pstats`. Without the
variable the signal means what it means to any process.
"""

from __future__ import annotations

import os
import signal
from asyncio import AbstractEventLoop
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cProfile import Profile

PROFILE = "SEXTET_PROFILE"
"""Environment variable: the folder for profiles, which exists."""


def profile_on_signal(loop: AbstractEventLoop, name: str) -> None:
    folder = os.environ.get(PROFILE)
    if not folder:
        return
    from cProfile import Profile  # a tenth of a start-up that hardly anybody needs

    path = Path(folder) / f"{name}.prof"
    running: list[Profile] = []

    def turn() -> None:
        if running:
            profile = running.pop()
            profile.disable()
            unfinished = path.with_suffix(".part")
            profile.dump_stats(unfinished)
            unfinished.rename(path)
        else:
            running.append(Profile())
            running[0].enable()

    loop.add_signal_handler(signal.SIGUSR1, turn)
