"""What every node process does around its work: logging, signals, dying with its supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from engine.errors import SextetError

log = logging.getLogger(__name__)

SUPERVISED = "SEXTET_SUPERVISED"
"""Environment variable: the supervisor's pid, when there is one."""

STOP_S = 5.0
"""A graceful stop takes at most this long; then the process ends anyway."""

FENCED_EXIT = 70
"""Exit status of a node that ended itself; its supervisor starts it again."""

_PR_SET_PDEATHSIG = 1


def run_node(main: Callable[[asyncio.Event], Awaitable[None]], *, name: str) -> None:
    """Run `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Never returns.

    A SextetError from `main` is one line in the log and exit status 1.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("SEXTET_LOG", "INFO"),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    _die_with_supervisor()
    status = asyncio.run(_run(main, name))
    logging.shutdown()
    # Not sys.exit: gRPC's threads may still hold the interpreter for seconds.
    os._exit(status)


async def _run(main: Callable[[asyncio.Event], Awaitable[None]], name: str) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("%s starts, pid %d", name, os.getpid())
    work = asyncio.ensure_future(main(stop))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            await asyncio.wait({work}, timeout=STOP_S)
        if not work.done():
            log.warning("%s did not stop within %.0f s", name, STOP_S)
            return 1
        work.result()
    except SextetError as error:
        log.error("%s cannot go on: %s", name, error)
        return 1
    except Exception:
        log.exception("%s failed", name)
        return 1
    finally:
        stopped.cancel()
    log.info("%s ends", name)
    return 0


def end_process(reason: str) -> None:
    """Runtime.stop_node of a real process: nothing is flushed or said goodbye to."""
    log.critical("this node ends itself: %s", reason)
    logging.shutdown()
    os._exit(FENCED_EXIT)


def _die_with_supervisor() -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux); a node has no life without it."""
    supervisor = os.environ.get(SUPERVISED)
    if supervisor is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if supervisor.isdigit() and int(supervisor) > 1 and os.getppid() != int(supervisor):
        sys.exit("the supervisor has gone already")
