"""`sextet restore` and `sextet backup`: which moment is meant, which archive, and what is said of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import restore
from cluster.cli.app import app
from cluster.cli.archives import find
from cluster.cli.errors import CommandFailed
from cluster.cli.options import Past
from cluster.cli.restore import RestoreOptions, target_of
from cluster.local import clusters
from cluster.local.create import new_layout, with_new_cluster
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout, load, save
from cluster.local.ports import free_ports
from cluster.local.ready import Readiness
from cluster.local.store import make_store
from engine.archive.catalogue import Target
from engine.archive.restore import shown
from engine.errors import ConfigError
from engine.moments import parse_time
from engine.net.objects import FolderStore
from tests.archive.books import Book, book_of, ledger_of

NOW = datetime(2026, 11, 30, 14, 32, 6, 250_000, tzinfo=UTC)
NOW_US = 1_796_049_126_250_000


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        ("2026-11-30T14:32:06.250000Z", 0),
        ("2026-11-30T14:32:06.25Z", 0),
        ("2026-11-30 16:32:06.25+02:00", 0),
        (" 2026-11-30T14:32:05.25+00:00 ", 1),
        ("5 minutes ago", 300),
        ("5 min ago", 300),
        ("5m ago", 300),
        ("1 minute ago", 60),
        ("0.5 s ago", 0.5),
        ("30 seconds ago", 30),
        ("2 hours ago", 7200),
        ("3h ago", 10800),
        ("1 day ago", 86400),
        ("1.5 days ago", 129600),
    ],
)
def test_times_are_understood(text: str, ago_s: float) -> None:
    assert parse_time(text, now=NOW) == NOW_US - int(ago_s * 1_000_000)


@pytest.mark.parametrize("at", [NOW_US, NOW_US + 1, 0, 1])
def test_times_that_are_shown_can_be_given_back(at: int) -> None:
    assert parse_time(shown(at), now=NOW) == at


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-11-30T14:32:06", "'2026-11-30T14:32:06' has no time zone: end it with Z"),
        ("2026-11-30", "has no time zone"),
        ("yesterday", "'yesterday' is no time: give one like"),
        ("", "'' is no time"),
        ("5 parsecs ago", "is no time"),
        ("-5 minutes ago", "is no time"),
        ("2026-13-01T00:00:00Z", "is no time"),
        ("999999999999 days ago", "is no time"),
        ("99999 days 5 ago", "is no time"),
    ],
)
def test_what_is_no_time_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_time(text, now=NOW)


def options(
    to_time: str | None = None, to_lsn: int | None = None, *, latest: bool = False
) -> RestoreOptions:
    return RestoreOptions(to_time, to_lsn, latest, store=None, readers=0)


def test_exactly_one_moment_is_meant() -> None:
    assert target_of(options("1s ago"), now=NOW) == Target(time_us=NOW_US - 1_000_000)
    assert target_of(options(to_lsn=0), now=NOW) == Target(lsn=0)
    assert target_of(options(latest=True), now=NOW) == Target()
    for wrong in (options(), options("1s ago", 5), options(to_lsn=5, latest=True)):
        with pytest.raises(
            ConfigError, match="say to when: one of --to-time, --to-lsn, --latest and --snapshot"
        ):
            target_of(wrong, now=NOW)


# -- archives


def stored(folder: Path, *names: str) -> list[Book]:
    """A store in a folder, with archives of these names."""
    make_store(str(folder))
    books = [
        book_of(ledger_of([((n,), n) for n in range(3)]), [1, 2], bases=(2,), name=n) for n in names
    ]
    for book in books:
        for key, data in book.objects.items():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
    return books


def layout(*archives: str) -> Layout:
    specs = []
    for n, archive in enumerate(archives):
        instance = InstanceSpec(f"c{n}-1", 1, "az1", 30 + n)
        specs.append(ClusterSpec(f"c{n}", 10 + n, 20 + n, 1 << 20, (instance,), archive=archive))
    return Layout(7000, (), tuple(specs))


async def test_a_clusters_newest_archive_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, "a-1", "a-1.2", "a-1.10", "b-2", "a-1.old")
    monkeypatch.setattr("cluster.cli.archives.load", lambda _: layout("a-1", "gone-3", ""))
    store = FolderStore(tmp_path)
    folder = Folder.at(tmp_path / "data")
    found = {source: (await find(folder, store, source)).name for source in ("c0", "a-1", "b-2")}
    assert found == {"c0": "a-1.10", "a-1": "a-1", "b-2": "b-2"}
    for source in ("c1", "c2", "a", "nobody"):
        with pytest.raises(ConfigError, match=f"no archive of {source}; there is: a-1, a-1.10, "):
            await find(folder, store, source)
    store.close()


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, " ".join(str(done.exception or done.output).split())


def test_list_shows_windows_and_what_is_wrong(tmp_path: Path) -> None:
    stored(tmp_path, "a", "b", "c")
    (tmp_path / "b/log/000000000002").unlink()
    (tmp_path / "c/log/000000000003").write_bytes(b"")
    command = ("backup", "list", "--store", str(tmp_path), "--data", str(tmp_path / "data"))
    code, text = run(*command, "--json")
    assert code == 0
    rows = {row["archive"]: row for row in json.loads(text)}
    assert rows["a"] == {
        "archive": "a",
        "error": "",
        "from": None,
        "to": "2023-11-14T22:13:22.000000Z",
        "lsn": 3,
        "chunks": 3,
        "bases": 1,
    }
    assert "object b/log/000000000002 is missing" in rows["b"]["error"]
    assert "object c/log/000000000003 is cut short" in rows["c"]["error"]
    code, text = run(*command)
    assert code == 0
    assert "the beginning" in text


NOBODY = "whether later ones are lost nobody here can say: no storage node knows of any"


def test_verify_lists_what_is_wrong(tmp_path: Path) -> None:
    stored(tmp_path, "a")
    command = ("backup", "verify", "a", "--store", str(tmp_path), "--data", str(tmp_path / "data"))
    code, text = run(*command)
    assert (code, text) == (0, f"5 objects of a's archive are whole {NOBODY}")
    (tmp_path / "a/log/000000000002").unlink()
    (tmp_path / "a/base/000000000002/000000").write_bytes(b"x")
    code, text = run(*command)
    assert code != 0
    assert "2 of 5 objects of a's archive are no good" in text


def test_no_store_says_what_to_do(tmp_path: Path) -> None:
    code, text = run("backup", "list", "--data", str(tmp_path / "data"))
    assert code != 0
    assert "there is no installation in" in text
    assert "name its object store with --store" in text


def test_an_installation_has_a_store_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path / "data/archive", "a")
    monkeypatch.setattr("cluster.cli.archives.load", lambda _: layout("a"))
    code, text = run("backup", "verify", "c0", "--data", str(tmp_path / "data"))
    assert (code, text) == (0, f"5 objects of c0's archive are whole {NOBODY}")


def test_retention_is_shown_and_changed(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.make()
    save(tmp_path, layout("a", "b"))
    assert run("backup", "retention", "c1", "--data", str(tmp_path)) == (
        0,
        "c1 can be restored to any moment of the last 1 day",
    )
    assert run("backup", "retention", "c1", "35", "--data", str(tmp_path)) == (
        0,
        "c1 can be restored to any moment of the last 35 days",
    )
    changed = load(tmp_path)
    assert changed is not None
    assert [c.retention_days for c in changed.clusters] == [1, 35]
    for wrong, said in (
        (("c1", "36"), "a retention of 36 days cannot be; choose 1 to 35, and it cannot be"),
        (("c1", "0"), "a retention of 0 days cannot be"),
        (("c9", "2"), "no cluster c9 here; there is: c0, c1"),
    ):
        code, text = run("backup", "retention", *wrong, "--data", str(tmp_path))
        assert code != 0
        assert said in text
    assert load(tmp_path) == changed


def test_a_store_is_never_made_by_looking(tmp_path: Path) -> None:
    """An empty mount point is no empty store."""
    for folder in (tmp_path / "misspelt", tmp_path):
        code, text = run("backup", "list", "--store", str(folder), "--data", str(tmp_path / "data"))
        assert code != 0
        assert f"{folder} is no object store: is its disk mounted?" in text
    assert not (tmp_path / "misspelt").exists()


# -- the new cluster


def _layout() -> Layout:
    return new_layout(port=next(free_ports(31_000, taken=())), readers=0)


@pytest.mark.parametrize("breaks", ["import", "create", "both", "stop"])
def test_a_cluster_that_was_not_restored_is_taken_back(
    breaks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But none that somebody else has made of that name meanwhile."""
    deleted: list[str] = []
    size: list[int] = []

    def create(folder: Folder, name: str, **given: int) -> ClusterSpec:
        size.append(given["max_storage_bytes"])
        assert (given["retention_days"], given["backtrack_window_s"]) == (2, 36 * 3600)
        assert given["restoring"]
        ours = breaks != "both"
        layout = with_new_cluster(_layout(), name, readers=given["readers"], restoring=ours)
        save(folder.data, layout)
        if breaks == "create":
            raise Readiness("it takes no SQL", "control")
        if breaks == "stop":
            raise KeyboardInterrupt
        if not ours:
            raise ConfigError(f"there is a cluster {name} already")
        return layout.cluster(name)

    def fail(*_: object) -> None:
        raise CommandFailed("the import was refused")

    monkeypatch.setattr(clusters, "create_cluster", create)
    monkeypatch.setattr(clusters, "delete_cluster", lambda _f, name: deleted.append(name))
    monkeypatch.setattr(restore, "import_file", fail)
    path = tmp_path / "new.db"
    with path.open("wb") as file:
        file.truncate(8 << 30)
    said = {
        "import": "was refused",
        "create": "takes no SQL; see .*control",
        "both": "already",
        "stop": "^$",
    }
    with pytest.raises((CommandFailed, ConfigError, KeyboardInterrupt), match=said[breaks]):
        restore._cluster_of(Folder.at(tmp_path), "new", path, readers=0, past=Past(2, "36h"))
    assert deleted == ([] if breaks == "both" else ["new"])
    assert size == [16 << 30], "twice what is there, if that is more than the default"
