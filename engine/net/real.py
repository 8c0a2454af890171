"""The real bindings of all ports, for a node that is a process."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

from engine.faults.file import ENVIRONMENT as FAULTS
from engine.faults.node import faulty
from engine.net.clock import LoopClock
from engine.net.disk import NoDisk, OsDisk
from engine.net.grpc_transport import GrpcTransport
from engine.net.process import end_process
from engine.ports import Disk, Runtime


def real_runtime(
    folder: Path | None, *, name: str = "", stop_node: Callable[[str], None] = end_process
) -> Runtime:
    """Operating system, gRPC and true randomness; `folder` is the node's disk, None if it has none.

    If the installation allows faults, node `name` can be made to have them (`engine.faults`); then a
    running loop is needed.
    """
    faults = os.environ.get(FAULTS, "") if name else ""
    runtime = Runtime(
        clock=LoopClock(),
        disk=cast(Disk, NoDisk()) if folder is None else OsDisk(folder),
        transport=GrpcTransport(name if faults else ""),
        rng=random.Random(random.SystemRandom().getrandbits(64)),
        stop_node=stop_node,
    )
    return faulty(runtime, Path(faults), name) if faults else runtime
