"""A SQLite database of well over 20 MB from public data: the Unicode Character Database.

Python's standard library carries the UCD (`unicodedata`) and SQLite (`sqlite3`), so this needs no
network and is made by another program than the one under test. Run it by hand:

    python tests/e2e/unicode_db.py /tmp/unicode.db
"""

from __future__ import annotations

import sqlite3
import sys
import unicodedata
from pathlib import Path

SCHEMA = """
CREATE TABLE character (
    code INTEGER PRIMARY KEY, text TEXT NOT NULL, name TEXT, category TEXT NOT NULL,
    bidirectional TEXT, combining INTEGER, mirrored BOOLEAN, width TEXT, utf8 BLOB, utf16 BLOB
);
CREATE TABLE numeric_value (code INTEGER PRIMARY KEY REFERENCES character, value REAL NOT NULL);
CREATE TABLE decomposition (
    code INTEGER REFERENCES character, position INTEGER, part INTEGER, kind TEXT,
    PRIMARY KEY (code, position)
) WITHOUT ROWID;
CREATE TABLE word (word TEXT, code INTEGER);
CREATE INDEX character_name ON character (name);
CREATE INDEX character_category ON character (category, bidirectional);
CREATE INDEX word_word ON word (word, code);
CREATE VIEW letter AS SELECT * FROM character WHERE category LIKE 'L%';
"""


def build(path: Path) -> None:
    """Write the database to `path` (about 30 MB, five seconds)."""
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        category = unicodedata.category(char)
        if category not in ("Cn", "Co", "Cs"):
            _character(database, code, char, category)
    database.commit()
    database.close()


def _character(database: sqlite3.Connection, code: int, char: str, category: str) -> None:
    name = unicodedata.name(char, None)
    database.execute(
        "INSERT INTO character VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            code,
            char,
            name,
            category,
            unicodedata.bidirectional(char),
            unicodedata.combining(char),
            unicodedata.mirrored(char),
            unicodedata.east_asian_width(char),
            char.encode(),
            char.encode("utf-16-be"),
        ),
    )
    if (value := unicodedata.numeric(char, None)) is not None:
        database.execute("INSERT INTO numeric_value VALUES (?,?)", (code, value))
    parts = unicodedata.decomposition(char).split()
    kind = parts.pop(0) if parts and parts[0].startswith("<") else None
    database.executemany(
        "INSERT INTO decomposition VALUES (?,?,?,?)",
        [(code, i, int(part, 16), kind) for i, part in enumerate(parts)],
    )
    database.executemany("INSERT INTO word VALUES (?,?)", [(w, code) for w in (name or "").split()])


if __name__ == "__main__":
    build(Path(sys.argv[1]))
