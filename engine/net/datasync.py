"""fdatasync that holds up nobody: by the kernel's own worker where it has one, else by a thread.

A thread of ours costs five switches and as many fights for the interpreter's lock for each sync, 0.35 ms
of CPU, and the kernel's (Linux 4.18's asynchronous fdatasync, told through an eventfd) a fifth of that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol
from weakref import WeakKeyDictionary

try:
    from caio import linux_aio
except ImportError:  # another system
    linux_aio = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

UNDER_WAY_MAX = 64
"""Files of one loop that are synced at a time; a storage node has one."""

Done = Callable[[OSError | None], None]


class DataSync(Protocol):
    """Of one open file."""

    def start(self) -> asyncio.Future[None]:
        """Begin to make durable what has been written. The future never fails: the outcome is told to
        `done` first, and it is told even when nobody waits any more."""

    def close(self) -> None:
        """Wait for what has begun. The file may be closed after that."""


def data_sync(handle: int, done: Done) -> DataSync:
    """The best there is here. To be called on the loop that will wait."""
    if linux_aio is not None:
        try:
            return KernelSync(handle, done)
        except (SystemError, NotImplementedError) as error:  # not this kernel, or too many of them
            log.info("fdatasync in a thread, as the kernel does not do it alone: %s", error)
    return ThreadSync(handle, done)


class _Kernel:
    """A loop's one context of asynchronous I/O: making and giving back one takes the kernel 30 ms.

    Raises SystemError where the kernel has none to give.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._context = linux_aio.Context(max_requests=UNDER_WAY_MAX)
        loop.add_reader(self._context.fileno, self._look)

    def begin(self, handle: int, ended: Callable[[int], None]) -> None:
        operation = linux_aio.Operation.fdsync(handle)
        operation.set_callback(ended)
        self._context.submit(operation)

    def _look(self) -> None:
        with suppress(BlockingIOError):  # what it told of has been taken already
            self._context.poll()
        self._take()

    def wait(self) -> None:
        """Until something has ended."""
        self._take(min_requests=1, timeout=-1)

    def _take(self, **how: int) -> None:
        try:
            self._context.process_events(**how)
        except SystemError as error:
            if error.args[:1] != (errno.EINTR,):  # a signal came: nothing is lost
                raise


_KERNELS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kernel] = WeakKeyDictionary()


def _kernel() -> _Kernel:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    kernel = _KERNELS.get(loop)
    if kernel is None:
        kernel = _KERNELS[loop] = _Kernel(loop)
    return kernel


class KernelSync:
    """DataSync by Linux AIO; one at a time, and whoever comes meanwhile shares the next.

    Raises SystemError where the kernel has none to give.
    """

    def __init__(self, handle: int, done: Done) -> None:
        self._handle = handle
        self._done = done
        self._current: list[asyncio.Future[None]] = []
        self._next: list[asyncio.Future[None]] = []
        self._kernel = _kernel()

    def start(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.append(future)
        if not self._current:
            self._submit()
        return future

    def _submit(self) -> None:
        self._current, self._next = self._next, []
        try:
            self._kernel.begin(self._handle, self._ended)
        except Exception as error:
            self._tell(OSError(errno.EIO, f"the kernel did not take it: {error}"))

    def _ended(self, result: int) -> None:
        """The kernel's word: 0, or an error's number negated, which caio hands on without its sign."""
        number = (1 << 64) - result if result >= 1 << 63 else abs(result)
        self._tell(OSError(number, os.strerror(number)) if result else None)

    def _tell(self, error: OSError | None) -> None:
        self._done(error)
        ended, self._current = self._current, []
        if error is not None:  # another one could succeed, and would mean nothing
            ended += self._next
            self._next = []
        for future in ended:
            if not future.done():
                future.set_result(None)
        if self._next:
            self._submit()

    def close(self) -> None:
        while self._current:
            self._kernel.wait()


class ThreadSync:
    """DataSync by a thread of the file's own."""

    def __init__(self, handle: int, done: Done) -> None:
        self._handle = handle
        self._done = done
        self._failed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sync-{handle}")

    def start(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._worker, self._sync)

    def _sync(self) -> None:
        if self._failed:
            return  # another one could succeed, and would mean nothing
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            self._failed = True
            self._done(error)
        else:
            self._done(None)

    def close(self) -> None:
        self._worker.shutdown(wait=True)
