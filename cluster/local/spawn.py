"""Starting a process without starting an interpreter: a fork of ours, which has the modules loaded.

Loading gRPC and the rest takes half a second of CPU, for each of a dozen processes when a cluster starts
and for each one that starts again after a crash. So whoever supervises them loads it all once
(`preload`), and a child is a copy that begins in its module's `main`. It shares the loaded code's memory
with the others.

Invariants
- We have one thread and have only imported gRPC: no channel, no server and no event loop, whose threads
  and locks a fork would tear. Where there are more threads, another program's perhaps, nothing is forked.
- A child has of ours what is passed and nothing else: no other descriptor, no signal handler, no log
  handler. What it returns, raises or exits with ends it, never the loop that it was copied from.
- What cannot be loaded or forked here is started as a program of its own, and says in its own log what
  is wrong.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from setproctitle import setproctitle

log = logging.getLogger("supervisor")

PYTHON_MODULE = (sys.executable, "-P", "-m")
"""How the command of what may be forked begins. -P: the working directory is no place for modules."""


class Process(Protocol):
    """A child of ours: the part of `subprocess.Popen` that a supervisor needs."""

    pid: int
    returncode: int | None
    """Exit status, negative for a signal's; None until `poll` has seen the end."""

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int) -> None: ...


class _Forked:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:  # not reaped, so the pid is nobody else's
            os.kill(self.pid, sig)


def preload(commands: Collection[Sequence[str]]) -> frozenset[str]:
    """Load what these commands would, as far as they are Python modules; those that `start` may fork."""
    loaded = set()
    for module in sorted({c[3] for c in commands if _is_module(c)}):
        try:
            importlib.import_module(f"{module}.__main__")
        except Exception as error:
            log.warning("! %s cannot be loaded and is started by itself: %s", module, error)
        else:
            loaded.add(module)
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody writes to them
    return frozenset(loaded)


def start(
    command: Sequence[str],
    *,
    loaded: Collection[str],
    folder: Path,
    environment: Mapping[str, str],
    output: BinaryIO,
    passed: Collection[int],
) -> Process:
    """Start `command` in `folder`, with these variables and no input, both outputs to `output`.

    Of our descriptors it keeps `passed`. Raises OSError.
    """
    if not _is_module(command) or command[3] not in loaded or _threads() != 1:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(passed),
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # What comes for the child before it has handlers of its own must not be lost in ours.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if not pid:
            _become(command, folder, environment, output.fileno(), passed, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _Forked(pid)


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # those too that Python has not heard of
    except FileNotFoundError:
        return threading.active_count()


def _descriptors() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc/self/fd")}
    except FileNotFoundError:
        return set(range(os.sysconf("SC_OPEN_MAX")))


def _is_module(command: Sequence[str]) -> bool:
    return tuple(command[:3]) == PYTHON_MODULE and len(command) > 3


# -- in the child


def _become(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: int,
    passed: Collection[int],
    mask: Collection[int | signal.Signals],
) -> NoReturn:
    status = 1
    try:
        _let_go(output, passed)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.chdir(folder)
        setproctitle(" ".join(command))  # before the variables go: it looks for them in memory
        os.environ.clear()
        os.environ.update(environment)
        module, *arguments = command[3:]
        sys.argv = [module, *arguments]
        importlib.import_module(f"{module}.__main__").main()
        status = 0
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # whatever is wrong with our log
            os._exit(status)


def _let_go(output: int, passed: Collection[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, fd)
    for fd in _descriptors() - {0, 1, 2, *passed}:
        with suppress(OSError):  # what listed them
            os.close(fd)
    logging.getLogger().handlers.clear()
