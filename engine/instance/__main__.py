"""One compute instance as a process: `python -m engine.instance --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from engine.config import DEFAULT_SIZE, SIZES, InstanceConfig, size_class
from engine.instance.node import Instance, InstanceIdentity
from engine.net.process import run_node
from engine.net.real import real_runtime
from engine.pgwire.handoff import HandoffServer, relay_cancel
from engine.pgwire.server import PgServer, ServerConfig


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine.instance", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--number", type=int, required=True, help="unique in the cluster, from 1")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--az", required=True)
    parser.add_argument("--listen", required=True, help="gRPC host:port")
    parser.add_argument("--control", required=True, help="the control plane's host:port")
    parser.add_argument(
        "--socket", type=Path, required=True, help="where the endpoint hands over clients"
    )
    parser.add_argument("--size", choices=list(SIZES), default=DEFAULT_SIZE)
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, stop: asyncio.Event) -> None:
    """Run one instance until `stop` is set."""
    path: Path = arguments.socket

    async def relay(number: int, pid: int, secret: int) -> None:
        await relay_cancel(path.with_name(f"{arguments.cluster}-{number}.sock"), pid, secret)

    size = size_class(arguments.size)
    runtime = real_runtime(None)  # an instance owns no data
    instance = Instance(
        runtime,
        InstanceIdentity(
            arguments.name,
            arguments.cluster,
            arguments.az,
            arguments.control,
            os.getpid(),
        ),
        instance_config=InstanceConfig(pool_pages=size.pool_pages),
    )
    server = PgServer(
        ServerConfig(arguments.cluster, arguments.number, sessions_max=size.sessions_max),
        lambda: instance.engine,
        in_recovery=lambda: instance.role != "writer",
        relay_cancel=relay,
    )
    instance.connections = lambda: server.connections
    rpc = await runtime.transport.serve(arguments.listen, instance.handlers)
    await instance.start(rpc.address)
    ready = asyncio.ensure_future(instance.ready.wait())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    handoff = HandoffServer(path, server)
    if not stop.is_set():
        await handoff.start()  # from now on the endpoint sends clients
    await stopped
    await handoff.stop()
    await server.stop()
    await rpc.stop()
    await instance.stop()


def main() -> None:
    arguments = _arguments()
    run_node(lambda stop: serve(arguments, stop), name=arguments.name)


if __name__ == "__main__":
    main()
