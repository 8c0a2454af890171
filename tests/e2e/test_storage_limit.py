"""A volume at its maximum: clean errors, a state that is told, and going on once the limit is raised."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.e2e.conftest import LocalCluster

pytestmark = pytest.mark.e2e

FILL = "INSERT INTO t (b) VALUES (randomblob(400000))"


def _full_events(cluster: LocalCluster) -> list[str]:
    said = [event.partition(": ")[2] for event in cluster.events()]
    return [what.partition(",")[0] for what in said if "storage-full" in what]


def _state(cluster: LocalCluster) -> str:
    state: str = cluster.status()["volume"]["state"]
    return state


def _fill(client: psycopg.Connection) -> psycopg.errors.DiskFull:
    for _ in range(40):  # 16 MB, and there are 10 MiB
        try:
            client.execute(FILL)
        except psycopg.errors.DiskFull as error:
            return error
    pytest.fail("the volume takes more than its maximum")


def test_full_volume_says_so_and_goes_on_once_the_limit_is_raised(new_cluster) -> None:
    cluster = new_cluster("--readers", 1, "--max-storage", "10M")
    assert cluster.sextet("storage", "limit").stdout.startswith("the limit is 10.0 MiB; 1 ")
    writer = cluster.process("main-1")
    client = cluster.connect()
    client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB)")
    assert _state(cluster) == "available"
    error = _fill(client)
    assert error.sqlstate == "53100"
    assert "raise the maximum with `sextet storage limit`" in str(error)
    ((rows,),) = client.execute("SELECT count(*) FROM t").fetchall()

    # What is told, and that it is told once.
    assert _state(cluster) == "storage-full"
    assert "storage-full" in cluster.sextet("status").stdout
    cluster.until(lambda: _full_events(cluster), "there is an event")
    for _ in range(3):
        with pytest.raises(psycopg.errors.DiskFull):
            client.execute(FILL)

    # Reads go on, a transaction that was refused leaves nothing, deletes give room.
    cluster.until_sql("SELECT count(*) FROM t", [(rows,)], reader=True)
    client.execute("BEGIN")
    client.execute("UPDATE t SET b = zeroblob(400000) WHERE id = 1")
    client.execute("INSERT INTO t (b) VALUES (randomblob(4000000))")
    with pytest.raises(psycopg.errors.DiskFull):
        client.execute("COMMIT")
    assert client.execute("SELECT count(*), count(DISTINCT b) FROM t").fetchall() == [(rows, rows)]
    client.execute("DELETE FROM t WHERE id <= 3")
    client.execute(FILL)
    cluster.until(lambda: _state(cluster) == "available", "deleted rows give room")
    cluster.until(lambda: len(_full_events(cluster)) == 2, "the first meeting is over")
    _fill(client)
    assert _state(cluster) == "storage-full"
    cluster.until(lambda: len(_full_events(cluster)) == 3, "there is an event again")

    # The limit.
    refused = cluster.sextet("storage", "limit", "1000T", check=False)
    assert (refused.returncode, "1000T is too large" in refused.stderr) == (1, True)
    assert cluster.sextet("storage", "limit", "20M").stdout == "the limit is 20.0 MiB\n"
    client.execute(FILL)  # at once, over the connection that was refused
    assert cluster.process("main-1") == writer, "nobody was started again"
    status = cluster.status()
    assert (status["volume"]["state"], status["volume"]["groups"]) == ("available", 2)
    cluster.until(lambda: len(_full_events(cluster)) == 4, "both meetings began and ended")
    assert [e.partition(":")[0] for e in _full_events(cluster)] == [
        "storage-full",
        "storage-full is over",
    ] * 2
    said = cluster.sextet("events").stdout
    assert "protection group 1 added: room for 20.0 MiB now, the limit is 20.0 MiB" in said
    assert "the limit is 20.0 MiB now, it was 10.0 MiB" in said

    # Never below what is in use, and kept by the next start.
    lowered = cluster.sextet("storage", "limit", "10M", check=False)
    assert "10M is less than what is in use: the volume has 2 protection groups" in lowered.stderr
    client.close()
    cluster.down()
    cluster.up()
    shown = json.loads(cluster.sextet("storage", "limit", "--json").stdout)
    assert shown == {"max_bytes": 20 * 1024**2, "groups_bytes": 20 * 1024**2}
