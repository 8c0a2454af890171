"""Is the writer well? Decided from what is seen of it when it is asked, four times a second. Pure.

What is seen            what it may be                         how long it is borne (`Patience`)
WORKING                 it answers and its redo is durable     for ever
REFUSED                 killed; its supervisor starts it       refused_s: by then it is there again
                        just named: it ended as it opened      starting_s, until it has worked
SILENT                  stopped, cut off, or we are            silent_s; if a replica hears it, witnessed_s
RECOVERING              it starts, recovers, waits for storage recovering_s, while *we* reach a write quorum
NO_QUORUM               storage does not answer it             no_quorum_s, while *we* reach a write quorum

A writer that works for moments only, again and again, is not well either: time in which it did not
work adds up (`loop_s`) until it has worked for `steady_s` in one piece.

Nothing here is about safety, which rests on epochs alone: a wrong "it is dead" costs a failover, a
wrong "it lives" costs time. So the thresholds are only a choice between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Seen(Enum):
    """One look at the writer. The value completes "the writer ..."."""

    WORKING = "works"
    REFUSED = "is not there"
    SILENT = "does not answer"
    RECOVERING = "does not get through its recovery"
    NO_QUORUM = "gets no write quorum, which the control plane reaches"


MUTE = frozenset({Seen.REFUSED, Seen.SILENT})


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at `at` (monotonic seconds) and what else is known then."""

    at: float
    seen: Seen
    storage: bool = True
    """RECOVERING, NO_QUORUM: the control plane itself reaches a write quorum of every group."""
    witnessed: bool = False
    """SILENT: some replica has just heard from it, so it is our path that is cut."""
    cold: bool = False
    """Nobody has ever worked yet: the installation starts."""
    busy: bool = False
    """SILENT: it said before that it would not answer for a while (`engine.instance.busy`)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, see the table above."""

    refused_s: float = 1.5
    starting_s: float = 4.0
    silent_s: float = 1.2
    witnessed_s: float = 5.0
    recovering_s: float = 6.0
    no_quorum_s: float = 2.0
    loop_s: float = 8.0
    steady_s: float = 2.0
    cold_s: float = 15.0
    busy_s: float = 60.0
    looks_min: int = 3
    """One look that fails says nothing: we may have been asleep ourselves."""
    gap_max_s: float = 1.0
    """Of the time between two looks no more than this counts, for the same reason."""


class WriterHealth:
    """The failure detector of one writer; another writer gets another one."""

    def __init__(
        self, now: float, patience: Patience | None = None, *, named_now: bool = False
    ) -> None:
        self.patience = patience or Patience()
        self.named_now = named_now
        """It was named while we looked. If its process is not there, it ended as it opened the volume."""
        self.ever_well = False
        self.ill_looks = 0
        """Looks since it was last seen working."""
        self._last_at = now
        self._kind: frozenset[Seen] | None = None  # of the stretch that goes on
        self._stretch_s = 0.0
        self._looks = 0
        self._well_s = 0.0
        self._ill_s = 0.0

    @property
    def steady(self) -> bool:
        """It has worked for long enough to forget what was before."""
        return self._well_s >= self.patience.steady_s

    def look(self, sight: Sight) -> str | None:
        """Take a sight in: None if the writer may go on, or why it is to be replaced."""
        passed = min(max(0.0, sight.at - self._last_at), self.patience.gap_max_s)
        self._last_at = max(sight.at, self._last_at)
        kind = MUTE if sight.seen in MUTE else frozenset({sight.seen})
        if sight.seen is Seen.WORKING:
            self._see_working(passed)
            return None
        self.ill_looks += 1
        self._well_s = 0.0
        if sight.seen not in MUTE and not sight.storage:
            self._kind = None  # nobody else would fare better
            return None
        if not sight.busy:  # it said that it would not answer, which is no sign of illness
            self._ill_s += passed
        if kind == self._kind:
            self._stretch_s += passed
            self._looks += 1
        else:
            # Nobody knows when it fell silent; what it last said was said before that.
            self._kind, self._looks = kind, 1
            self._stretch_s = passed if kind == MUTE else 0.0
        if self._looks >= self.patience.looks_min and self._stretch_s >= self._limit(sight):
            return f"{sight.seen.value} (for {self._stretch_s:.1f} s)"
        if self._ill_s >= max(self.patience.loop_s, self._limit(sight)):
            return f"works for moments only ({self._ill_s:.1f} s without)"
        return None

    def _see_working(self, passed: float) -> None:
        self._well_s = self._well_s + passed if self._kind == frozenset({Seen.WORKING}) else 0.0
        self._kind = frozenset({Seen.WORKING})
        self._looks = self.ill_looks = 0
        self.ever_well = True
        if self.steady:
            self._ill_s = 0.0

    def _limit(self, sight: Sight) -> float:
        patience = self.patience
        match sight.seen:
            case Seen.SILENT if sight.busy:
                limit = patience.busy_s
            case Seen.SILENT if sight.witnessed and self.ever_well:
                limit = patience.witnessed_s
            case Seen.SILENT:
                limit = patience.silent_s
            case Seen.REFUSED:
                starts = self.named_now and not self.ever_well
                limit = patience.starting_s if starts else patience.refused_s
            case Seen.RECOVERING:
                limit = patience.recovering_s
            case _:
                limit = patience.no_quorum_s
        return max(limit, patience.cold_s) if sight.cold else limit


REST_FIRST_S, REST_LIMIT_S = 2.0, 64.0


class Rest:
    """How soon one automatic failover may follow another: the number of epochs stays bounded.

    Doubles with each one until a writer has been steady. So under a fault that makes every writer
    look dead for ever there is one failover a minute, and after one that worked the next is at once.
    """

    def __init__(self) -> None:
        self._delay = REST_FIRST_S
        self._until = float("-inf")

    def allows(self, now: float) -> bool:
        return now >= self._until

    def failed_over(self, now: float) -> None:
        self._until = now + self._delay
        self._delay = min(REST_LIMIT_S, self._delay * 2)

    def steady(self) -> None:
        self._delay = REST_FIRST_S
