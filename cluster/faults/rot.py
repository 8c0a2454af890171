"""Bit rot on a real disk: flipping a bit of what a storage node has stored, behind its back.

The node may be running: a page version is changed by a transaction of our own on its SQLite file, a
log file by writing one byte in place. What the node has in memory stays good, as with real rot.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from engine.log.frame import index_frame
from engine.storage.walfile import Found, scan_file
from engine.types import LSN, PageNo

BUSY_S = 10.0


@dataclass(frozen=True, slots=True)
class Rotten:
    """The page and the LSN whose bytes are bad now."""

    page: PageNo
    lsn: LSN


def lock_pages(folder: Path) -> sqlite3.Connection | None:
    """The node's page store with its write lock taken; the caller closes it. None if there is none."""
    path = folder / "node.db"
    if not path.exists():
        return None
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    return db


def rot_page(db: sqlite3.Connection, page: PageNo | None) -> Rotten | None:
    """Flip a bit in the newest stored version of `page`, or of all pages; None if there is none."""
    found = db.execute(
        "SELECT rowid, page, lsn, image FROM page_version WHERE ?1 IS NULL OR page = ?1"
        " ORDER BY lsn DESC LIMIT 1",
        (page,),
    ).fetchone()
    if found is None:
        return None
    row, number, lsn, image = found
    rotten = bytearray(image)
    rotten[len(rotten) // 2] ^= 1
    db.execute("UPDATE page_version SET image = ? WHERE rowid = ?", (bytes(rotten), row))
    db.execute("COMMIT")
    return Rotten(number, lsn)


def rot_log(folder: Path, page: PageNo | None) -> Rotten | None:
    """Flip a bit in the newest frame of the log that has a record of `page`, or of all frames."""
    files = sorted((folder / "wal").glob("*.wal"), reverse=True)
    for path in files:
        data = path.read_bytes()
        scanned = scan_file(data, int(path.stem), last=path == files[0])
        for item in reversed(scanned.items):
            if not isinstance(item, Found):
                continue
            lsns = {r.page: r.lsn for r in index_frame(item.frame)}
            if page is not None and page not in lsns:
                continue
            number = max(lsns, key=lambda p: lsns[p]) if page is None else page
            _flip(path, item.location.offset + item.header.size)
            return Rotten(number, lsns[number])
    return None


def _flip(path: Path, offset: int) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(handle, 1, offset)[0]
        os.pwrite(handle, bytes([byte ^ 1]), offset)
    finally:
        os.close(handle)
