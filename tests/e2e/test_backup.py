"""Continuous backup with real processes: a mistake undone, and a cluster out of nothing but its archive."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.archives import _rows
from cluster.local.layout import save
from tests.e2e.conftest import LocalCluster
from tests.support.s3 import BUCKET, S3Server

pytestmark = pytest.mark.e2e


def archives(cluster: LocalCluster, store: Path | str | None = None) -> list[dict[str, Any]]:
    """What `sextet backup list --json` prints, without starting a Python for it."""
    return asyncio.run(_rows(cluster.folder, None if store is None else str(store)))


def until_archived(cluster: LocalCluster, moment: datetime) -> str:
    """Until the cluster's archive reaches to then; its name."""

    def reached() -> str:
        return next(
            (
                str(row["archive"])
                for row in archives(cluster)
                if not row["error"] and datetime.fromisoformat(row["to"]) >= moment
            ),
            "",
        )

    return str(cluster.until(reached, f"the archive reaches to {moment}"))


def refused(cluster: LocalCluster, *arguments: object) -> str:
    """What a command that must fail says, in one line."""
    done = cluster.sextet(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def clusters(cluster: LocalCluster) -> list[str]:
    return [spec.name for spec in cluster.layout.clusters]


def test_a_mistake_is_undone_and_a_lost_installation_is_back(
    new_cluster: Callable[..., LocalCluster], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = new_cluster("--readers", 0, "--archive", store)
    first.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    first.query("INSERT INTO note (text) VALUES ('one'), ('two')")
    good = datetime.now(UTC)
    first.query("DROP TABLE note")
    first.query("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    name = until_archived(first, good)

    # To a moment before the mistake, beside the cluster that goes on.
    printed = first.sextet(
        "restore", "main", "before", "--to-time", good.isoformat(), "--readers", 0
    ).stdout
    assert f"{name} as of LSN " in printed
    rows = [(1, "one"), (2, "two")]
    assert first.query("SELECT * FROM note", of="before") == rows
    assert first.query("SELECT count(*) FROM later") == [(0,)]
    first.query("INSERT INTO note (text) VALUES ('three')", of="before")

    # Moments that cannot be.
    tomorrow = (good + timedelta(days=1)).isoformat()
    said = refused(first, "restore", "main", "no", "--to-time", tomorrow)
    assert f"that is later than what archive {name} has: the beginning to 20" in said
    said = refused(first, "restore", "main", "no", "--to-time", "2026-11-30T10:00:00")
    assert "has no time zone" in said
    assert clusters(first) == ["main", "before"]

    # Nothing is left of the installation but the store, and another one takes it over.
    first.down()
    shutil.rmtree(first.folder.data)
    second = new_cluster("--readers", 0)
    lsn = next(row for row in archives(second, store) if row["archive"] == name)["lsn"]
    second.sextet("restore", name, "again", "--to-lsn", lsn, "--store", store, "--readers", 0)
    assert second.query("SELECT count(*) FROM later", of="again") == [(0,)]

    # A damaged object is found, and makes no cluster.
    assert "are whole" in second.sextet("backup", "verify", name, "--store", store).stdout
    chunk = sorted((store / name / "log").iterdir())[0]
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.chmod(0o600)
    chunk.write_bytes(data)
    key = chunk.relative_to(store).as_posix()
    said = refused(second, "backup", "verify", name, "--store", store)
    assert f"object {key} fails its checksum" in said
    said = refused(second, "restore", name, "broken", "--latest", "--store", store)
    assert f"object {key} fails its checksum" in said
    assert clusters(second) == ["main", "again"]


def test_who_asks_for_nothing_has_an_archive(new_cluster: Callable[..., LocalCluster]) -> None:
    """Also an installation of before there was one."""
    cluster = new_cluster(start=False)
    printed = cluster.up("--readers", 0, "--retention", 35, "--archive-every", 0.5)
    assert "archive" not in printed, "that goes without saying"
    cluster.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    before = datetime.now(UTC)
    cluster.query("INSERT INTO note (text) VALUES ('one')")
    name = until_archived(cluster, before)
    archive = cluster.status()["archive"]
    assert (archive["name"], archive["retention_days"]) == (name, 35)
    cluster.until(lambda: (cluster.status()["archive"]["behind_s"] or 99) < 10, "a small lag")
    assert "kept for 35 days" in cluster.sextet("status").stdout

    # As if nobody had archived.
    cluster.down()
    shutil.rmtree(cluster.folder.archive)
    layout = cluster.layout
    save(cluster.folder.data, layout.with_cluster(replace(layout.cluster("main"), archive="")))
    cluster.up()
    before = datetime.now(UTC)
    cluster.query("INSERT INTO note (text) VALUES ('two')")
    other = until_archived(cluster, before)
    assert other.startswith("main-")
    assert other != name
    assert [row["archive"] for row in archives(cluster)] == [other]
    assert "cannot be continued" not in cluster.folder.log("archive-main").read_text()
    whole = cluster.sextet("backup", "verify").stdout
    assert "are whole" in whole
    assert "and all are there of which storage nodes have heard, up to LSN" in whole
    cluster.sextet("restore", "main", "copy", "--latest", "--readers", 0)
    assert cluster.query("SELECT text FROM note", of="copy") == [("one",), ("two",)]

    # The last object is lost, which no other object says.
    chunks = cluster.folder.archive / other / "log"
    before_it = len(list(chunks.iterdir()))
    cluster.query("INSERT INTO note (text) VALUES ('three')")
    cluster.until(lambda: len(list(chunks.iterdir())) > before_it, "it is archived")
    chunk = max(chunks.iterdir())
    cluster.until(lambda: "are whole" in cluster.sextet("backup", "verify").stdout, "it is whole")
    chunk.unlink()
    said = refused(cluster, "backup", "verify")
    assert f"object {other}/log/{chunk.name} is missing" in said


def test_archive_in_s3(
    new_cluster: Callable[..., LocalCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3://{BUCKET}/some/where"
    with S3Server() as server:
        for key, value in server.environ.items():
            monkeypatch.setenv(key, value)
        cluster = new_cluster(start=False)
        said = refused(cluster, "up", "--archive", f"s3://{BUCKET}-none/a")
        assert f"has no bucket {BUCKET}-none; create it, or name another" in said
        cluster.up("--readers", 0, "--archive", store)
        cluster.query("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        cluster.query("INSERT INTO note (text) VALUES ('one')")
        good = datetime.now(UTC)
        cluster.query("DROP TABLE note")
        name = until_archived(cluster, good)
        assert name in server.request("GET", f"/{BUCKET}?list-type=2&prefix=some/where").decode()
        assert not cluster.folder.archive.exists()
        assert [row["archive"] for row in archives(cluster, store)] == [name]
        assert "are whole" in cluster.sextet("backup", "verify", name, "--store", store).stdout
        cluster.sextet(
            *("restore", name, "before", "--to-time", good.isoformat()),
            *("--store", store, "--readers", 0),
        )
        assert cluster.query("SELECT text FROM note", of="before") == [("one",)]

        # Without what the bucket asks for commits go on, and it is said.
        cluster.query("CREATE TABLE later (id INTEGER PRIMARY KEY)")
        cluster.down()
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        done = cluster.sextet("up", "--port", cluster.port)
        assert "AWS_SECRET_ACCESS_KEY is not set" in " ".join(done.stderr.split())
        cluster.query("INSERT INTO later DEFAULT VALUES")
        cluster.until(lambda: cluster.status()["archive"]["why"], "it is said why archiving waits")
        why = cluster.status()["archive"]["why"]
        assert "AWS_SECRET_ACCESS_KEY is not set" in why
        assert "archiving waits, and commits go on" in cluster.sextet("status").stdout
