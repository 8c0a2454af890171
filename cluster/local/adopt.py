"""Telling the control plane that the layout has changed."""

from __future__ import annotations

from cluster.local.layout import Layout
from engine.errors import SextetError
from engine.net.grpc_transport import GrpcTransport
from engine.net.methods import ADOPT_LAYOUT
from engine.net.pb import control_pb2 as pb

ADOPT_S = 5.0


async def adopt(layout: Layout) -> bool:
    """Have the control plane take over the layout that is saved; False if it does not answer.

    Then it does so when it is back. `layout` only says where it is.
    """
    channel = GrpcTransport().connect(layout.control_address)
    try:
        await channel.call(ADOPT_LAYOUT, pb.AdoptLayoutRequest(), timeout=ADOPT_S)
    except SextetError:
        return False
    finally:
        await channel.close()
    return True
