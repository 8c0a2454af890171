"""SQLite's errors as SQLSTATEs, which is what PostgreSQL clients decide on.

SQLite says much by result code (constraints by extended ones) and the rest, everything that is
plain SQLITE_ERROR, by message only. The messages are those of SQLite 3.54; an unknown one becomes
42000.
"""

from __future__ import annotations

import re
from typing import Final

import apsw

from engine.errors import QueryCanceled, ReadOnly, SextetError, SqlError

SYNTAX_ERROR: Final = "42601"
IN_FAILED_TRANSACTION: Final = "25P02"
NO_ACTIVE_TRANSACTION: Final = "25P01"
ACTIVE_TRANSACTION: Final = "25001"
INVALID_CURSOR: Final = "34000"
INVALID_SAVEPOINT: Final = "3B001"
OUT_OF_RANGE: Final = "22003"
BAD_CHARACTER: Final = "22021"
PLAN_CHANGED: Final = "0A000"
NOT_SUPPORTED: Final = "0A000"
NO_PRIVILEGE: Final = "42501"
INTERNAL: Final = "XX000"


class SessionBusy(SqlError):
    """One session is one connection: two tasks may not use it at the same time."""

    sqlstate = "55006"


class SessionClosed(SqlError):
    """The session, or the engine below it, was closed."""

    sqlstate = "57P01"


_BY_EXTENDED: Final = {
    apsw.SQLITE_CONSTRAINT_UNIQUE: "23505",
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY: "23505",
    apsw.SQLITE_CONSTRAINT_ROWID: "23505",
    apsw.SQLITE_CONSTRAINT_NOTNULL: "23502",
    apsw.SQLITE_CONSTRAINT_CHECK: "23514",
    apsw.SQLITE_CONSTRAINT_FOREIGNKEY: "23503",
    apsw.SQLITE_CONSTRAINT_TRIGGER: "P0001",
    apsw.SQLITE_CONSTRAINT_DATATYPE: "42804",
}

_BY_RESULT: Final = {
    apsw.SQLITE_CONSTRAINT: "23000",
    apsw.SQLITE_MISMATCH: "42804",
    apsw.SQLITE_TOOBIG: "54000",
    apsw.SQLITE_FULL: "53100",
    apsw.SQLITE_NOMEM: "53200",
    apsw.SQLITE_READONLY: "25006",
    apsw.SQLITE_INTERRUPT: "57014",
    apsw.SQLITE_CORRUPT: "XX001",
    apsw.SQLITE_NOTADB: "XX001",
    apsw.SQLITE_IOERR: "58030",
    apsw.SQLITE_AUTH: NO_PRIVILEGE,
    apsw.SQLITE_ABORT: "40000",
    apsw.SQLITE_RANGE: "42P02",
    apsw.SQLITE_SCHEMA: PLAN_CHANGED,
    apsw.SQLITE_LOCKED: "55006",
    apsw.SQLITE_BUSY: "55006",
}

_BY_MESSAGE: Final = tuple(
    (re.compile(pattern), sqlstate)
    for pattern, sqlstate in (
        (r"no such (table|view|index|trigger|module)\b(?!.* column)", "42P01"),
        (r"no such column|has no column named", "42703"),
        (r"no such function|wrong number of arguments to function", "42883"),
        (r"no such savepoint", INVALID_SAVEPOINT),
        (r"no such collation", "42704"),
        (r"unable to identify the object", "42P01"),
        (r"(table|view|index|trigger) .* already exists|there is already an?\b", "42P07"),
        (r"duplicate column name", "42701"),
        (r"ambiguous column name", "42702"),
        (r"syntax error|incomplete input|unrecognized token|parser stack", SYNTAX_ERROR),
        (r"but \d+ values were supplied|values for \d+ columns|number of result columns", "42601"),
        (r"variable number must be", "42P02"),
        (r"object name reserved", "42939"),
        (r"may not be (dropped|modified|indexed|altered)|is not modifiable", NO_PRIVILEGE),
        (r"cannot modify .* because it is a view|use DROP (TABLE|VIEW)", "42809"),
        (r"from within a transaction|within a transaction", ACTIVE_TRANSACTION),
        (r"no transaction is active", NO_ACTIVE_TRANSACTION),
        (r"integer overflow", OUT_OF_RANGE),
        (r"malformed JSON", "22P02"),
        (r"aggregate|misuse of window function", "42803"),
        (r"not authorized|prohibited|unsafe use of|access to", NO_PRIVILEGE),
        (r"too many|too large|too long|too complex|limit|maximum depth", "54000"),
        (r"foreign key mismatch", "42830"),
        (r"cannot add a (PRIMARY KEY|UNIQUE|NOT NULL)", NOT_SUPPORTED),
        (r"datatype mismatch|cannot store", "42804"),
        (r"database schema has changed", PLAN_CHANGED),
    )
)


def from_sqlite(error: apsw.Error, sql: str = "") -> SqlError:
    """The SqlError for what APSW raised while preparing or running `sql`."""
    message = str(error)
    result: int = getattr(error, "result", -1)
    extended: int = getattr(error, "extendedresult", -1)
    if result == apsw.SQLITE_INTERRUPT:
        return QueryCanceled(message)
    if result == apsw.SQLITE_READONLY:
        return ReadOnly(message)
    sqlstate = _BY_EXTENDED.get(extended) or _BY_RESULT.get(result)
    if sqlstate is None:
        sqlstate = _state_of_message(message)
    return SqlError(message, sqlstate=sqlstate, position=_position(error, sql))


def _state_of_message(message: str) -> str:
    for pattern, sqlstate in _BY_MESSAGE:
        if pattern.search(message):
            return sqlstate
    return "42000"


def _position(error: apsw.Error, sql: str) -> int:
    """1-based character offset; SQLite counts UTF-8 bytes from 0, with -1 for "nowhere"."""
    offset = getattr(error, "error_offset", -1)
    if offset < 0:
        return 0
    return len(sql.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore")) + 1


def as_sql_error(error: Exception, sql: str = "") -> SqlError:
    """Whatever running a statement raised, as what the client is told."""
    match error:
        case SqlError():
            return error
        case SextetError():
            return SqlError(str(error), sqlstate=error.sqlstate)
        case apsw.BindingsError():
            return SqlError(str(error), sqlstate="08P01")
        case apsw.Error(__cause__=SextetError() as cause):
            return SqlError(str(cause), sqlstate=cause.sqlstate)  # it came up through a VFS call
        case apsw.Error():
            return from_sqlite(error, sql)
        case OverflowError():
            return SqlError("an integer is out of range for 64 bits", sqlstate=OUT_OF_RANGE)
        case UnicodeEncodeError():
            return SqlError("text with a lone surrogate is no UTF-8", sqlstate=BAD_CHARACTER)
        case UnicodeDecodeError():
            return SqlError(f"text that is no UTF-8: {error}", sqlstate=BAD_CHARACTER)
        case MemoryError():
            return SqlError("out of memory", sqlstate="53200")
        case _:
            raise error
