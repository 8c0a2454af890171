"""One compute instance as a process: `python -m engine.instance --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from engine.config import DEFAULT_SIZE, SIZES, InstanceConfig, size_class
from engine.faults.bysql import SqlFaults
from engine.faults.file import ENVIRONMENT as FAULTS
from engine.faults.node import on_isolation
from engine.instance.node import Instance, InstanceIdentity
from engine.net.process import raise_descriptor_limit, run_node
from engine.net.real import real_runtime
from engine.pgwire.handoff import HandoffServer, relay_cancel
from engine.pgwire.server import PgServer, ServerConfig
from engine.pulse import LONG_PATIENCE_S, PATIENCE_S, Pulse

SPARE_DESCRIPTORS = 256
"""For everything but clients, which cost one each."""

DESCRIPTORS_MIN = SPARE_DESCRIPTORS + 16


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
    parser.add_argument(
        "--hot-window", type=float, default=0.0, help="seconds of the past that stay readable"
    )
    return parser.parse_args()


async def serve(arguments: argparse.Namespace, stop: asyncio.Event, pulse: Pulse) -> None:
    """Run one instance until `stop` is set."""
    path: Path = arguments.socket

    async def relay(number: int, pid: int, secret: int) -> None:
        await relay_cancel(path.with_name(f"{arguments.cluster}-{number}.sock"), pid, secret)

    size = size_class(arguments.size)
    wanted = size.sessions_max + SPARE_DESCRIPTORS
    sessions_max = raise_descriptor_limit(wanted, at_least=DESCRIPTORS_MIN) - SPARE_DESCRIPTORS
    runtime = real_runtime(None, name=arguments.name)  # an instance owns no data
    instance = Instance(
        runtime,
        InstanceIdentity(
            arguments.name,
            arguments.cluster,
            arguments.az,
            arguments.control,
            os.getpid(),
        ),
        instance_config=InstanceConfig(
            pool_pages=size.pool_pages, hot_window_s=arguments.hot_window
        ),
    )
    server = PgServer(
        ServerConfig(arguments.cluster, arguments.number, sessions_max=sessions_max),
        lambda: instance.engine,
        in_recovery=lambda: instance.role != "writer",
        relay_cancel=relay,
        faults=SqlFaults.of_environment(arguments.name, os.environ.get(FAULTS, "")),
    )
    pulse.patience = lambda: LONG_PATIENCE_S if instance.computing else PATIENCE_S
    instance.busy.on_announce = pulse.say
    on_isolation(runtime, server.hold_clients)
    instance.connections = lambda: server.connections
    instance.dismiss_clients = server.dismiss
    rpc = await runtime.transport.serve(arguments.listen, instance.handlers)
    await instance.start(rpc.address)
    ready = asyncio.ensure_future(instance.ready.wait())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    handoff = HandoffServer(path, server, state=instance.serving_state)
    if not stop.is_set():
        await handoff.start()  # from now on the endpoint sends clients
    await stopped
    await handoff.stop()
    await server.stop()
    await rpc.stop()
    await instance.stop()


def main() -> None:
    arguments = _arguments()
    pulse = Pulse.of_environment(os.environ)
    run_node(lambda stop: serve(arguments, stop, pulse), name=arguments.name, pulse=pulse)


if __name__ == "__main__":
    main()
