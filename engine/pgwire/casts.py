"""PostgreSQL's casts for SQLite, which has no `::`. Pure."""

from __future__ import annotations

import re

from engine.sql.tokens import Token, tokens


def without_casts(sql: str) -> str:
    """`primary::type` as CAST(primary AS type); SQLite has no `::`. Anything else is untouched."""
    if "::" not in sql:
        return sql
    found = list(tokens(sql))
    before: dict[int, int] = {}  # token -> how many casts begin at it
    parts: list[tuple[int, int, str]] = []  # (from, to, what stands there instead)
    opened: list[int] = []  # tokens of the parentheses that are open
    starts: dict[int, int] = {}  # last token of an operand -> its first, where they differ
    after = at = 0  # casts end before `after`
    previous = -1  # the token before this one, type names of casts aside
    for at, token in enumerate(found):
        if token.start < after:
            continue
        if token.text == "(":
            opened.append(at)
        elif token.text == ")" and opened:
            starts[at] = _call_start(found, opened.pop())
        elif sql.startswith("::", token.start) and token.kind == "other" and previous >= 0:
            kind = _TYPE.match(sql, token.start)
            operand = found[previous]
            if kind is None or not (previous in starts or operand.kind in _OPERANDS):
                continue
            literal = _BYTEA.fullmatch(operand.text) if kind[1].lower() == "bytea" else None
            if literal is not None:
                parts.append((operand.start, kind.end(), f"x'{literal[1]}'"))
                after = kind.end()
                continue
            start = starts.setdefault(previous, previous)
            before[start] = before.get(start, 0) + 1
            affinity = _AFFINITY.get(" ".join(kind[1].split("(")[0].split()).lower(), "TEXT")
            parts.append((token.start, kind.end(), f" AS {affinity})"))
            after = kind.end()
            continue
        previous = at
    return _pieced(sql, found, before, parts)


def _pieced(
    sql: str, found: list[Token], before: dict[int, int], parts: list[tuple[int, int, str]]
) -> str:
    changes = parts + [(found[at].start, found[at].start, "CAST(" * n) for at, n in before.items()]
    out: list[str] = []
    done = 0
    for start, end, text in sorted(changes):
        out += (sql[done:start], text)
        done = end
    return "".join(out) + sql[done:]


_TYPE = re.compile(
    r"::\s*([A-Za-z_]\w*(?:\s+(?:precision|varying))?(?:\s*\(\s*\d+(?:\s*,\s*\d+)?\s*\))?)"
)
_BYTEA = re.compile(r"'\\x((?:[0-9a-fA-F]{2})*+)'")
"""A literal in PostgreSQL's hexadecimal format: what is cast is its bytes, not its text."""
_OPERANDS = frozenset({"string", "number", "dollar", "word", "quoted"})


_TYPE = re.compile(
    r"::\s*([A-Za-z_]\w*(?:\s+(?:precision|varying))?(?:\s*\(\s*\d+(?:\s*,\s*\d+)?\s*\))?)"
)


def _call_start(found: list[Token], opening: int) -> int:
    """The first token of the operand whose parenthesis is `opening`: `f` in `f(...)`."""
    if opening == 0:
        return 0
    name = found[opening - 1]
    called = name.kind == "quoted" or (name.kind == "word" and name.upper not in _KEYWORDS)
    return opening - 1 if called else opening


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
