"""Clusters for other people's tests: they work, they break by command, and nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from cluster.local.folder import Folder
from cluster.local.processes import ProcessId, wait_until_gone
from cluster.local.state import load_state
from cluster.testing import AsyncLocalCluster, ClusterDown, LocalCluster
from engine.errors import ConfigError

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]


def processes(cluster: LocalCluster) -> list[ProcessId]:
    state = load_state(Folder.at(cluster.folder))
    assert state is not None
    return [*state.living()]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(replicas=1) as made:
        yield made


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(sql)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def test_endpoints_answer_and_everybody_is_up(cluster: LocalCluster) -> None:
    query(cluster.writer_url, "CREATE TABLE up (x INTEGER)")
    query(cluster.writer_url, "INSERT INTO up VALUES (7)")
    cluster.until(lambda: query(cluster.reader_url, "SELECT x FROM up") == [(7,)], "the row")
    cluster.until_healthy()
    assert cluster.writer == "main-1"
    assert [row["name"] for row in cluster.status()["storage"]] == [
        f"storage-{n}" for n in range(1, 7)
    ]
    assert "recovery took" in cluster.logs("main-1")


def test_faults_by_command_and_healed(cluster: LocalCluster) -> None:
    query(cluster.writer_url, "CREATE TABLE faults (x INTEGER)")
    cluster.fault.pause("storage-2")
    cluster.fault.kill("storage-5", hold=True)
    query(cluster.writer_url, "INSERT INTO faults VALUES (1)")  # four are enough
    with pytest.raises(ClusterDown, match="storage-5"):
        cluster.until_healthy(timeout_s=0.0)
    cluster.fault.heal()
    cluster.until_healthy()
    assert query(cluster.writer_url, "SELECT x FROM faults") == [(1,)]


def test_what_fails_says_why(cluster: LocalCluster) -> None:
    with pytest.raises(ConfigError, match="storage-1"):
        cluster.fault.kill("storage-77")
    with pytest.raises(ClusterDown, match="not within 0 s: a miracle because 3"):
        cluster.until(lambda: False, "a miracle", 0.0, lambda: "because 3")
    with pytest.raises(ClusterDown, match="`sextet status --cluster other` failed"):
        cluster.sextet("status", "--cluster", "other")
    with pytest.raises(ConfigError, match="running already"):
        cluster.start()
    with pytest.raises(ConfigError, match="running in"):
        LocalCluster(folder=cluster.folder).start()


@pytest.mark.parametrize("replicas", [-1, 16])
def test_impossible_clusters_are_refused(replicas: int) -> None:
    with pytest.raises(ConfigError, match=f"{replicas} replicas"):
        LocalCluster(replicas=replicas)


def test_nothing_is_left_afterwards() -> None:
    cluster = LocalCluster(replicas=0)
    with pytest.raises(ClusterDown, match="not running"):
        _ = cluster.writer_url
    with contextlib.suppress(ZeroDivisionError), cluster:
        folder, seen = cluster.folder, processes(cluster)
        assert len(seen) >= 9
        cluster.fault.pause("storage-1")  # a stopped process has to go as well
        raise ZeroDivisionError
    assert wait_until_gone(seen, timeout=0) == []
    assert not folder.exists()
    cluster.stop()  # twice is no error


async def test_async_with_and_a_folder_that_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    async with LocalCluster(replicas=0, folder=folder) as cluster:
        query(cluster.writer_url, "CREATE TABLE kept AS SELECT 42 AS x")
        seen = processes(cluster)
    assert wait_until_gone(seen, timeout=0) == []
    async with LocalCluster(replicas=0, folder=folder) as cluster:
        assert query(cluster.writer_url, "SELECT x FROM kept") == [(42,)]


def test_it_outlives_the_thread_that_started_it() -> None:
    cluster = LocalCluster(replicas=0)
    starter = threading.Thread(target=cluster.start)
    starter.start()
    starter.join()
    try:
        cluster.fault.kill("writer")  # whoever is to start it again must be there
        cluster.until_healthy()
        assert query(cluster.writer_url, "SELECT 1") == [(1,)]
    finally:
        cluster.stop()


async def test_a_pool_in_the_same_loop_goes_on_while_faults_and_waits_are_awaited() -> None:
    committed = turns = 0

    async def customer(pool: asyncpg.Pool) -> None:
        nonlocal committed
        while True:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await pool.execute("INSERT INTO awaited VALUES ($1)", committed)
                committed += 1
            await asyncio.sleep(0.001)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with (
        AsyncLocalCluster(replicas=0) as cluster,
        asyncpg.create_pool(cluster.writer_url, min_size=1, max_size=2) as pool,
        asyncio.TaskGroup() as tasks,
    ):
        await pool.execute("CREATE TABLE awaited (n INTEGER)")
        others = [tasks.create_task(customer(pool)), tasks.create_task(turn())]

        def more() -> bool:
            """There would never be more if the wait for it held the loop up."""
            return committed >= wanted

        for target in ("storage-1", "writer"):
            seen = turns
            await cluster.fault.kill(target)
            assert turns > seen
            wanted = committed + 20
            await cluster.until(more, "commits meanwhile")
            seen = turns
            await cluster.status()
            assert turns > seen
            await cluster.until_healthy()
        assert await cluster.writer() == "main-1"
        for task in others:
            task.cancel()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    cluster = AsyncLocalCluster(replicas=0)
    starting = asyncio.create_task(cluster.start())
    await asyncio.sleep(0)  # it has begun
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ClusterDown, match="not running"):
        _ = cluster.folder
    await cluster.start()
    folder = cluster.folder
    await cluster.stop()
    assert not folder.exists()


KILLED = """
import json, sys, time
from cluster.local.folder import Folder
from cluster.local.state import load_state
from cluster.testing import LocalCluster
with LocalCluster(replicas=0) as cluster:
    state = load_state(Folder.at(cluster.folder))
    print(json.dumps([[p.pid, p.started, p.boot] for p in state.living()]), cluster.folder, flush=True)
    time.sleep(600)
"""


def test_cluster_ends_with_the_process_that_had_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told, _, folder = child.stdout.readline().strip().rpartition(" ")
    seen = [ProcessId(*one) for one in json.loads(told)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    try:
        assert wait_until_gone(seen, timeout=20) == []
    finally:
        for process in seen:
            process.send(signal.SIGKILL)
        subprocess.run(["rm", "-rf", folder], check=True)


PLUGIN_TESTS = """
import asyncio

def test_breaks(sextet):
    sextet.fault.kill("storage-1", hold=True)

def test_finds_it_whole(sextet):
    assert not sextet.fault.active()
    assert sextet.status()["storage"][0]["state"] == "up"
    assert len(sextet.status()["instances"]) == 1

def test_awaits_it(sextet_async):
    async def breaks():
        await sextet_async.fault.kill("storage-2", hold=True)
        return await sextet_async.missing()
    assert asyncio.run(breaks())

def test_finds_it_whole_again(sextet):
    assert not sextet.missing()
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest as somebody else would run it, in `folder`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "SEXTET"))}
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_fixture_is_whole_again_for_the_next_test(tmp_path: Path) -> None:
    (tmp_path / "test_plugin.py").write_text(PLUGIN_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nsextet_replicas = 5\n")
    plugin = ("-p", "cluster.testing.plugin", "-p", "no:asyncio")
    done = run_pytest(tmp_path, *plugin, "--sextet-replicas", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.parametrize(
    "example", sorted(p.parent.name for p in ROOT.glob("examples/*/pytest.ini"))
)
def test_example_passes_as_it_stands(example: str) -> None:
    started = time.monotonic()
    done = run_pytest(ROOT / "examples" / example)
    assert done.returncode == 0, f"{time.monotonic() - started:.0f} s\n{done.stdout}{done.stderr}"
