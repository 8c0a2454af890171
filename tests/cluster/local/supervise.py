"""A supervisor over the components of a JSON file, for tests; it is less patient than a real one."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from cluster.local import supervisor
from cluster.local.components import Component
from cluster.local.folder import Folder

logging.basicConfig(level="INFO")
supervisor.STOP_GRACE_S = 1.0
supervisor.LISTEN_S = 0.1
supervisor.LATE_S = 1.0


def components() -> list[Component]:
    text = (folder.data / "components.json").read_text()
    return [
        Component(name, stage, tuple(command), late=name.startswith("late"))
        for name, stage, command in json.loads(text)
    ]


folder = Folder.at(Path(sys.argv[1]))
folder.make()
# What SIGHUP reads again: our file instead of a layout.
supervisor.load = lambda _data: folder  # type: ignore[assignment,return-value]
supervisor.components_of = lambda _folder, _layout: tuple(components())
lock = supervisor.acquire(folder, wait=float(sys.argv[2]))
supervisor.Supervisor(folder, components(), lock=lock).run()
