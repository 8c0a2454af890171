"""Statements that PostgreSQL clients send and SQLite does not know. Pure but for the session's settings.

`answer` recognises one statement and says what to reply, or that SQL text should be run in its place,
or None: then it is for SQLite. Settings that Sextet has no use for are kept, so that SHOW tells a
client what it SET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from engine.errors import ConfigError, FeatureNotSupported, SqlError
from engine.faults.bysql import VOLUME_COLUMNS
from engine.faults.statements import VOLUME_STATUS, FaultStatement, parse_alter_system
from engine.moments import NEWEST, Moment, parse_moment
from engine.sql.settings import ReadConsistency, SessionSettings
from engine.sql.tokens import Token, tokens
from engine.types import LSN

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
    read_only: bool | None = None
    """What the running transaction is to be, if it says so."""
    fault: FaultStatement | None = None
    """To be carried out; the rows are what comes of that."""


@dataclass
class Settings:
    """A session's run-time parameters: ours, those with an effect in `sql`, and any others."""

    sql: SessionSettings
    in_recovery: bool
    database: str
    user: str
    defaults: SessionSettings
    points: Callable[[], Mapping[str, LSN]] = dict
    """LSNs that can be shown and not set: `engine.sql.session.Session.points`."""
    clock_us: Callable[[], int] = int
    """What relative times are relative to: Unix microseconds."""
    values: dict[str, str] = field(default_factory=dict)
    before_local: dict[str, str | None] = field(default_factory=dict)
    """What SET LOCAL has changed, to be set again at the end of the transaction; None: was not set."""

    def probe(self) -> Settings:
        """A copy, to see what a statement would do without its being done."""
        return replace(
            self,
            sql=replace(self.sql),
            values=dict(self.values),
            before_local=dict(self.before_local),
        )

    def end_transaction(self) -> None:
        """Undo SET LOCAL."""
        before, self.before_local = self.before_local, {}
        for name, value in before.items():
            if value is None:
                self.reset(name)
            else:
                self.set(name, value)

    def show(self, name: str) -> str:
        """Raises SqlError 42704 for one that nobody knows."""
        match name:
            case "statement_timeout":
                return _duration(self.sql.statement_timeout_s)
            case "lock_timeout":
                return _duration(self.sql.lock_timeout_s)
            case "sextet.read_consistency":
                return self.sql.read_consistency.value
            case "sextet.wait_for":
                return str(self.sql.wait_for)
            case "sextet.read_as_of":
                return str(self.sql.read_as_of)
            case "sextet.last_commit" | "sextet.last_read":
                return str(self.points().get(name, 0))
            case "default_transaction_read_only":
                return _on(self.sql.read_only or self.in_recovery)
            case "transaction_read_only":
                past = not self.sql.read_as_of.newest
                return _on(self.sql.read_only or self.in_recovery or past)
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
            case "sextet.read_consistency":
                self.sql.read_consistency = _consistency(name, value)
            case "sextet.wait_for":
                self.sql.wait_for = _lsn(name, value)
            case "sextet.read_as_of":
                self.sql.read_as_of = _moment(name, value, self.clock_us())
            case "client_encoding" if value.upper().replace("-", "") not in ("UTF8", "UNICODE"):
                raise SqlError(
                    f"client_encoding {value} is not supported, UTF8 is", sqlstate="22023"
                )
            case (
                "server_version"
                | "server_encoding"
                | "in_hot_standby"
                | "transaction_isolation"
                | "sextet.last_commit"
                | "sextet.last_read"
            ):
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
        if name in (None, "sextet.read_consistency"):
            self.sql.read_consistency = self.defaults.read_consistency
        if name in (None, "sextet.wait_for"):
            self.sql.wait_for = self.defaults.wait_for
        if name in (None, "sextet.read_as_of"):
            self.sql.read_as_of = self.defaults.read_as_of
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

_EFFECTIVE = frozenset(
    {
        "statement_timeout",
        "lock_timeout",
        "default_transaction_read_only",
        "sextet.read_consistency",
        "sextet.wait_for",
        "sextet.read_as_of",
    }
)

_SHOWN = ("sextet.last_commit", "sextet.last_read")

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


_SECONDS_MAX = (2**31 - 1) / 1000  # PostgreSQL's too: milliseconds in 32 bits
_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(name: str, value: str) -> float:
    found = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?)\s*+(us|ms|s|min|h|d|)", value.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
    if not 0 <= seconds <= _SECONDS_MAX:
        raise SqlError(f'invalid value for parameter "{name}": "{value[:80]}"', sqlstate="22023")
    return seconds


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


def _consistency(name: str, value: str) -> ReadConsistency:
    try:
        return ReadConsistency(value.lower())
    except ValueError:
        raise SqlError(
            f'invalid value for parameter "{name}": "{value[:80]}"',
            sqlstate="22023",
            hint="Available values: " + ", ".join(c.value for c in ReadConsistency) + ".",
        ) from None


def _lsn(name: str, value: str) -> LSN:
    if not re.fullmatch(r"\d{0,19}", value.strip()):
        raise SqlError(f'invalid value for parameter "{name}": "{value[:80]}"', sqlstate="22023")
    return int(value or 0)


def _moment(name: str, value: str, now_us: int) -> Moment:
    if not value:
        return NEWEST
    try:
        return parse_moment(value, now=datetime.fromtimestamp(now_us / 1e6, UTC))
    except ConfigError as error:
        raise SqlError(
            f'invalid value for parameter "{name}": "{value[:80]}"',
            sqlstate="22023",
            hint=f"{error}.",
        ) from error


def statements(sql: str) -> Iterator[str]:
    """The statements of a query string, without their semicolons; triggers' bodies stay whole."""
    start = 0
    while start < len(sql):
        first = [token.upper for token in islice(tokens(sql, start), 4)]
        end = _end_of_statement(sql, start, first[:1] == ["CREATE"] and "TRIGGER" in first)
        if first and first[0] != ";":
            yield sql[start:end]
        start = end + 1


def _end_of_statement(sql: str, start: int, trigger: bool) -> int:
    if sql.find(";", start) < 0:
        return len(sql)
    depth = 0
    for found in (_MARKS if trigger else _HIDING).finditer(sql, start):
        word = found[0].upper()
        if word == ";" and depth <= 0:
            return found.start()
        if trigger:
            depth += (word in ("BEGIN", "CASE")) - (word == "END")
    return len(sql)


_HIDING = re.compile(
    r"""
    '(?:[^']|'')*+(?:'|\Z) | "(?:[^"]|"")*+(?:"|\Z) | `(?:[^`]|``)*+(?:`|\Z) | \[[^\]]*+(?:\]|\Z)
    | --[^\n]*+ | /\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)
    | ;
    """,
    re.VERBOSE,
)
"""What decides where a statement ends, and what could hide such a thing. Not tokens: a string of
several megabytes must not hold up everybody while it is split."""

_MARKS = re.compile(
    _HIDING.pattern + r"| (?<![\w$])(?:begin|case|end)(?![\w$])", re.VERBOSE | re.IGNORECASE
)
"""In a trigger, too, where statements are inside of a statement."""

_SELECT = re.compile(r"\s*+select\b", re.IGNORECASE)
_BARE_SELECT = re.compile(  # possessive throughout, so it never tries a second way
    r"\s*+select\s++[\w.]++\s*+(?:\(\s*+\)\s*+)?(?:as\s++[^\s;]++\s*+)?;?\s*+\Z", re.IGNORECASE
)


def answer(sql: str, settings: Settings) -> Answer | None:
    """What to reply to one statement, None if it is SQLite's. Raises SqlError."""
    if not may_answer(sql):
        return None
    found = list(tokens(sql))
    while found[-1].text == ";":
        found.pop()
    if any(token.text == ";" for token in found):
        raise SqlError("several statements in one", sqlstate="42601")
    return _ANSWERS[found[0].upper](found, settings)


def may_answer(sql: str) -> bool:
    """Told cheaply, for most statements are not ours."""
    if _BARE_SELECT.match(sql) is None and _SELECT.match(sql) is not None:
        return False
    first = next(tokens(sql), None)
    return first is not None and first.kind == "word" and first.upper in _ANSWERS


def _set(found: list[Token], settings: Settings) -> Answer:
    words = found[1:]
    local = bool(words) and words[0].upper == "LOCAL"
    if words and words[0].upper in ("SESSION", "LOCAL"):
        words = words[1:]
    if words and words[0].upper in ("TRANSACTION", "CHARACTERISTICS"):
        return _modes(words, settings)
    if len(words) >= 2 and words[0].upper == "TIME" and words[1].upper == "ZONE":
        words = [Token("word", "timezone", 0), Token("other", "=", 0), *words[2:]]
    if len(words) < 3 or words[1].upper not in ("=", "TO"):
        name, rest = _dotted(words)
        if not name or len(rest) < 2 or rest[0].upper not in ("=", "TO"):
            raise SqlError("SET name = value", sqlstate="42601")
        words = [Token("word", name, 0), *rest]
    name = _plain(words[0]).lower()
    value = "".join(_plain(token) if token.text != "," else ", " for token in words[2:])
    if local and name not in settings.before_local:
        known = name in _EFFECTIVE or name in settings.values or name in _FIXED
        settings.before_local[name] = settings.show(name) if known else None
    if value.upper() == "DEFAULT":
        settings.reset(name)
    else:
        settings.set(name, value)
    notice = ""
    if name == "sextet.wait_for" and settings.sql.read_consistency is ReadConsistency.EVENTUAL:
        notice = "it has no effect while sextet.read_consistency is 'eventual'"
    changed = (name, settings.show(name)) if name in REPORTED else None
    return Answer("SET", notice=notice, changed=changed)


def _modes(words: list[Token], settings: Settings) -> Answer:
    """SET TRANSACTION and SET SESSION CHARACTERISTICS AS TRANSACTION. Levels say nothing new here."""
    said = [token.upper for token in words]
    read_only = None
    if "READ" in said and said[said.index("READ") + 1 :][:1] in (["ONLY"], ["WRITE"]):
        read_only = said[said.index("READ") + 1] == "ONLY"
    if said[0] == "CHARACTERISTICS":
        if read_only is not None:
            settings.sql.read_only = read_only
        return Answer("SET")
    return Answer("SET", read_only=read_only)


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
    if words == ["volume", "status"]:
        return Answer("SHOW", VOLUME_COLUMNS, fault=FaultStatement(VOLUME_STATUS))
    name = "".join(words)
    if words == ["transaction", "isolation", "level"]:
        name = "transaction_isolation"
    if words == ["time", "zone"]:
        name = "timezone"
    if name == "all":
        names = sorted({*_FIXED, *settings.values, *_EFFECTIVE, *_SHOWN})
        rows = tuple((n, settings.show(n)) for n in names)
        return Answer("SHOW", ("name", "setting"), rows)
    return Answer("SHOW", (name,), ((settings.show(name),),))


def _alter(found: list[Token], settings: Settings) -> Answer | None:
    """ALTER SYSTEM is about faults here; any other ALTER is SQLite's."""
    if len(found) < 2 or found[1].upper != "SYSTEM":
        return None
    return Answer("ALTER SYSTEM", fault=parse_alter_system(found[2:]))


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
    "ALTER": _alter,
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
