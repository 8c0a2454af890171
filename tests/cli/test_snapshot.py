"""`sextet snapshot`: from an archive to a file, and what is said when something is not as it should be."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import archived, restore, snapshots
from cluster.cli.app import app
from cluster.cli.errors import CommandFailed
from cluster.cli.snapshots import _cluster_of, _planned
from cluster.local.archiving import ArchiveState, save_archive_state
from cluster.local.create import new_archive_name
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout
from cluster.local.store import make_store
from engine.archive.bases import index_key
from engine.archive.catalogue import Target
from engine.errors import ConfigError, Corrupt, ObjectMissing
from engine.net.objects import FolderStore
from engine.net.pb import control_pb2 as pb
from engine.net.pb import instance_pb2 as ipb
from engine.types import PAGE_SIZE
from tests.archive.books import T0_US, Book, Ledger
from tests.support.s3 import BUCKET, S3Server

ARCHIVE = "main-0a1b2c3d"
ROWS = [(n, "x" * 100) for n in range(200)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One with the archive of a cluster whose database has `ROWS`."""
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", ROWS)
        database.commit()
    image = path.read_bytes()
    ledger = Ledger()
    ledger.commit(range(len(image) // PAGE_SIZE), len(image) // PAGE_SIZE, T0_US)
    ledger.states[-1] = (ledger.states[-1][0], image)
    book = Book(ledger, ARCHIVE)
    book.begin_at(1)
    folder = tmp_path / "store"
    make_store(str(folder))
    for key, data in book.objects.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


@pytest.fixture
def snapshot(store: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`sextet snapshot ARGUMENTS` on that store, where no installation is: (exit status, what it says)."""

    def run(*arguments: object) -> tuple[int, str]:
        command = ["snapshot", *map(str, arguments), "--data", str(tmp_path / "data")]
        if "--store" not in command:
            command += ["--store", str(store)]
        done = CliRunner().invoke(app, command)
        return done.exit_code, " ".join(str(done.exception or done.output).split())

    return run


Run = Callable[..., tuple[int, str]]


def rows_of(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM t").fetchall()


def test_a_snapshot_is_made_shown_checked_copied_exported_and_deleted(
    snapshot: Run, store: Path, tmp_path: Path
) -> None:
    code, text = snapshot("create", ARCHIVE, "good")
    assert code == 0, text
    assert "does not run here: the end of its archive is taken" in text
    assert "snapshot good of main is made: as of LSN 8, committed 2023-11-14T22:13:20.0" in text
    code, text = snapshot("list", "--json")
    (row,) = json.loads(text)
    assert row.pop("taken").endswith("Z")
    assert row == {
        "snapshot": "good",
        "error": "",
        "store": str(store),
        "cluster": "main",
        "archive": ARCHIVE,
        "lsn": 8,
        "committed": "2023-11-14T22:13:20.000000Z",
        "bytes": 8 * PAGE_SIZE,
    }
    assert "good main 8 2023-11-14T22:13:20.000000Z 32" in snapshot("list")[1]
    assert snapshot("verify", "good") == (0, "2 objects of snapshot good are whole")
    other = tmp_path / "other"
    assert snapshot("copy", "good", "--to-store", other)[0] == 0
    assert snapshot("copy", "good", "--to-store", store, "--as", "twin")[0] == 0
    assert [r["snapshot"] for r in json.loads(snapshot("list", "--json")[1])] == ["good", "twin"]
    assert snapshot("delete", "good") == (0, "snapshot good is deleted")
    for name, where in (("twin", store), ("good", other)):
        path = tmp_path / f"{name}.db"
        code, _ = snapshot("export", name, path, "--store", where)
        assert (code, rows_of(path)) == (0, ROWS)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_copies_go_to_a_bucket_and_come_back(
    snapshot: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert snapshot("create", ARCHIVE, "good", "--to-lsn", 8)[0] == 0
    bucket, path = f"s3://{BUCKET}/some/where", tmp_path / "again.db"
    with S3Server() as server:
        for key, value in server.environ.items():
            monkeypatch.setenv(key, value)
        for _ in range(2):
            code, text = snapshot("copy", "good", "--to-store", bucket)
        assert (code != 0, "there is a snapshot good already" in text) == (True, True)
        assert snapshot("delete", "good")[0] == 0
        assert snapshot("verify", "good", "--store", bucket)[0] == 0
        again = tmp_path / "again"
        assert snapshot("copy", "good", "--to-store", again, "--store", bucket)[0] == 0
        assert snapshot("delete", "good", "--store", bucket)[0] == 0
        assert json.loads(snapshot("list", "--json", "--store", bucket)[1]) == []
    assert snapshot("export", "good", path, "--store", again)[0] == 0
    assert rows_of(path) == ROWS


def test_moments_may_be_named(snapshot: Run) -> None:
    assert snapshot("create", ARCHIVE, "by-lsn", "--to-lsn", 8)[0] == 0
    assert snapshot("create", ARCHIVE, "by-time", "--to-time", "2023-11-14T22:13:20Z")[0] == 0
    for moment, said in (
        (("--to-lsn", 9), "that is later than what archive main-0a1b2c3d has"),
        (("--to-time", "2023-11-14T22:13:19Z"), "that is earlier than what archive"),
        (("--to-time", "2023-11-14"), "has no time zone"),
        (("--to-time", "1s ago", "--to-lsn", 8), "--to-time or --to-lsn, or neither for now"),
    ):
        code, text = snapshot("create", ARCHIVE, "no", *moment)
        assert code != 0
        assert said in text
    assert "no" not in [row["snapshot"] for row in json.loads(snapshot("list", "--json")[1])]


def test_what_cannot_be_done_is_said(snapshot: Run, store: Path, tmp_path: Path) -> None:
    assert snapshot("create", ARCHIVE, "good", "--to-lsn", 8)[0] == 0
    (tmp_path / "there.db").write_text("mine")
    (tmp_path / "no-store").mkdir()
    for arguments, said in (
        (("create", ARCHIVE, "good"), "there is a snapshot good already; choose another name"),
        (("create", "nobody", "new"), "there is no archive of nobody; there is: main-0a1b2c3d"),
        (("create", ARCHIVE, "../x"), "'../x' cannot be a snapshot's name: a small letter, then"),
        (("create", ARCHIVE, "a" * 41), "cannot be a snapshot's name"),
        (("delete", "bad"), "there is no snapshot bad; there is: good"),
        (("verify", "bad"), "there is no snapshot bad; there is: good"),
        (("export", "bad", tmp_path / "new.db"), "there is no snapshot bad"),
        (("export", "good", tmp_path / "there.db"), "there.db exists; choose another name or"),
        (("export", "good", tmp_path / "none/x.db"), "there is no folder"),
        (("copy", "bad", "--to-store", tmp_path / "new"), "there is no snapshot bad"),
        (("copy", "good", "--to-store", store), "there is a snapshot good already"),
        (("copy", "good", "--to-store", tmp_path / "no-store"), "is no object store: is its disk"),
        (("copy", "good", "--to-store", "ftp://x"), "ftp://x cannot be an object store"),
        (("restore", "good", "new"), "no cluster is running in"),
    ):
        code, text = snapshot(*arguments)
        assert code != 0, arguments
        assert said in text
    assert (tmp_path / "there.db").read_text() == "mine"
    assert not (tmp_path / "new.db").exists()
    assert not (tmp_path / "new").exists(), "no store is made for a name that was misspelt"


def test_damage_is_named_and_exports_nothing(snapshot: Run, store: Path, tmp_path: Path) -> None:
    assert snapshot("create", ARCHIVE, "good", "--to-lsn", 8)[0] == 0
    assert snapshot("create", ARCHIVE, "other", "--to-lsn", 8)[0] == 0
    (part,) = (store / "_snapshots/good/pages").iterdir()
    part.chmod(0o600)
    part.write_bytes(part.read_bytes()[:-1])
    (tmp_path / "good.db").write_text("old")
    key = f"object {part.relative_to(store)} fails its checksum"
    for arguments in (
        ("export", "good", tmp_path / "good.db", "--force"),
        ("copy", "good", "--to-store", store, "--as", "third"),
    ):
        code, text = snapshot(*arguments)
        assert code != 0
        assert key in text
    assert (tmp_path / "good.db").read_text() == "old"
    code, text = snapshot("verify", "good")
    assert (code != 0, text) == (True, "1 of 2 objects of snapshot good are no good")
    (store / "_snapshots/other/index").write_bytes(b"x")
    code, text = snapshot("list", "--json")
    assert [row["error"][:40] for row in json.loads(text)] == [
        "",
        "object _snapshots/other/index is cut short"[:40],
    ]
    assert "object _snapshots/other/index is cut short" in snapshot("list")[1]
    assert snapshot("delete", "other") == (0, "snapshot other is deleted")


def test_unfinished_ones_are_mentioned_and_removed(snapshot: Run, store: Path) -> None:
    assert snapshot("create", ARCHIVE, "good", "--to-lsn", 8)[0] == 0
    (store / "_snapshots/good/index").unlink()
    assert json.loads(snapshot("list", "--json")[1]) == []
    assert (
        "unfinished, or being made now: good; `sextet snapshot delete NAME`" in snapshot("list")[1]
    )
    said = "there was no snapshot good; 1 objects of an unfinished one are deleted"
    assert snapshot("delete", "good") == (0, said)
    assert snapshot("delete", "good")[0] != 0


async def test_a_restore_refuses_a_snapshot_of_another_cluster_or_one_that_is_damaged(
    snapshot: Run, store: Path, tmp_path: Path
) -> None:
    code, _ = await asyncio.to_thread(snapshot, "create", ARCHIVE, "good", "--to-lsn", 8)
    assert code == 0
    folder, path = Folder.at(tmp_path / "data"), tmp_path / "new.db"
    for source in (None, "main", ARCHIVE):
        await restore.snapshot_file(folder, "good", str(store), path, source=source)
        assert rows_of(path) == ROWS
        path.unlink()
    with pytest.raises(ConfigError, match="snapshot good is of main, not of shop"):
        await restore.snapshot_file(folder, "good", str(store), path, source="shop")
    (part,) = (store / "_snapshots/good/pages").iterdir()
    part.chmod(0o600)
    part.write_bytes(b"")
    with pytest.raises(Corrupt, match=f"object _snapshots/good/pages/{part.name} is cut short"):
        await restore.snapshot_file(folder, "good", str(store), path)
    assert not path.exists()


@pytest.mark.parametrize("cluster", ["main", "main-2", "a-0a1b2c3d"])
def test_a_cluster_is_told_by_its_archives_name(cluster: str) -> None:
    archive = new_archive_name(cluster)
    assert _cluster_of(archive) == _cluster_of(f"{archive}.12") == cluster


# -- waiting for the archive


def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, read_lsn: int) -> Folder:
    """A cluster whose writer has committed up to `read_lsn`."""

    async def status(*_: object) -> pb.ClusterStatusReply:
        report = pb.InstanceReport(
            view=pb.InstanceView(role="writer"),
            status=ipb.InstanceStatusReply(state="available", read_lsn=read_lsn),
        )
        return pb.ClusterStatusReply(instances=[report])

    monkeypatch.setattr(archived, "cluster_status", status)
    folder = Folder.at(tmp_path / "waiting")
    folder.make()
    return folder


def said(upto: int, *, archive: str = ARCHIVE, why: str = "") -> ArchiveState:
    return ArchiveState(os.getpid(), 1, archive, "archiving", why=why, upto=upto)


SPEC = ClusterSpec("main", 1, 2, 1 << 20, (InstanceSpec("main-1", 1, "az1", 30),), archive=ARCHIVE)
LAYOUT = Layout(7000, (), (SPEC,))


async def test_a_snapshot_waits_for_what_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = waiting(tmp_path, monkeypatch, read_lsn=20)
    async with asyncio.timeout(10):
        save_archive_state(folder, "main", said(19))
        task = asyncio.ensure_future(archived.wait_archived(folder, LAYOUT, SPEC))
        done, _ = await asyncio.wait([task], timeout=3 * archived.POLL_S)
        assert not done
        save_archive_state(folder, "main", said(21, archive="main-99999999"))  # one of before
        done, _ = await asyncio.wait([task], timeout=3 * archived.POLL_S)
        assert not done
        save_archive_state(folder, "main", said(20, archive=f"{ARCHIVE}.2"))
        assert await task == 20


async def test_a_snapshot_waits_for_the_first_base_of_an_archive(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for nothing else that is missing."""
    monkeypatch.setattr(snapshots, "BASE_POLL_S", 0.05)
    index = store / index_key(ARCHIVE, 1)
    kept = index.rename(tmp_path / "index")
    folder, objects = Folder.at(tmp_path / "data"), FolderStore(store)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(ObjectMissing, match="there is no base"):
                await _planned(folder, objects, ARCHIVE, Target(), 0)
            task = asyncio.ensure_future(_planned(folder, objects, ARCHIVE, Target(), 8))
            done, _ = await asyncio.wait([task], timeout=0.2)
            assert not done
            kept.rename(index)
            _, plan = await task
            assert plan.commit.lsn == 8
            with pytest.raises(CommandFailed, match="has archived 9: objects are missing"):
                await _planned(folder, objects, ARCHIVE, Target(), 9)
            monkeypatch.setattr(snapshots, "PATIENCE_S", -1.0)
            index.unlink()
            with pytest.raises(ObjectMissing, match="there is no base"):
                await _planned(folder, objects, ARCHIVE, Target(), 8)
    finally:
        objects.close()


async def test_a_snapshot_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archived, "PATIENCE_S", -2.0)
    folder = waiting(tmp_path, monkeypatch, read_lsn=20)
    save_archive_state(folder, "main", said(19, why="the disk is away"))
    with pytest.raises(CommandFailed) as caught:
        await archived.wait_archived(folder, LAYOUT, SPEC)
    assert str(caught.value) == (
        "the newest commit of main is 20, and its archive ends at LSN 19: the disk is away; "
        "`--to-lsn 19` takes what is there"
    )
