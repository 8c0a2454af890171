"""What a hosted SQLite must not do: leave its volume, loosen its own rules, or eat the machine.

Anybody who can connect may send any SQL, so nothing here trusts it. Three layers: SQLite's own
switches (defensive mode, untrusted schema, no double-quoted strings), limits, and an authorizer that
sees every action while a statement is prepared. What is not listed as allowed is refused.
"""

from __future__ import annotations

from typing import Final

import apsw

from engine.errors import FeatureNotSupported, SqlError
from engine.sql.errors import NO_PRIVILEGE
from engine.sql.settings import SqlSettings

_SWITCHES: Final = (
    (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
    (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DML, 0),
    (apsw.SQLITE_DBCONFIG_DQS_DDL, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1),  # PostgreSQL's users expect them enforced
)

_LIMITS: Final = (
    (apsw.SQLITE_LIMIT_ATTACHED, 0),
    (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
    (apsw.SQLITE_LIMIT_COLUMN, 2000),
    (apsw.SQLITE_LIMIT_EXPR_DEPTH, 500),
    (apsw.SQLITE_LIMIT_COMPOUND_SELECT, 500),
    (apsw.SQLITE_LIMIT_FUNCTION_ARG, 127),
    (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 10_000),
    (apsw.SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (apsw.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
    (apsw.SQLITE_LIMIT_VDBE_OP, 25_000_000),
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PRAGMAS_READ: Final = _names(
    # without an argument only
    "application_id collation_list compile_options data_version database_list encoding"
    " freelist_count function_list max_page_count module_list page_count page_size pragma_list"
    " schema_version"
)
_PRAGMAS: Final = _names(
    # an argument names what to look at, or changes only this session or the user's own number
    "automatic_index case_sensitive_like defer_foreign_keys foreign_key_check foreign_key_list"
    " foreign_keys index_info index_list index_xinfo integrity_check quick_check"
    " recursive_triggers reverse_unordered_selects shrink_memory table_info table_list table_xinfo"
    " user_version"
)
_FUNCTIONS_DENIED: Final = _names(
    "edit fts3_tokenizer geopoly_debug load_extension readfile sqlite_log writefile zipfile"
)
_MODULES: Final = _names("fts3 fts4 fts4aux fts5 fts5vocab geopoly rtree rtree_i32")


class Guard:
    """The authorizer of one connection. `denied` says why the last statement was refused."""

    def __init__(self) -> None:
        self.denied: SqlError | None = None
        self.trusted = False
        """A statement of our own is being prepared."""
        self.vacuuming = False
        """VACUUM copies through a temporary database that it attaches itself."""

    def __call__(
        self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None
    ) -> int:
        reason = self._reason(action, (first or "").lower(), second)
        if reason is None:
            return apsw.SQLITE_OK
        self.denied = reason
        return apsw.SQLITE_DENY

    def _reason(self, action: int, first: str, second: str | None) -> SqlError | None:
        match action:
            case apsw.SQLITE_ATTACH if self.vacuuming and first:
                return FeatureNotSupported("VACUUM INTO is not supported; use sextet export")
            case apsw.SQLITE_ATTACH | apsw.SQLITE_DETACH if not self.vacuuming:
                return FeatureNotSupported("ATTACH and DETACH are not supported")
            case apsw.SQLITE_PRAGMA if not self.trusted:
                return _pragma_reason(first, second)
            case apsw.SQLITE_FUNCTION if (second or "").lower() in _FUNCTIONS_DENIED:
                return SqlError(f"permission denied for function {second}", sqlstate=NO_PRIVILEGE)
            case apsw.SQLITE_CREATE_VTABLE if (second or "").lower() not in _MODULES:
                return FeatureNotSupported(
                    f"virtual tables of module {second} are not supported",
                    hint=f"Supported: {', '.join(sorted(_MODULES))}.",
                )
            case _:
                return None

    def take(self) -> SqlError | None:
        """Why SQLite was told to refuse, if it was; asked once."""
        denied, self.denied = self.denied, None
        return denied


def _pragma_reason(name: str, argument: str | None) -> SqlError | None:
    if name in _PRAGMAS or (name in _PRAGMAS_READ and argument is None):
        return None
    allowed = "can only be read" if name in _PRAGMAS_READ else "is not allowed"
    return SqlError(f"PRAGMA {name} {allowed} here", sqlstate=NO_PRIVILEGE)


def harden(db: apsw.Connection, settings: SqlSettings) -> Guard:
    """Apply switches, limits and the authorizer. After it, no pragma of ours can run any more."""
    for switch, value in _SWITCHES:
        if db.config(switch, value) != value:
            raise AssertionError(f"SQLite did not take switch {switch} = {value}")
    for limit, value in _LIMITS:
        db.limit(limit, value)
    db.limit(apsw.SQLITE_LIMIT_LENGTH, settings.value_bytes_max)
    db.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, settings.sql_bytes_max)
    guard = Guard()
    db.authorizer = guard
    return guard


def limit_heap(settings: SqlSettings) -> None:
    """SQLite's heap limits, which hold for the whole process."""
    apsw.hard_heap_limit(settings.heap_bytes_max)
    apsw.soft_heap_limit(settings.heap_bytes_max // 4 * 3)
