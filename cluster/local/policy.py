"""An auto-scaling policy: how many replicas a cluster is to have, by what they do. A value."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError

METRICS = ("connections", "load")
"""Per replica, on average: client connections, or statements a second."""

REPLICAS_MAX = 15
DEFAULT_OUT_COOLDOWN_S = 10.0
DEFAULT_IN_COOLDOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class AutoscalePolicy:
    """Keep `metric` at `target` per replica with `least` to `most` replicas.

    After any change no replica is added for `out_cooldown_s` and none removed for `in_cooldown_s`.
    Raises ConfigError if it cannot be.
    """

    metric: str
    target: float
    least: int
    most: int
    out_cooldown_s: float = DEFAULT_OUT_COOLDOWN_S
    in_cooldown_s: float = DEFAULT_IN_COOLDOWN_S

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(
                f"there is no metric {self.metric}; choose one of {', '.join(METRICS)}"
            )
        if not 0 < self.target < float("inf"):
            raise ConfigError(f"a target of {self.target:g} cannot be; it must be above 0")
        if not 1 <= self.least <= self.most <= REPLICAS_MAX:
            raise ConfigError(
                f"{self.least} to {self.most} replicas cannot be; choose from 1 to {REPLICAS_MAX}"
            )
        if not (0 <= self.out_cooldown_s < float("inf") and 0 <= self.in_cooldown_s < float("inf")):
            raise ConfigError("a cool-down must be a number of seconds, 0 or more")
