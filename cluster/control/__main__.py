"""The control plane as a process: `python -m cluster.control --data DIR`."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.control.catalog import Catalog
from cluster.control.repairing import RepairConfig
from cluster.control.service import ControlPlane
from cluster.local.folder import Folder
from cluster.local.layout import Layout, load
from engine.errors import ConfigError
from engine.net.process import run_node
from engine.net.real import real_runtime

REPLACE_AFTER = "SEXTET_REPLACE_AFTER"
"""Seconds of silence after which a storage node is replaced, if there is another one to do it."""


def _layout(folder: Folder) -> Layout:
    layout = load(folder.data)
    if layout is None:
        raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
    return layout


def _repair(environment: Mapping[str, str]) -> RepairConfig:
    """Raises ConfigError."""
    value = environment.get(REPLACE_AFTER)
    if value is None:
        return RepairConfig()
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{REPLACE_AFTER} is {value!r}; it must be a number of seconds")
    return RepairConfig(gone_s=seconds)


async def serve(folder: Folder, stop: asyncio.Event) -> None:
    """Run the control plane until `stop` is set."""
    folder.make()
    runtime = real_runtime(folder.catalog.parent, name="control")
    catalog = await Catalog.open(folder.catalog)
    control = ControlPlane(
        runtime, catalog, layout=lambda: _layout(folder), repair=_repair(os.environ)
    )
    await control.start()
    server = await runtime.transport.serve(_layout(folder).control_address, control.handlers)
    await stop.wait()
    await server.stop()
    await control.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster.control", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = Folder.at(parser.parse_args().data)
    run_node(lambda stop: serve(folder, stop), name="control")


if __name__ == "__main__":
    main()
