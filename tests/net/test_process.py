"""run_node in real processes: signals, exit statuses, one line of log, dying with the supervisor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from engine.net.process import FENCED_EXIT

PRELUDE = """
import asyncio, os, sys
from engine.errors import ConfigError
from engine.net import process
from engine.net.process import end_process, run_node

async def serve(stop):
    print("ready", os.getpid(), flush=True)
    await stop.wait()
    print("stopping", flush=True)
"""
ENV = {name: value for name, value in os.environ.items() if not name.startswith("SEXTET_")}


def start(code: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV | env,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)"""
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # it and the children that it started
        process.communicate()
        raise
    return process.returncode, out, err


def ready(process: subprocess.Popen[str]) -> int:
    """Wait until `serve` runs; its pid."""
    assert process.stdout is not None
    word, pid = process.stdout.readline().split()
    assert word == "ready"
    return int(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_gracefully(number: signal.Signals) -> None:
    process = start("run_node(serve, name='storage-1')")
    ready(process)
    process.send_signal(number)
    status, out, err = finish(process)
    assert (status, out) == (0, "stopping\n")
    assert re.search(r"storage-1 starts, pid \d+\n.*storage-1 ends\n$", err)


def test_log_is_one_line_per_event_with_time_level_and_name() -> None:
    process = start("run_node(serve, name='storage-1')")
    ready(process)
    process.terminate()
    for line in finish(process)[2].splitlines():
        assert re.match(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} INFO    engine\.net\.process: ", line
        )


def test_main_that_returns_ends_the_process_whatever_still_runs() -> None:
    code = """
import threading, time
async def main(stop):
    threading.Thread(target=time.sleep, args=(600,)).start()
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
run_node(main, name='n')
"""
    assert finish(start(code))[0] == 0


def test_expected_error_is_one_line_and_status_1() -> None:
    code = """
async def main(stop):
    raise ConfigError("port 25432 is taken")
run_node(main, name='n')
"""
    status, _, err = finish(start(code))
    assert status == 1
    assert err.endswith("n cannot go on: port 25432 is taken\n")
    assert "Traceback" not in err


def test_bug_is_a_traceback_and_status_1() -> None:
    status, _, err = finish(start("async def main(stop): 1 / 0\nrun_node(main, name='n')"))
    assert status == 1
    assert "ZeroDivisionError" in err


STUCK = """
process.STOP_S = 0.1
async def main(stop):
    print("ready", os.getpid(), flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
run_node(main, name='n')
"""


def test_node_that_does_not_stop_is_ended() -> None:
    process = start(STUCK)
    ready(process)
    process.terminate()
    status, _, err = finish(process)
    assert status == 1
    assert "did not stop within 0.1 s" in err


def test_node_whose_loop_hangs_while_stopping_is_ended_by_the_kernel() -> None:
    code = """
import time
process.STOP_S = 0.1
async def main(stop):
    await serve(stop)
    time.sleep(600)
run_node(main, name='n')
"""
    process = start(code)
    ready(process)
    process.terminate()
    assert finish(process)[0] == -signal.SIGALRM


def test_fenced_node_ends_at_once_with_its_reason() -> None:
    code = """
async def main(stop):
    try:
        end_process("fdatasync failed")
    finally:
        print("not reached")
run_node(main, name='n')
"""
    status, out, err = finish(start(code))
    assert (status, out) == (FENCED_EXIT, "")
    assert "CRITICAL engine.net.process: this node ends itself: fdatasync failed" in err


SUPERVISOR = """
import subprocess
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]],
    env=os.environ | {"SEXTET_SUPERVISED": os.environ["KIND"] or str(os.getpid())},
)
child.wait()
"""


@pytest.mark.parametrize("kind", ["", "1"], ids=["pid", "flag"])
def test_node_dies_with_its_supervisor(kind: str) -> None:
    child = PRELUDE + "run_node(serve, name='n')"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + SUPERVISOR, child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV | {"KIND": kind},
        start_new_session=True,
    )
    pid = ready(supervisor)
    assert pid != supervisor.pid
    supervisor.kill()
    _, out, err = finish(supervisor)  # returns once the child too has closed the pipes
    assert out == "stopping\n"
    assert "n ends" in err


def test_node_whose_supervisor_has_gone_already_does_not_start() -> None:
    status, out, err = finish(start("run_node(serve, name='n')", SEXTET_SUPERVISED="999999999"))
    assert (status, out) == (1, "")
    assert "has gone already" in err


def test_node_without_a_supervisor_outlives_its_parent() -> None:
    child = PRELUDE + "run_node(serve, name='n')"
    parent = start(
        f"import subprocess; subprocess.Popen([sys.executable, '-c', {child!r}]); sys.stdin.read()"
    )
    pid = ready(parent)
    parent.kill()
    parent.wait()
    os.kill(pid, 0)  # still there
    os.kill(pid, signal.SIGTERM)
    assert finish(parent)[1] == "stopping\n"


LIMITED = """
import resource
from engine.errors import ConfigError
from engine.net.process import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200))
print(raise_descriptor_limit(100, at_least=50), resource.getrlimit(resource.RLIMIT_NOFILE))
print(raise_descriptor_limit(1000, at_least=200), resource.getrlimit(resource.RLIMIT_NOFILE))
try:
    raise_descriptor_limit(1000, at_least=201)
except ConfigError as error:
    print(error)
"""


def test_open_files_are_allowed_as_far_as_the_hard_limit_goes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.splitlines()
    assert (first, second) == ("100 (100, 200)", "200 (200, 200)")
    assert third.startswith("this process may open only 200 files at a time and needs 201; raise")
