"""One storage node as a process: `python -m engine.storage --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from engine.faults.store import faulty_store
from engine.net.process import run_node
from engine.net.real import real_runtime
from engine.pulse import PATIENCE_S, Pulse
from engine.storage.config import StorageConfig
from engine.storage.node import StorageNode
from engine.storage.pagestore_sqlite import SqlitePageStore


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine.storage", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--az", required=True)
    parser.add_argument("--listen", required=True, help="gRPC host:port")
    parser.add_argument("--control", required=True, help="the control plane's host:port")
    parser.add_argument("--folder", type=Path, required=True, help="this node's disk")
    parser.add_argument(
        "--archived", action="store_true", help="keep all log that has not been archived"
    )
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, stop: asyncio.Event, pulse: Pulse) -> None:
    """Run one node until `stop` is set."""
    runtime = real_runtime(arguments.folder, name=arguments.name)
    store = faulty_store(SqlitePageStore(runtime.disk.local_path("node.db")), runtime.disk)
    node = StorageNode(
        runtime,
        name=arguments.name,
        az=arguments.az,
        store=store,
        pid=os.getpid(),
        config=StorageConfig(archived=arguments.archived),
    )
    await node.open()
    server = await runtime.transport.serve(arguments.listen, node.handlers)
    pulse.patience = lambda: PATIENCE_S
    node.start()
    node.register_with(arguments.control, address=server.address)
    await stop.wait()
    await server.stop()
    await node.stop()


def main() -> None:
    arguments = _arguments()
    # Nothing is promised before it serves: reading a long log takes as long as it takes.
    pulse = Pulse.of_environment(os.environ, patience=lambda: 0)
    run_node(lambda stop: serve(arguments, stop, pulse), name=arguments.name, pulse=pulse)


if __name__ == "__main__":
    main()
