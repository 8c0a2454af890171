"""SQLite database files on their way in and out: checked, and never changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from cluster.cli.errors import CommandFailed
from cluster.cli.room import room
from engine.sql.header import MAGIC
from engine.types import PAGE_SIZE

_WAL_VERSION = 2  # at offsets 18 and 19 of the header; 1 is a rollback journal
PROBLEMS_SHOWN = 3


def open_read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


def check_integrity(database: sqlite3.Connection, path: Path) -> None:
    """Raises CommandFailed with what `PRAGMA integrity_check` found."""
    try:
        rows = database.execute("PRAGMA integrity_check").fetchmany(PROBLEMS_SHOWN)
    except sqlite3.Error as error:
        raise CommandFailed(f"{path} is no sound SQLite database: {error}") from error
    if rows != [("ok",)]:
        problems = "; ".join(" ".join(str(row[0]).split()) for row in rows)
        raise CommandFailed(f"{path} fails its integrity check: {problems}")


def require_sqlite(path: Path) -> None:
    """Raises CommandFailed if `path` is not a file that begins like a SQLite database."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise CommandFailed(f"{path} is empty; there is nothing to import")
    if head != MAGIC:
        raise CommandFailed(f"{path} is not a SQLite database")


@contextmanager
def importable(path: Path, scratch: Path) -> Iterator[Path]:
    """A file with the same content in 4 KiB pages and no write-ahead log, stable while in use.

    That is `path` itself under a read lock if it is like that, else a copy below `scratch` that is
    gone afterwards. Raises CommandFailed if the database is broken.
    """
    require_sqlite(path)
    with closing(open_read_only(path)) as database:
        try:
            # A read transaction: other programs cannot change the file under our hands.
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise CommandFailed(f"{path} cannot be opened: {error}") from error
        check_integrity(database, path)
        if _fits(database, path):
            yield path
            return
        database.rollback()
        with room(scratch) as folder:
            copy = folder / "database"
            try:
                database.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                database.execute("VACUUM INTO ?", (str(copy),))
            except sqlite3.Error as error:
                raise CommandFailed(f"{path} cannot be copied: {error}") from error
            with closing(open_read_only(copy)) as copied:
                check_integrity(copied, path)
                if not _fits(copied, copy):
                    raise CommandFailed(f"{path} cannot be brought into {PAGE_SIZE}-byte pages")
            yield copy


def _fits(database: sqlite3.Connection, path: Path) -> bool:
    """Whether the file's bytes are the database as it is, page after 4 KiB page."""
    (page_size,) = database.execute("PRAGMA page_size").fetchone()
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    with path.open("rb") as file:
        header = file.read(100)
    return (
        page_size == PAGE_SIZE
        and path.stat().st_size == pages * PAGE_SIZE
        and _WAL_VERSION not in header[18:20]
    )
