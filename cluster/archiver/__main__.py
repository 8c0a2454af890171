"""One cluster's archiver as a process: `python -m cluster.archiver --help`."""

from __future__ import annotations

import argparse
import asyncio
import os

from cluster.local.store import open_store
from engine.archive.archiver import Archiver
from engine.net.process import run_node
from engine.net.real import real_runtime
from engine.pulse import Pulse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster.archiver", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--archive", required=True, help="its name in the store")
    parser.add_argument("--store", required=True, help="a folder")
    parser.add_argument("--control", required=True, help="the control plane's host:port")
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, stop: asyncio.Event) -> None:
    """Archive until `stop` is set."""
    store = open_store(arguments.store)
    archiver = Archiver(
        real_runtime(None, name=arguments.name),
        store,
        cluster=arguments.cluster,
        archive=arguments.archive,
        control_address=arguments.control,
    )
    await archiver.start()
    await stop.wait()
    await archiver.stop()
    store.close()


def main() -> None:
    arguments = _arguments()
    pulse = Pulse.of_environment(os.environ)
    run_node(lambda stop: serve(arguments, stop), name=arguments.name, pulse=pulse)


if __name__ == "__main__":
    main()
