"""Starting a supervisor, and ending one that did not come up."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from cluster.local.folder import Folder
from cluster.local.state import is_locked, running_state
from cluster.local.stopping import STOP_S, stop_installation

LEFTOVERS_WAIT_S = 15.0
POLL_S = 0.05


def wait_for_leftovers(folder: Folder) -> None:
    """After a supervisor was killed its processes end by themselves; ports are free only then."""
    deadline = time.monotonic() + LEFTOVERS_WAIT_S
    while is_locked(folder) and running_state(folder) is None:
        if time.monotonic() > deadline:
            stop_installation(folder)
            return
        time.sleep(POLL_S)


def start_supervisor(folder: Folder, *, with_parent: bool) -> subprocess.Popen[bytes]:
    """The supervisor of the layout in `folder`; `with_parent`: it stops when this process ends."""
    command = [sys.executable, "-P", "-m", "cluster.local.supervisor", "--data", str(folder.data)]

    def start() -> subprocess.Popen[bytes]:
        with folder.log("supervisor").open("ab") as output:
            # A session of its own: neither Ctrl-C nor a closed terminal reaches the cluster.
            return subprocess.Popen(
                command,
                cwd=folder.data,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    if not with_parent:
        return start()
    command += ["--with-parent", str(os.getpid())]
    return _in_a_thread_that_stays(start)


def _in_a_thread_that_stays(
    start: Callable[[], subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    """For Linux a process's parent is the thread that started it: here one that lives as long as its
    child, so that the child is told of the end of this process and of no earlier one."""
    begun: Future[subprocess.Popen[bytes]] = Future()

    def stay() -> None:
        try:
            process = start()
        except BaseException as error:
            begun.set_exception(error)
            return
        begun.set_result(process)
        with contextlib.suppress(ChildProcessError):  # the caller has waited for it already
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    Thread(target=stay, name="parent of a supervisor", daemon=True).start()
    return begun.result()


def stop_started(folder: Folder, supervisor: subprocess.Popen[bytes]) -> None:
    """End what we have just started; it may not have written yet who it is."""
    supervisor.terminate()
    try:
        supervisor.wait(STOP_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    if running_state(folder) is None:  # else it is another's, and ours has ended because of it
        stop_installation(folder)
