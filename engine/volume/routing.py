"""Which segment to ask for a page: complete, up, fast, near, in this order (P18 §3.1).

Pure: the caller passes the time in. `Router` remembers each node's latency as a moving average and
when it last failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from engine.types import LSN, Member, NodeId

_WEIGHT = 0.2
"""Of a new observation in the moving average."""

_DOWN_S = 1.0
"""A node that failed is asked last for this long, then tried again like anyone."""

_RECENT = 128
HEDGE_MIN_S = 0.005
HEDGE_MAX_S = 0.25


class Router:
    """One instance's view of how well each storage node answers."""

    def __init__(self) -> None:
        self._average_s: dict[NodeId, float] = {}
        self._failed_at: dict[NodeId, float] = {}
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._hedge_s = HEDGE_MAX_S / 5
        self._since_sorted = 0

    def observe(self, node: NodeId, seconds: float, *, now: float) -> None:
        """`node` answered after `seconds`, at `now`."""
        old = self._average_s.get(node, seconds)
        self._average_s[node] = old + _WEIGHT * (seconds - old)
        self._failed_at.pop(node, None)
        self._recent.append(seconds)
        self._since_sorted += 1
        if self._since_sorted >= _RECENT // 4:
            self._since_sorted = 0
            ordered = sorted(self._recent)
            p95 = ordered[int(len(ordered) * 0.95)]
            self._hedge_s = min(HEDGE_MAX_S, max(HEDGE_MIN_S, 2 * p95))

    def failed(self, node: NodeId, *, now: float) -> None:
        self._failed_at[node] = now

    def hedge_delay(self) -> float:
        """Seconds after which a second segment is asked: twice the recent 95th percentile."""
        return self._hedge_s

    def rank(
        self,
        members: Sequence[Member],
        *,
        need: LSN,
        scl: Mapping[NodeId, LSN],
        az: str,
        now: float,
    ) -> list[NodeId]:
        """All members, the best to ask first. An SCL that is not known counts as perhaps enough."""

        def key(member: Member) -> tuple[int, int, float, int, NodeId]:
            node = member.node
            known = scl.get(node)
            complete = 1 if known is None else 0 if known >= need else 2
            down = now - self._failed_at.get(node, -1e9) < _DOWN_S
            # Half a millisecond apart is the same speed: then the own zone wins.
            speed = round(self._average_s.get(node, 0.0) * 2000)
            return (int(down), complete, speed, int(member.az != az), node)

        return [member.node for member in sorted(members, key=key)]
