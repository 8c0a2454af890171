"""Many runs on several processes: one forked child for each run, so that none inherits anything.

A child starts from the parent's memory as it was before the first run, makes one run, sends what it
showed through a pipe, and is gone. Whatever happens to it (an exception, a signal, no end) is the result
of that one run, which names its seed. When the caller stops early, by Ctrl-C or an error, the children
are killed by their process ids and waited for.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import pickle
import selectors
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, Generic, NoReturn, TypeVar

from cluster.sim.history import History
from cluster.sim.run import Result, run
from cluster.sim.schedule import Task

T = TypeVar("T")
R = TypeVar("R")

LIMIT_S = 300.0
"""Wall seconds that one run may take. The default swarm's take two; shared machines are slow."""

SYMPTOMS = ("run/", "liveness/", "expect/")
"""What these checkers find tells less about the cause than what any other one does."""

GC_THRESHOLDS = (200_000, 20, 100)
"""A child lives for one piece of work and leaves hardly any cycles: looking for them took a tenth of its
time."""

GRACE_S = 10
"""So much later an orphan ends itself."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T, R]):
    """What became of one item: `value`, or why there is none."""

    item: T
    value: R | None = None
    died: str = ""


@dataclass(slots=True)
class _Child(Generic[T]):
    pid: int
    fd: int
    item: T
    deadline: float
    data: bytearray = field(default_factory=bytearray)


def each(
    items: Iterable[T], work: Callable[[T], R], *, jobs: int, limit_s: float = LIMIT_S
) -> Generator[Done[T, R], None, None]:
    """`work(item)` for every item, each in a child of its own, `jobs` at a time; in order of ending.

    Close the iterator (contextlib.closing) to end it early: then no child is left. `work` must return
    what can be pickled.
    """
    waiting = iter(items)
    running: dict[int, _Child[T]] = {}
    selector = selectors.DefaultSelector()
    more = True
    try:
        while more or running:
            while more and len(running) < max(1, jobs):
                try:
                    item = next(waiting)
                except StopIteration:
                    more = False
                    break
                with _no_interrupt():  # inside fork it would be lost, right after it the child
                    child = _start(item, work, limit_s)
                    running[child.fd] = child
                selector.register(child.fd, selectors.EVENT_READ)
            if not running:
                continue
            soonest = min(child.deadline for child in running.values())
            ready = selector.select(max(0.0, soonest - time.monotonic()))
            over = [running[key.fd] for key, _ in ready if not _take(running[key.fd])]
            now = time.monotonic()
            late = [c for c in running.values() if c not in over and c.deadline <= now]
            for child in [*over, *late]:
                selector.unregister(child.fd)
                del running[child.fd]
                yield _finished(child, limit_s if child in late else None)
    finally:
        for child in running.values():
            _end(child, kill=True)
        selector.close()


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the end of the block. A child forked in it begins with it held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(item: T, work: Callable[[T], R], limit_s: float) -> _Child[T]:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()
    with warnings.catch_warnings():
        # The child takes none of the locks that another thread could have held meanwhile.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_child(item, work, writing, limit_s)
    os.close(writing)
    return _Child(pid, reading, item, time.monotonic() + limit_s)


def _be_child(item: T, work: Callable[[T], R], fd: int, limit_s: float) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(limit_s) + GRACE_S)
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            body = pickle.dumps(("value", work(item)))
        except BaseException as error:
            text = "".join(traceback.format_exception(error)[-6:])
            body = pickle.dumps(("died", f"{type(error).__name__}: {error}\n{text}"))
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(body)
        status = 0
    finally:
        os._exit(status)


def _take(child: _Child[Any]) -> bool:
    """Take in what it sent; False at the end."""
    chunk = os.read(child.fd, 1 << 20)
    child.data += chunk
    return bool(chunk)


def _end(child: _Child[Any], *, kill: bool) -> int:
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    os.close(child.fd)
    _, status = os.waitpid(child.pid, 0)
    return os.waitstatus_to_exitcode(status)


def _finished(child: _Child[T], limit_s: float | None) -> Done[T, Any]:
    status = _end(child, kill=limit_s is not None)
    if limit_s is not None:
        return Done(child.item, died=f"it did not end within {limit_s:g} s and was killed")
    if status != 0:
        how = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        return Done(child.item, died=f"its process ended with {how}")
    what, value = pickle.loads(bytes(child.data))
    return Done(child.item, value) if what == "value" else Done(child.item, died=value)


# -- runs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run. `result` has neither its history nor its events any more."""

    task: Task
    result: Result | None
    died: str = ""

    @property
    def ok(self) -> bool:
        return self.result is not None and self.result.ok

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was violated, as checker/kind, in the order in which it was found."""
        if self.result is None:
            return ("process/died",)
        return tuple(dict.fromkeys(f"{v.checker}/{v.kind}" for v in self.result.violations))

    @property
    def telling(self) -> str:
        """The kind that says most about the cause, of a run that failed."""
        return next((k for k in self.kinds if not k.startswith(SYMPTOMS)), self.kinds[0])


def attempt(task: Task, *, out: IO[str] | None = None) -> Result:
    """One run here and now, judged by the checkers and by what the task expects."""
    quiet_logging()
    result = run(task.plan, out=out)
    result.violations += task.expect.judge(result)
    return result


def runs(
    tasks: Iterable[Task], *, jobs: int, limit_s: float = LIMIT_S
) -> Generator[Outcome, None, None]:
    """Make the runs, each in a process of its own, and say what became of them as they end."""
    for done in each(tasks, _attempt, jobs=jobs, limit_s=limit_s):
        yield Outcome(done.item, done.value, done.died)


def _attempt(task: Task) -> Result:
    return slim(attempt(task))


def slim(result: Result) -> Result:
    """Without history and events, which are large."""
    return replace(result, recent=[], history=History())


def quiet_logging() -> None:
    """Nodes under faults log warnings by the hundred: those are the run's, not the terminal's."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
