"""SQLite's tokens, as far as this layer must tell them apart. Pure.

One compiled expression finds whole tokens, so a `$1` inside a string, a quoted name or a comment is
never taken for a parameter. Nothing here judges whether a statement is valid; SQLite does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<space>   \s+ | --[^\n]* | /\*(?:[^*]|\*(?!/))*(?:\*/|\Z) )
    | (?P<string>  [xX]?'(?:[^']|'')*(?:'|\Z) )
    | (?P<quoted>  "(?:[^"]|"")*(?:"|\Z) | `(?:[^`]|``)*(?:`|\Z) | \[[^\]]*(?:\]|\Z) )
    | (?P<number>  (?:\d[\d_]*\.?[\d_]* | \.\d[\d_]*) (?:[eE][+-]?\d+)? [\w$]* )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<dollar>  \$\d+ (?![\w$]) )
    | (?P<other>   [$@:\#?][\w$]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)


REMEMBERED_CHARS_MAX = 16 * 1024
"""Longer texts are hardly ever prepared twice, so nothing is kept of them."""


class Token(NamedTuple):
    kind: str
    """space, string, quoted, number, word, dollar or other"""
    text: str
    start: int

    @property
    def upper(self) -> str:
        return self.text.upper()


def tokens(sql: str, start: int = 0) -> Iterator[Token]:
    """All tokens from `start` on but white space and comments; together with those they cover `sql`."""
    for match in _TOKEN.finditer(sql, start):
        kind = match.lastgroup
        assert kind is not None
        if kind != "space":
            yield Token(kind, match.group(), match.start())


def number_parameters(sql: str) -> str:
    """`$1` as SQLite's `?1`; nothing else changes, so positions stay what they are.

    SQLite takes `$1` for a parameter *named* "$1" and would number it by order of appearance.
    """
    if "$" not in sql:
        return sql
    return _numbered(sql) if len(sql) <= REMEMBERED_CHARS_MAX else _number(sql)


def _number(sql: str) -> str:
    parts: list[str] = []
    done = 0
    for token in tokens(sql):
        if token.kind == "dollar":
            parts += (sql[done : token.start], "?", token.text[1:])
            done = token.start + len(token.text)
    return "".join(parts) + sql[done:]


_numbered = lru_cache(maxsize=1024)(_number)
