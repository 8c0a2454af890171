"""What every node process does around its work: logging, signals, dying with its supervisor.

A stop is graceful for STOP_S seconds and certain after that. A node needs no goodbye to be safe (it
may be killed at any time), so being late costs nothing but a warning in the log.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import uvloop

from engine.errors import ConfigError, SextetError
from engine.net.profiling import profile_on_signal
from engine.pulse import Pulse

log = logging.getLogger(__name__)

SUPERVISED = "SEXTET_SUPERVISED"
"""Environment variable: the supervisor's pid, when there is one ("1": there is one, pid unsaid)."""

STOP_S = 5.0
"""A graceful stop takes at most this long; then the process ends anyway."""

FENCED_EXIT = 70
"""Exit status of a node that ended itself; its supervisor starts it again."""

GC_THRESHOLDS = (20_000, 20, 100)
"""Objects that hold others come in thousands (the log's index, page versions) and hardly ever in cycles:
looking for those took a storage node a twelfth of its time."""

_PR_SET_PDEATHSIG = 1

Main = Callable[[asyncio.Event], Awaitable[None]]


def run_node(main: Main, *, name: str, pulse: Pulse | None = None) -> NoReturn:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Never returns itself.

    `pulse` tells the supervisor that this process does not hang; by default its own patience.

    Exit status 0: `main` returned. 1: it raised, a SextetError as one line in the log and anything
    else with its traceback, or it did not return within STOP_S of the signal.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("SEXTET_LOG", "INFO"),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    _die_with_supervisor()
    gc.freeze()  # the modules, which stay
    gc.set_threshold(*GC_THRESHOLDS)
    # A loop in C: what a message costs is half asyncio's own bookkeeping otherwise.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(main, name, pulse or Pulse.of_environment(os.environ)))
    raise AssertionError("_run ends the process")


async def _run(main: Main, name: str, pulse: Pulse) -> NoReturn:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _begin_stop, stop)
    profile_on_signal(loop, name)
    log.info("%s starts, pid %d", name, os.getpid())
    work = asyncio.ensure_future(main(stop))
    beating = asyncio.ensure_future(pulse.beat())
    beating.add_done_callback(_pulse_ended)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        await asyncio.wait({work}, timeout=STOP_S)
    _end(_status_of(work, name))  # here and not after the runner, which waits for what is left over


def _pulse_ended(beating: asyncio.Future[None]) -> None:
    if not beating.cancelled() and (error := beating.exception()) is not None:
        log.error("the pulse has stopped; the supervisor will think that we hang", exc_info=error)


def _begin_stop(stop: asyncio.Event) -> None:
    if not stop.is_set():
        # The kernel's own end to it, should the loop never come round again.
        signal.setitimer(signal.ITIMER_REAL, STOP_S + 1)
        stop.set()


def _status_of(work: asyncio.Future[None], name: str) -> int:
    if not work.done():
        log.warning("%s did not stop within %.1f s: ending it", name, STOP_S)
        return 1
    if work.cancelled():
        log.error("%s was cancelled", name)
        return 1
    match work.exception():
        case None:
            log.info("%s ends", name)
            return 0
        case SextetError() as error:
            log.error("%s cannot go on: %s", name, error)
        case error:
            log.error("%s failed", name, exc_info=error)
    return 1


def raise_descriptor_limit(wanted: int, *, at_least: int) -> int:
    """Let this process open `wanted` files if its hard limit does; returns how many it may open now.

    Raises ConfigError if that is less than `at_least`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = wanted if hard == unlimited else min(wanted, hard)
    if soft != unlimited and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    now = wanted if soft == unlimited else min(wanted, soft)
    if now < at_least:
        raise ConfigError(
            f"this process may open only {now} files at a time and needs {at_least}; "
            "raise the limit, e.g. `ulimit -Hn 4096`, and start the cluster again"
        )
    return now


def end_process(reason: str) -> NoReturn:
    """Runtime.stop_node of a real process: nothing is flushed or said goodbye to."""
    log.critical("this node ends itself: %s", reason)
    _end(FENCED_EXIT)


def _end(status: int) -> NoReturn:
    """Not sys.exit: gRPC's and aiosqlite's threads may hold the interpreter for seconds."""
    logging.shutdown()
    os._exit(status)


def _die_with_supervisor() -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux); a node has no life without it."""
    supervisor = os.environ.get(SUPERVISED)
    if supervisor is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have died before we asked.
    if supervisor != "1" and supervisor != str(os.getppid()):
        sys.exit(f"the supervisor, pid {supervisor}, has gone already")
