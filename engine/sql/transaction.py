"""PostgreSQL's transaction statements, recognised before SQLite sees them. Pure.

SQLite knows BEGIN, COMMIT, END, ROLLBACK, SAVEPOINT and RELEASE but neither START TRANSACTION nor
ABORT, no isolation levels, no READ ONLY, and its rules after an error are its own. The session
plays by PostgreSQL's rules on top of SQLite's, and for that must know these statements.

    state I (idle)     BEGIN -> T; COMMIT and ROLLBACK only warn; SAVEPOINT is an error (25P01)
    state T            BEGIN only warns; COMMIT, ROLLBACK -> I; an error in any statement -> E
    state E (failed)   COMMIT acts as ROLLBACK -> I; ROLLBACK TO -> T; everything else is 25P02
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from engine.errors import FeatureNotSupported, SqlError
from engine.sql.errors import SYNTAX_ERROR
from engine.sql.tokens import Token, tokens


class Verb(Enum):
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"
    RELEASE = "RELEASE"
    ROLLBACK_TO = "ROLLBACK TO"


@dataclass(frozen=True, slots=True)
class Control:
    """One transaction statement."""

    verb: Verb
    tag: str
    """PostgreSQL's command tag where it succeeds."""
    name: str = ""
    """Savepoint, quoted as the user wrote it."""
    read_only: bool | None = None
    """READ ONLY or READ WRITE, None if it says neither."""
    locks: bool = False
    """SQLite's BEGIN IMMEDIATE or EXCLUSIVE: takes the write lock at once."""

    @property
    def key(self) -> str:
        """The savepoint's name as SQLite compares names: unquoted, ASCII case ignored."""
        name, close = self.name, {"[": "]"}.get(self.name[:1], self.name[:1])
        if close in ('"', "`", "]"):
            name = name[1:-1].replace(close * 2, close) if close != "]" else name[1:-1]
        return name.translate(_ASCII_LOWER)

    @property
    def ends_failed(self) -> bool:
        """Whether it is allowed in a failed transaction."""
        return self.verb in (Verb.COMMIT, Verb.ROLLBACK, Verb.ROLLBACK_TO)


_ASCII_LOWER = {ord(c): ord(c) + 32 for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_FIRST = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"})
_LEVELS = frozenset({"SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "READ UNCOMMITTED"})


def recognise(sql: str) -> tuple[Control, int] | None:
    """The transaction statement that `sql` begins with, and where the next statement starts.

    None if it begins with anything else. Raises SqlError 42601 or FeatureNotSupported.
    """
    words: list[Token] = []
    end = len(sql)
    for token in tokens(sql):
        if token.text == ";":
            if not words:
                continue  # an empty statement before it
            end = token.start + 1
            break
        words.append(token)
        if words[0].upper not in _FIRST:
            return None
    return (_Parser(words).control(), end) if words else None


class _Parser:
    def __init__(self, words: list[Token]) -> None:
        self._words = words
        self._at = 0

    def control(self) -> Control:
        control = self._control()
        if self._at < len(self._words):
            raise self._error()
        return control

    def _control(self) -> Control:
        match self._next():
            case "BEGIN":
                locks = self._take("IMMEDIATE") or self._take("EXCLUSIVE")
                _ = locks or self._take("DEFERRED")
                _ = self._take("WORK") or self._take("TRANSACTION")
                return Control(Verb.BEGIN, "BEGIN", read_only=self._modes(), locks=locks)
            case "START":
                self._need("TRANSACTION")
                return Control(Verb.BEGIN, "START TRANSACTION", read_only=self._modes())
            case "COMMIT" | "END":
                if self._take("PREPARED"):
                    raise FeatureNotSupported("two-phase commit is not supported")
                self._work()
                self._no_chain()
                return Control(Verb.COMMIT, "COMMIT")
            case "ROLLBACK" | "ABORT" as first:
                if self._take("PREPARED"):
                    raise FeatureNotSupported("two-phase commit is not supported")
                self._work()
                if first == "ROLLBACK" and self._take("TO"):
                    self._take("SAVEPOINT")
                    return Control(Verb.ROLLBACK_TO, "ROLLBACK", name=self._name())
                self._no_chain()
                return Control(Verb.ROLLBACK, "ROLLBACK")
            case "SAVEPOINT":
                return Control(Verb.SAVEPOINT, "SAVEPOINT", name=self._name())
            case _:
                self._take("SAVEPOINT")
                return Control(Verb.RELEASE, "RELEASE", name=self._name())

    def _modes(self) -> bool | None:
        """ISOLATION LEVEL ..., READ ONLY, READ WRITE, [NOT] DEFERRABLE, commas between or not.

        Every isolation level is accepted: SQLite's is serializable, which is none of them too weak.
        """
        read_only: bool | None = None
        while self._at < len(self._words):
            if self._take("ISOLATION"):
                self._need("LEVEL")
                level = self._next()
                if level in ("READ", "REPEATABLE"):
                    level += " " + self._next()
                if level not in _LEVELS:
                    raise self._error(back=1)
            elif self._take("READ"):
                read_only = self._take("ONLY")
                if not read_only:
                    self._need("WRITE")
            elif self._take("NOT"):
                self._need("DEFERRABLE")
            elif not self._take("DEFERRABLE"):
                raise self._error()
            if self._take(",") and self._at == len(self._words):
                raise self._error()
        return read_only

    def _work(self) -> None:
        _ = self._take("WORK") or self._take("TRANSACTION")

    def _no_chain(self) -> None:
        if self._take("AND"):
            if self._take("NO"):
                self._need("CHAIN")
            else:
                self._need("CHAIN")
                raise FeatureNotSupported("AND CHAIN is not supported")

    def _name(self) -> str:
        if self._at == len(self._words):
            raise self._error()
        token = self._words[self._at]
        if token.kind not in ("word", "quoted"):
            raise self._error()
        self._at += 1
        return token.text

    def _take(self, word: str) -> bool:
        if self._at < len(self._words) and self._words[self._at].upper == word:
            self._at += 1
            return True
        return False

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise self._error()

    def _next(self) -> str:
        if self._at == len(self._words):
            raise self._error()
        self._at += 1
        return self._words[self._at - 1].upper

    def _error(self, back: int = 0) -> SqlError:
        at = self._at - back
        if at >= len(self._words):
            return SqlError("syntax error at end of input", sqlstate=SYNTAX_ERROR)
        token = self._words[at]
        return SqlError(
            f'syntax error at or near "{token.text}"',
            sqlstate=SYNTAX_ERROR,
            position=token.start + 1,
        )
