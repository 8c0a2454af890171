"""Object stores by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local.folder import Folder
from cluster.local.layout import Layout
from cluster.local.store import (
    make_store,
    missing_for,
    open_store,
    store_name,
    store_of,
    with_archives,
)
from engine.errors import ConfigError, Unavailable
from engine.net.objects import FolderStore
from engine.net.s3 import S3Objects, missing_credentials
from tests.cluster.control.test_catalog import make_layout
from tests.support.s3 import BUCKET, S3Server


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_name("some/folder") == str(tmp_path / "some/folder")
    assert store_name("s3://bucket/a/") == "s3://bucket/a"
    for wrong in ("http://bucket/a", "s3://", "gs://bucket"):
        with pytest.raises(ConfigError, match="s3://BUCKET/PREFIX"):
            store_name(wrong)


def test_a_store_is_opened_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path / "folder")
    with pytest.raises(Unavailable, match="no object store"):
        open_store(folder)
    make_store(folder)
    found = open_store(folder)
    assert isinstance(found, FolderStore)
    found.close()
    with S3Server() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        make_store(f"s3://{BUCKET}/a")
        assert isinstance(open_store(f"s3://{BUCKET}/a"), S3Objects)
        with pytest.raises(Unavailable, match=f"has no bucket {BUCKET}-other; create it"):
            make_store(f"s3://{BUCKET}-other/a")


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"),
        ({"AWS_PROFILE": "me"}, "are not set; AWS_PROFILE is not read"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ""),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}, ""),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}, ""),
    ],
)
def test_what_the_environment_lacks_is_said(environ: dict[str, str], missing: str) -> None:
    found = missing_credentials(environ)
    assert missing in found
    assert bool(missing) == bool(found)


def test_a_folder_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert missing_for("/folder") == ""
    assert "AWS_ACCESS_KEY_ID" in missing_for("s3://bucket")


def test_what_s3_needs_is_not_loaded_without_it() -> None:
    code = (
        "import sys, cluster.archiver.__main__, cluster.cli.app, cluster.local.store\n"
        "from cluster.cli import archives, up\n"
        "assert 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- an installation's store


def has_store(folder: Folder, layout: Layout) -> bool:
    try:
        open_store(store_of(folder, layout)).close()
    except Unavailable:
        return False
    return True


def test_who_names_no_store_has_one_in_the_data_folder(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path / "data")
    made = with_archives(folder, make_layout())
    assert made.store == "", "the data folder may be moved"
    assert store_of(folder, made) == str(tmp_path / "data/archive")
    assert has_store(folder, made)
    name = made.cluster("main").archive
    assert name.startswith("main-")
    again = with_archives(folder, made)
    assert again.cluster("main").archive == name
    assert with_archives(folder, made, str(tmp_path / "data/archive")).store == ""


def test_a_store_of_our_own_that_is_gone_is_made_again_and_a_mount_point_is_not(
    tmp_path: Path,
) -> None:
    """Else storage nodes would keep their log for ever."""
    folder = Folder.at(tmp_path)
    made = with_archives(folder, make_layout())
    folder.archive.rename(tmp_path / "elsewhere")
    assert has_store(folder, with_archives(folder, made))
    (folder.archive / ".sextet-objects").unlink()
    assert not has_store(folder, with_archives(folder, made))


def test_a_store_that_was_named_is_made_once_and_never_again(tmp_path: Path) -> None:
    folder, store = Folder.at(tmp_path / "data"), tmp_path / "store"
    made = with_archives(folder, make_layout(), str(store))
    assert has_store(folder, made)
    assert not folder.archive.exists()
    store.rename(tmp_path / "not-mounted")
    assert not has_store(folder, with_archives(folder, made))
    assert not has_store(folder, with_archives(folder, made, str(store)))
    other = with_archives(folder, made, str(tmp_path / "other"))
    assert has_store(folder, other)
    assert other.cluster("main").archive == made.cluster("main").archive
