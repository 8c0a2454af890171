"""Statements that PostgreSQL clients send and SQLite does not know. Pure but for the session's settings.

`answer` recognises one statement and says what to reply, or that SQL text should be run in its place,
or None: then it is for SQLite. Settings that Sextet has no use for are kept, so that SHOW tells a
client what it SET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from engine.errors import FeatureNotSupported, SqlError
from engine.sql.settings import SessionSettings
from engine.sql.tokens import Token, tokens

VERSION = "15.0 (Sextet 0.1.0)"


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply without SQLite: rows of text under `columns`, or none, and the command tag.

    With `instead` that SQL is run and `tag`, if any, replaces its tag.
    """

    tag: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    instead: str | None = None
    notice: str = ""
    changed: tuple[str, str] | None = None
    """A setting that the client is told of (ParameterStatus)."""
    forget: str | None = None
    """Prepared statements to drop: a name, or "*"."""


@dataclass
class Settings:
    """A session's run-time parameters: ours, those with an effect in `sql`, and any others."""

    sql: SessionSettings
    in_recovery: bool
    database: str
    user: str
    defaults: SessionSettings
    values: dict[str, str] = field(default_factory=dict)

    def show(self, name: str) -> str:
        """Raises SqlError 42704 for one that nobody knows."""
        match name:
            case "statement_timeout":
                return _duration(self.sql.statement_timeout_s)
            case "lock_timeout":
                return _duration(self.sql.lock_timeout_s)
            case "default_transaction_read_only":
                return _on(self.sql.read_only or self.in_recovery)
            case "transaction_read_only":
                return _on(self.sql.read_only or self.in_recovery)
            case "in_hot_standby":
                return _on(self.in_recovery)
        found = self.values.get(name, _FIXED.get(name))
        if found is None:
            raise SqlError(f'unrecognized configuration parameter "{name}"', sqlstate="42704")
        return found

    def set(self, name: str, value: str) -> None:
        """Raises SqlError 22023 or 55P02 for a value or a setting that cannot be."""
        value = value.strip("'\"")  # asyncpg quotes values in the start-up packet
        match name:
            case "statement_timeout":
                self.sql.statement_timeout_s = _seconds(name, value)
            case "lock_timeout":
                self.sql.lock_timeout_s = _seconds(name, value)
            case "default_transaction_read_only":
                self.sql.read_only = _flag(name, value)
            case "client_encoding" if value.upper().replace("-", "") not in ("UTF8", "UNICODE"):
                raise SqlError(
                    f"client_encoding {value} is not supported, UTF8 is", sqlstate="22023"
                )
            case "server_version" | "server_encoding" | "in_hot_standby" | "transaction_isolation":
                raise SqlError(f'parameter "{name}" cannot be changed', sqlstate="55P02")
            case _:
                self.values[name] = value

    def reset(self, name: str | None) -> None:
        """One, or all with None."""
        if name in (None, "statement_timeout"):
            self.sql.statement_timeout_s = self.defaults.statement_timeout_s
        if name in (None, "lock_timeout"):
            self.sql.lock_timeout_s = self.defaults.lock_timeout_s
        if name in (None, "default_transaction_read_only"):
            self.sql.read_only = self.defaults.read_only
        if name is None:
            self.values.clear()
        else:
            self.values.pop(name, None)


_FIXED = {
    "server_version": VERSION,
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
    "application_name": "",
    "is_superuser": "off",
    "transaction_isolation": "serializable",
    "default_transaction_isolation": "serializable",
    "search_path": '"$user", public',
    "max_identifier_length": "63",
    "extra_float_digits": "1",
    "server_version_num": "150000",
}

REPORTED = {
    "server_version": "server_version",
    "server_encoding": "server_encoding",
    "client_encoding": "client_encoding",
    "datestyle": "DateStyle",
    "intervalstyle": "IntervalStyle",
    "integer_datetimes": "integer_datetimes",
    "standard_conforming_strings": "standard_conforming_strings",
    "timezone": "TimeZone",
    "application_name": "application_name",
    "is_superuser": "is_superuser",
    "default_transaction_read_only": "default_transaction_read_only",
    "in_hot_standby": "in_hot_standby",
}
"""Settings whose value every client is told at start and at each change, as PostgreSQL spells them."""


def _on(value: bool) -> str:
    return "on" if value else "off"


_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(name: str, value: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d|)\s*", value)
    if not found:
        raise SqlError(f'invalid value for parameter "{name}": "{value}"', sqlstate="22023")
    return float(found[1]) * _UNITS[found[2]]


def _duration(seconds: float) -> str:
    ms = round(seconds * 1000)
    if ms and ms % 60_000 == 0:
        return f"{ms // 60_000}min"
    return f"{ms // 1000}s" if ms and ms % 1000 == 0 else f"{ms}ms" if ms else "0"


def _flag(name: str, value: str) -> bool:
    if value.lower() in ("on", "true", "yes", "1"):
        return True
    if value.lower() in ("off", "false", "no", "0"):
        return False
    raise SqlError(f'invalid value for parameter "{name}": "{value}"', sqlstate="22023")


def statements(sql: str) -> Iterator[str]:
    """The statements of a query string, without their semicolons; triggers' bodies stay whole."""
    if ";" not in sql.rstrip("; \n\t"):
        if any(True for _ in tokens(sql.rstrip("; \n\t"))):
            yield sql
        return
    start, depth, trigger = 0, 0, False
    words: list[str] = []
    for token in tokens(sql):
        if token.kind == "word" and len(words) < 4:
            words.append(token.upper)
            trigger = trigger or (words[0] == "CREATE" and token.upper == "TRIGGER")
        if trigger and token.kind == "word":
            depth += token.upper in ("BEGIN", "CASE")
            depth -= token.upper == "END"
        if token.text == ";" and depth == 0:
            if words or sql[start : token.start].strip():
                yield sql[start : token.start]
            start, words, trigger = token.start + 1, [], False
    if any(True for _ in tokens(sql[start:])):
        yield sql[start:]


_SELECT = re.compile(r"\s*select\b", re.IGNORECASE)
_BARE_SELECT = re.compile(r"\s*select\s+[\w.]+\s*(\(\s*\))?(\s+as\s+\S+)?\s*;?\s*$", re.IGNORECASE)


def answer(sql: str, settings: Settings) -> Answer | None:
    """What to reply to one statement, None if it is SQLite's. Raises SqlError."""
    if _BARE_SELECT.match(sql) is None and _SELECT.match(sql) is not None:
        return None  # the common case, told apart cheaply
    first = next(tokens(sql), None)
    if first is None or first.kind != "word" or first.upper not in _ANSWERS:
        return None
    found = [token for token in tokens(sql) if token.text != ";"]
    return _ANSWERS[first.upper](found, settings)


def _set(found: list[Token], settings: Settings) -> Answer:
    words = found[1:]
    if words and words[0].upper in ("SESSION", "LOCAL"):
        words = words[1:]
    if words and words[0].upper in ("TRANSACTION", "CHARACTERISTICS"):
        return Answer("SET")
    if len(words) >= 2 and words[0].upper == "TIME" and words[1].upper == "ZONE":
        words = [Token("word", "timezone", 0), Token("other", "=", 0), *words[2:]]
    if len(words) < 3 or words[1].upper not in ("=", "TO"):
        name, rest = _dotted(words)
        if not name or len(rest) < 2 or rest[0].upper not in ("=", "TO"):
            raise SqlError("SET name = value", sqlstate="42601")
        words = [Token("word", name, 0), *rest]
    name = _plain(words[0]).lower()
    value = "".join(_plain(token) if token.text != "," else ", " for token in words[2:])
    if value.upper() == "DEFAULT":
        settings.reset(name)
    else:
        settings.set(name, value)
    return Answer("SET", changed=(name, settings.show(name)) if name in REPORTED else None)


def _dotted(words: list[Token]) -> tuple[str, list[Token]]:
    """A name of several parts, such as `sextet.read_consistency`, and what follows it."""
    if len(words) >= 3 and words[1].text == ".":
        return f"{_plain(words[0])}.{_plain(words[2])}", words[3:]
    return "", words


def _plain(token: Token) -> str:
    if token.kind == "string":
        return token.text[1:-1].replace("''", "'")
    return token.text[1:-1] if token.kind == "quoted" else token.text


def _show(found: list[Token], settings: Settings) -> Answer:
    words = [_plain(token).lower() for token in found[1:]]
    name = "".join(words)
    if words == ["transaction", "isolation", "level"]:
        name = "transaction_isolation"
    if words == ["time", "zone"]:
        name = "timezone"
    if name == "all":
        names = sorted({*_FIXED, *settings.values, "statement_timeout", "lock_timeout"})
        rows = tuple((n, settings.show(n)) for n in names)
        return Answer("SHOW", ("name", "setting"), rows)
    return Answer("SHOW", (name,), ((settings.show(name),),))


def _reset(found: list[Token], settings: Settings) -> Answer:
    name = "".join(_plain(token).lower() for token in found[1:])
    settings.reset(None if name == "all" else name)
    return Answer("RESET")


def _discard(found: list[Token], settings: Settings) -> Answer:
    settings.reset(None)
    return Answer("DISCARD ALL", forget="*")


def _deallocate(found: list[Token], settings: Settings) -> Answer:
    names = [token for token in found[1:] if token.upper != "PREPARE"]
    everything = bool(names) and names[0].upper == "ALL"
    if everything:
        return Answer("DEALLOCATE ALL", forget="*")
    return Answer("DEALLOCATE", forget=_plain(names[0]) if names else "")


def _listen(found: list[Token], settings: Settings) -> Answer:
    raise FeatureNotSupported(f"{found[0].upper} is not supported")


def _vacuum(found: list[Token], settings: Settings) -> Answer:
    return Answer("VACUUM", notice="VACUUM has nothing to do here: storage nodes collect garbage")


def _analyze(found: list[Token], settings: Settings) -> Answer:
    names = [token.text for token in found[1:] if token.kind in ("word", "quoted")]
    return Answer(instead=f"ANALYZE {names[0]}" if names else "ANALYZE", tag="ANALYZE")


def _truncate(found: list[Token], settings: Settings) -> Answer:
    names = [t for t in found[1:] if t.kind in ("word", "quoted") and t.upper != "TABLE"]
    if len(names) != 1:
        raise FeatureNotSupported("TRUNCATE takes one table here")
    return Answer(instead=f"DELETE FROM {names[0].text}", tag="TRUNCATE TABLE")


def _select(found: list[Token], settings: Settings) -> Answer | None:
    """Functions without arguments that drivers ask for, alone in a SELECT."""
    words = [token.text.lower() for token in found[1:]]
    if "as" in words[-2:-1]:
        words, label = words[:-2], _plain(found[-1])
    else:
        label = ""
    if words[:2] == ["pg_catalog", "."]:
        words = words[2:]
    call = "".join(words).removesuffix("()")
    known: dict[str, str | None] = {
        "version": f"PostgreSQL {VERSION}",
        "current_database": settings.database,
        "current_catalog": settings.database,
        "current_user": settings.user,
        "session_user": settings.user,
        "user": settings.user,
        "current_schema": "public",
        "pg_is_in_recovery": "t" if settings.in_recovery else "f",
        "pg_advisory_unlock_all": None,
    }
    if call not in known:
        return None
    return Answer("SELECT 1", (label or call,), ((known[call],),))


_Rule = Callable[[list[Token], Settings], Answer | None]
_ANSWERS: dict[str, _Rule] = {
    "SET": _set,
    "SHOW": _show,
    "RESET": _reset,
    "DISCARD": _discard,
    "DEALLOCATE": _deallocate,
    "CLOSE": lambda found, settings: Answer("CLOSE CURSOR ALL"),
    "UNLISTEN": lambda found, settings: Answer("UNLISTEN"),
    "LISTEN": _listen,
    "NOTIFY": _listen,
    "COPY": _listen,
    "VACUUM": _vacuum,
    "ANALYZE": _analyze,
    "TRUNCATE": _truncate,
    "SELECT": _select,
}


# -- casts


def without_casts(sql: str) -> str:
    """`primary::type` as CAST(primary AS type); SQLite has no `::`. Anything else is untouched."""
    while "::" in sql:
        rewritten = _first_cast(sql)
        if rewritten is None:
            return sql
        sql = rewritten
    return sql


_TYPE = re.compile(
    r"::\s*([A-Za-z_]\w*(?:\s+(?:precision|varying))?(?:\s*\(\s*\d+(?:\s*,\s*\d+)?\s*\))?)"
)


def _first_cast(sql: str) -> str | None:
    found = list(tokens(sql))
    for at, token in enumerate(found):
        if token.text.startswith(":") and at and sql[token.start : token.start + 2] == "::":
            kind = _TYPE.match(sql, token.start)
            start = _primary_start(found, at - 1)
            if kind is None or start is None:
                return None
            primary = sql[found[start].start : token.start].rstrip()
            affinity = _AFFINITY.get(kind[1].split("(")[0].strip().lower(), "TEXT")
            cast = f"CAST({primary} AS {affinity})"
            return sql[: found[start].start] + cast + sql[kind.end() :]
    return None


def _primary_start(found: list[Token], at: int) -> int | None:
    """Where the operand that ends at token `at` begins: a token, `f(...)` or `(...)`."""
    if found[at].text != ")":
        return at if found[at].kind in ("string", "number", "dollar", "word", "quoted") else None
    depth = 0
    for back in range(at, -1, -1):
        depth += (found[back].text == ")") - (found[back].text == "(")
        if depth == 0:
            before = found[back - 1] if back else None
            called = before is not None and (
                before.kind == "quoted" or (before.kind == "word" and before.upper not in _KEYWORDS)
            )
            return back - 1 if called else back
    return None


_KEYWORDS = frozenset(
    {
        "SELECT",
        "DISTINCT",
        "ALL",
        "WHERE",
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "LIKE",
        "GLOB",
        "BETWEEN",
    }
    | {"VALUES", "ON", "BY", "FROM", "SET", "WHEN", "THEN", "ELSE", "CASE", "RETURNING", "HAVING"}
    | {"LIMIT", "OFFSET", "USING", "AS", "UNION", "EXCEPT", "INTERSECT"}
)
"""Words before a parenthesis that call nothing."""

_AFFINITY = {
    **dict.fromkeys(
        ("int", "int2", "int4", "int8", "integer", "bigint", "smallint", "oid"), "INTEGER"
    ),
    **dict.fromkeys(("bool", "boolean"), "BOOLEAN"),
    **dict.fromkeys(("float4", "float8", "real", "double precision", "float"), "REAL"),
    **dict.fromkeys(("numeric", "decimal"), "NUMERIC"),
    "bytea": "BLOB",
}
"""SQLite's type to cast to; everything else is text."""
