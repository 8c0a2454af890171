"""A cluster's endpoints as a process: `python -m cluster.endpoint --data DIR --cluster NAME`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
from pathlib import Path

from cluster.endpoint.balance import Kind
from cluster.endpoint.server import CLIENTS_MAX, SPARE_DESCRIPTORS, Endpoint
from cluster.endpoint.view import load_view, save_view, view_from_pb
from cluster.local.components import endpoint_name
from cluster.local.folder import Folder
from cluster.local.layout import HOST, ClusterSpec, EndpointSpec, load
from engine.errors import ConfigError, SextetError
from engine.net.methods import WATCH_CLUSTER
from engine.net.pb import control_pb2 as pb
from engine.net.process import end_process, raise_descriptor_limit, run_node
from engine.net.real import real_runtime
from engine.ports import Channel, Stream
from engine.tasks import backoff, unless_late

log = logging.getLogger(__name__)

RECONNECT_FIRST_S, RECONNECT_LIMIT_S = 0.05, 1.0

VIEW_S = 15.0
"""The stream of views is opened anew after this long without a change: it may hang without being
broken, and then a new writer would never be heard of."""

DESCRIPTORS_MIN = SPARE_DESCRIPTORS + 256
"""With fewer an endpoint is not worth starting."""


async def serve(folder: Folder, cluster: str, stop: asyncio.Event) -> None:
    """Run both endpoints of `cluster` until `stop` is set."""
    layout = load(folder.data)
    if layout is None:
        raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
    spec = layout.cluster(cluster)
    descriptors = raise_descriptor_limit(CLIENTS_MAX + SPARE_DESCRIPTORS, at_least=DESCRIPTORS_MIN)
    endpoint = Endpoint(
        clients_max=descriptors - SPARE_DESCRIPTORS,
        lag_ms_max=spec.reader_lag_ms_max,
        on_failure=lambda task, error: end_process(f"{task} failed: {error}"),
    )
    endpoint.update(load_view(folder.endpoint_view(cluster)), remembered=True)
    endpoint.listen(Kind.WRITER, HOST, spec.writer_port)
    endpoint.listen(Kind.READER, HOST, spec.reader_port)
    custom: dict[str, EndpointSpec] = {}
    _take_layout(endpoint, custom, spec)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, _reload, folder, cluster, endpoint, custom
    )
    runtime = real_runtime(None, name=endpoint_name(cluster))
    channel = runtime.transport.connect(layout.control_address)
    watching = asyncio.create_task(_watch(channel, folder, cluster, endpoint), name="watch")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    watching.cancel()
    await endpoint.stop()
    await channel.close()
    if watching.done() and not watching.cancelled():
        watching.result()  # it never ends by itself: this raises


def _reload(
    folder: Folder, cluster: str, endpoint: Endpoint, custom: dict[str, EndpointSpec]
) -> None:
    """SIGHUP: custom endpoints and limits are as the layout says now."""
    try:
        layout = load(folder.data)
        if layout is not None:
            _take_layout(endpoint, custom, layout.cluster(cluster))
    except SextetError as error:
        log.error("! cannot read the layout, nothing changes: %s", error)


def _take_layout(endpoint: Endpoint, custom: dict[str, EndpointSpec], spec: ClusterSpec) -> None:
    """`custom`: those that are open now. One whose port is taken is left out, and said so."""
    endpoint.lag_ms_max = spec.reader_lag_ms_max
    wanted = {e.name: e for e in spec.endpoints}
    for name in [name for name, open_ in custom.items() if wanted.get(name) != open_]:
        endpoint.close_custom(name)
        del custom[name]
    for name, new in wanted.items():
        if name in custom:
            continue
        try:
            endpoint.listen_custom(new, HOST)
        except ConfigError as error:
            log.error("! custom endpoint %s: %s", name, error)
        else:
            custom[name] = new
            log.info("= custom endpoint %s listens on %d", name, new.port)


async def _watch(channel: Channel, folder: Folder, cluster: str, endpoint: Endpoint) -> None:
    """Follow the catalog; while it is away, go on with what was last known."""
    rng = random.Random()
    delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
    while True:
        stream: Stream[pb.WatchClusterRequest, pb.ClusterView] = channel.stream(
            WATCH_CLUSTER, pb.WatchClusterRequest(cluster=cluster)
        )
        try:
            while (message := await unless_late(stream.recv(), VIEW_S)) is not None:
                delays = backoff(rng, RECONNECT_FIRST_S, RECONNECT_LIMIT_S)
                view = view_from_pb(message)
                endpoint.update(view)
                save_view(folder.endpoint_view(cluster), view)
        except SextetError as error:
            log.debug("control plane: %s: %s", type(error).__name__, error)
        finally:
            stream.close()
        await asyncio.sleep(next(delays))


def main() -> None:
    parser = argparse.ArgumentParser(prog="cluster.endpoint", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cluster", required=True)
    arguments = parser.parse_args()
    folder = Folder.at(arguments.data)
    os.chdir(folder.data)  # instances' sockets are named relative to it
    run_node(
        lambda stop: serve(folder, arguments.cluster, stop),
        name=f"endpoint of {arguments.cluster}",
    )


if __name__ == "__main__":
    main()
