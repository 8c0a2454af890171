"""Reading pages from the volume: one segment answers, chosen by completeness and latency.

No read quorum is needed in normal running: the instance knows each group's last LSN at its read
point, and any segment whose SCL has reached it holds every record that matters (P17 §4.2.3, P18
§3.1). A slow answer is hedged by asking a second segment; a refusal or a dead node moves on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from engine.config import VolumeConfig
from engine.errors import Corrupt, QuorumLost, SextetError, SnapshotTooOld, Unavailable
from engine.net.methods import READ_PAGES
from engine.net.pb import storage_pb2 as pb
from engine.ports import Channel, Runtime
from engine.steps import Mark
from engine.tasks import backoff, end_all
from engine.types import LSN, ZERO_PAGE, Epoch, Membership, NodeId, PageNo, PgNo
from engine.volume.geometry import pg_of
from engine.volume.routing import Router
from engine.volume.tails import PgTails

ASKED_AT_ONCE = 3
"""Segments asked at the same time at most: with both of a zone silent the third still answers soon."""

Versions = list[tuple[LSN, bytes]]


class PageReader:
    """Reads page versions for one instance; the buffer pool's `PageSource`.

    `epoch` is the volume epoch that requests carry; the owner moves it when it changes.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: VolumeConfig,
        *,
        volume: int,
        epoch: Epoch,
        az: str,
        memberships: Mapping[PgNo, Membership],
        tails: PgTails,
        scls: Callable[[PgNo], Mapping[NodeId, LSN]],
        connect: Callable[[str], Channel],
    ) -> None:
        self._runtime = runtime
        self._config = config
        self._volume = volume
        self.epoch = epoch
        self._az = az
        self.memberships = memberships
        self.tails = tails
        self._scls = scls
        self._connect = connect
        self.over = ""
        """Why nothing is read any more."""
        self.router = Router()
        self.counters: dict[str, int] = dict.fromkeys(
            ("page_reads", "pages_read", "hedges", "hedges_won", "read_refusals"), 0
        )

    async def read_pages(self, pages: Sequence[PageNo], read_lsn: LSN) -> Versions:
        """The newest version at or below `read_lsn` of each page: (its LSN, PAGE_SIZE bytes).

        All pages lie in one protection group. A page never written is (0, zeros).
        Raises QuorumLost if no segment can answer for a long time, SnapshotTooOld, Corrupt, Unavailable
        if this reader is `over`.
        """
        pg = pg_of(pages[0])
        pg_lsn = self.tails.at(pg, read_lsn)
        if pg_lsn == 0:
            return [(0, ZERO_PAGE)] * len(pages)
        self.counters["page_reads"] += 1
        self.counters["pages_read"] += len(pages)
        started = self._runtime.clock.monotonic()
        delays = backoff(
            self._runtime.rng, self._config.backoff_first_s, self._config.backoff_limit_s
        )
        while True:
            if self.over:
                raise Unavailable(self.over)
            request = pb.ReadPagesRequest(
                volume=self._volume,
                epoch=self.epoch,
                pg=pg,
                pages=pages,
                read_lsn=read_lsn,
                pg_lsn=pg_lsn,
            )
            failures = await self._one_round(pg, request)
            if isinstance(failures, pb.ReadPagesReply):
                return [(p.lsn, p.image or ZERO_PAGE) for p in failures.pages]
            self._raise_if_hopeless(pg, request, failures)
            if self._runtime.clock.monotonic() - started > self._config.read_give_up_s:
                raise QuorumLost(
                    f"no segment of protection group {pg} answers for LSN {pg_lsn}: "
                    + "; ".join(f"{node}: {error}" for node, error in sorted(failures.items()))
                )
            await asyncio.sleep(next(delays))

    async def _one_round(
        self, pg: PgNo, request: pb.ReadPagesRequest
    ) -> pb.ReadPagesReply | dict[NodeId, SextetError]:
        """Ask every member at most once, in the router's order, hedging; the first answer wins."""
        membership = self.memberships[pg]
        order = self.router.rank(
            membership.voters,
            need=request.pg_lsn,
            scl=self._scls(pg),
            az=self._az,
            now=self._runtime.clock.monotonic(),
        )
        addresses = {m.node: m.address for m in membership.voters}
        failures: dict[NodeId, SextetError] = {}
        running: dict[asyncio.Task[pb.ReadPagesReply], NodeId] = {}
        waiting = list(order)
        first = True
        try:
            while waiting or running:
                if waiting and (first or len(running) < ASKED_AT_ONCE):
                    node = waiting.pop(0)
                    if not first and running:
                        self.counters["hedges"] += 1
                    task = asyncio.create_task(self._ask(addresses[node], node, request))
                    running[task] = node
                    first = False
                hedging = bool(waiting) and len(running) < ASKED_AT_ONCE
                timeout = self.router.hedge_delay() if hedging else None
                done, _ = await asyncio.wait(
                    running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                for task in sorted(done, key=lambda t: running[t]):
                    node = running.pop(task)
                    try:
                        reply = task.result()
                    except SextetError as error:
                        failures[node] = error
                        self.counters["read_refusals"] += 1
                        continue
                    if node != order[0]:
                        steps = self._runtime.steps
                        steps.mark(Mark.READ_MOVED_ON if failures else Mark.HEDGE_WON)
                    self.counters["hedges_won"] += node != order[0] and not failures
                    return reply
            return failures
        finally:
            await end_all(*running)

    async def _ask(
        self, address: str, node: NodeId, request: pb.ReadPagesRequest
    ) -> pb.ReadPagesReply:
        started = self._runtime.clock.monotonic()
        try:
            reply = await self._connect(address).call(
                READ_PAGES, request, timeout=self._config.read_timeout_s
            )
        except SextetError:
            self.router.failed(node, now=self._runtime.clock.monotonic())
            raise
        now = self._runtime.clock.monotonic()
        self.router.observe(node, now - started, now=now)
        return reply

    def _raise_if_hopeless(
        self, pg: PgNo, request: pb.ReadPagesRequest, failures: Mapping[NodeId, SextetError]
    ) -> None:
        """Errors that asking again cannot mend, once every member has said so."""
        for kind in (SnapshotTooOld, Corrupt):
            said = [e for e in failures.values() if isinstance(e, kind)]
            if said and len(said) == len(failures) == len(self.memberships[pg].voters):
                raise kind(
                    f"pages {list(request.pages)} at LSN {request.read_lsn}: every segment of "
                    f"group {pg} says: {said[0]}"
                )
