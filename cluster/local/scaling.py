"""Adding and removing instances: the layout is changed, the control plane and the supervisor are told.

Whatever fails or is interrupted after the layout was saved comes true later: the supervisor reads the
layout when it is told or starts again, the control plane when a stranger registers or it starts again.
Both functions wait for their turn with whoever else changes the layout, and block the loop meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cluster.local.adopt import adopt
from cluster.local.change import LOCK_WAIT_S, change_layout, layout_turn, tell_supervisor
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_TIER, InstanceSpec, Layout, load
from cluster.local.ports import free_ports
from engine.config import DEFAULT_SIZE
from engine.errors import ConfigError


async def add_instance(
    folder: Folder,
    cluster: str,
    *,
    az: str | None = None,
    tier: int = DEFAULT_TIER,
    size: str = DEFAULT_SIZE,
    name: str | None = None,
    auto: bool = False,
    wait_s: float = LOCK_WAIT_S,
) -> tuple[InstanceSpec, bool]:
    """The new one, which is being started, and whether the control plane knows. Raises ConfigError."""
    with layout_turn(folder, wait_s):

        def grown(layout: Layout) -> Layout:
            port = next(free_ports(max(layout.ports), taken=layout.ports))
            return layout.with_instance(
                cluster, port=port, az=az, tier=tier, size=size, name=name, auto=auto
            )

        layout = change_layout(folder, grown)
        adopted = await adopt(layout)
        tell_supervisor(folder)
    return layout.cluster(cluster).instances[-1], adopted


async def remove_instance(
    folder: Folder,
    name: str,
    *,
    allow: Callable[[Layout], Awaitable[None]],
    wait_s: float = LOCK_WAIT_S,
) -> bool:
    """Its process is being ended; whether the control plane knows. Raises ConfigError, and what
    `allow` raises, which is asked once it is our turn."""
    with layout_turn(folder, wait_s):
        layout = load(folder.data)
        if layout is None:
            raise ConfigError(f"{folder.data} has no installation")
        layout.without_instance(name)  # raises unless it can be removed at all
        await allow(layout)
        layout = change_layout(folder, lambda current: current.without_instance(name))
        # The catalog first: then nobody is sent there any more when the process ends.
        adopted = await adopt(layout)
        tell_supervisor(folder)
    return adopted
