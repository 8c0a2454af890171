"""Auto-scaling as a process: `python -m cluster.autoscale --data DIR --cluster NAME`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from cluster.autoscale.scaler import serve
from cluster.local.folder import Folder
from engine.net.process import run_node
from engine.net.real import real_runtime


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster.autoscale", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cluster", required=True)
    arguments = parser.parse_args()
    folder = Folder.at(arguments.data)
    name = f"autoscale-{arguments.cluster}"

    async def work(stop: asyncio.Event) -> None:
        runtime = real_runtime(None, name=name)  # it keeps nothing
        await serve(runtime, folder, arguments.cluster, stop)

    run_node(work, name=name)


if __name__ == "__main__":
    main()
