"""`sextet failover` and `sextet events`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.markup import escape

from cluster.cli.client import channel_to, running_layout
from cluster.cli.console import narrow_table, out, print_json
from cluster.cli.errors import CommandFailed, NotRunning
from cluster.local.folder import Folder
from engine.errors import DeadlineExceeded, Unavailable
from engine.net.methods import FAILOVER, LIST_EVENTS
from engine.net.pb import control_pb2 as pb
from engine.ports import Method, Rep, Req

FAILOVER_TIMEOUT_S = 40.0
"""Longer than the control plane waits for the new writer, so that it is the one that says why."""

EVENTS_TIMEOUT_S = 5.0


def fail_over(folder: Folder, cluster: str, to: str | None) -> None:
    """Raises NotRunning, ConfigError, CommandFailed."""
    running_layout(folder).running_cluster(cluster)
    request = pb.FailoverRequest(cluster=cluster, to=to or "")
    try:
        reply = asyncio.run(_ask(folder, FAILOVER, request, FAILOVER_TIMEOUT_S))
    except DeadlineExceeded as error:
        raise CommandFailed(str(error)) from error
    out.print(
        f"[bold]{escape(reply.writer)}[/bold] is the writer instead of {escape(reply.instead_of)}: "
        f"open after {reply.duration_us / 1e6:.2f} s, epoch {reply.epoch}",
        soft_wrap=True,
    )


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of the control plane; `time_us` is Unix microseconds by its clock."""

    time_us: int
    subject: str
    what: str


async def events(folder: Folder, limit: int) -> list[Happened]:
    """The newest `limit`, oldest first. Raises NotRunning."""
    request = pb.ListEventsRequest(limit=limit)
    reply = await _ask(folder, LIST_EVENTS, request, EVENTS_TIMEOUT_S)
    return [Happened(event.time_us, event.subject, event.what) for event in reply.events]


def show_events(folder: Folder, limit: int, *, as_json: bool) -> None:
    """Raises NotRunning."""
    running_layout(folder)
    found = asyncio.run(events(folder, limit))
    if as_json:
        print_json(
            [
                {
                    "time": _time(event.time_us).isoformat(),
                    "subject": event.subject,
                    "what": event.what,
                }
                for event in found
            ]
        )
        return
    table = narrow_table(("time", "subject", "what"), right=())
    for event in found:
        when = _time(event.time_us).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        table.add_row(when, escape(event.subject), escape(event.what))
    out.print(table)


def _time(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)


async def _ask(folder: Folder, method: Method[Req, Rep], request: Req, timeout: float) -> Rep:
    """Ask the control plane. Raises NotRunning if it is not there."""
    address = running_layout(folder).control_address
    try:
        async with channel_to(address) as control:
            return await control.call(method, request, timeout=timeout)
    except DeadlineExceeded:
        raise
    except Unavailable as error:
        raise NotRunning(
            f"the control plane does not answer ({error}); look at {folder.log('control')}"
        ) from error
