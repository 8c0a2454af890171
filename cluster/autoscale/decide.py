"""How many replicas there should be, and what to do about it: target tracking. Pure.

The metric's total over all replicas, divided by the target, is how many are wanted, within the policy's
bounds. The total does not depend on how many share it, so under a constant load the number settles.

Invariants
- None is added while there are as many as the policy's most, none removed while there are as few as its
  least.
- Nothing is done within the cool-down after the last change, whoever decided that one.
- Only replicas that auto-scaling added are removed; those a user added are counted, and stay.
- None is removed while some replica does not say what it does: its share is unknown, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.local.policy import AutoscalePolicy


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as it was last seen. `load`: statements a second. None: it does not say."""

    name: str
    auto: bool
    connections: int | None
    load: float | None


@dataclass(frozen=True, slots=True)
class Add:
    """One more replica, because of `why`."""

    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Without the replica `name`, because of `why`."""

    name: str
    why: str


def wanted(policy: AutoscalePolicy, total: float) -> int:
    """How many replicas keep the average at the target or below."""
    exact = total / policy.target
    if not exact < policy.most:
        return policy.most
    return max(policy.least, math.ceil(exact - 1e-9))  # 2.1 / 0.3 is a little more than 7


def decide(
    policy: AutoscalePolicy, replicas: Sequence[Replica], since_change_s: float
) -> Add | Remove | None:
    """One step towards what is wanted, `since_change_s` seconds after the last change of their number."""
    shares = [_share(policy, replica) for replica in replicas]
    total = sum(share for share in shares if share is not None)
    goal = wanted(policy, total)
    why = (
        f"{total:.10g} {_UNITS[policy.metric]} on {len(replicas)} replicas, "
        f"the target is {policy.target:.10g} each"
    )
    if len(replicas) < goal:
        return Add(why) if since_change_s >= policy.out_cooldown_s else None
    removable = [replica for replica in replicas if replica.auto]
    if len(replicas) <= goal or not removable or None in shares:
        return None
    if since_change_s < policy.in_cooldown_s:
        return None
    least_used = min(removable, key=lambda r: (r.connections or 0, r.load or 0.0, r.name))
    return Remove(least_used.name, why)


_UNITS = {"connections": "connections", "load": "statements/s"}


def _share(policy: AutoscalePolicy, replica: Replica) -> float | None:
    return replica.connections if policy.metric == "connections" else replica.load
