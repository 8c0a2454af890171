"""Types that SQLite does not declare: of parameters, and of columns that are expressions.

asyncpg and prepared statements in general need types before there are values. The statement is
parsed once with sqlglot, its columns are looked up in the schema, and simple rules go up and down
the tree. What no rule covers is text. Drivers that give parameter types are believed.

sqlglot is imported on first use: it is not needed for plain queries and start-up is not free.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.pgwire import types as t
from engine.sql.tokens import tokens

if TYPE_CHECKING:
    from sqlglot import exp

ColumnTypes = Callable[[str], Awaitable[Mapping[str, str | None] | None]]
"""Column -> declared type of a table, None if there is no such table."""

CHARS_MAX = 16 * 1024
"""Longer statements are not parsed: it would hold up everybody for a second and more."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """Type oids by parameter (0-based) and by result column; None where nothing could be said."""

    parameters: dict[int, int]
    columns: tuple[int | None, ...]


NOTHING = Inferred({}, ())


async def infer(sql: str, column_types: ColumnTypes) -> Inferred:
    """What can be said about `sql` before it runs; not knowing is an answer, no error."""
    tree = _parse(sql) if len(sql) <= CHARS_MAX else None
    if tree is None:
        return NOTHING
    from sqlglot import exp

    tables: dict[str, Mapping[str, str | None]] = {}
    for table in tree.find_all(exp.Table):
        columns = await column_types(table.name)
        if columns is None:
            continue  # a CTE, or no such table: then preparing says so
        lowered = {name.lower(): declared for name, declared in columns.items()}
        tables[table.name.lower()] = lowered
        tables[table.alias_or_name.lower()] = lowered
    scope = _Scope(exp, tables)
    parameters: dict[int, int] = {}
    for placeholder in tree.find_all(exp.Placeholder):
        found = re.fullmatch(r"p(\d+)", placeholder.name)
        oid = scope.of_parameter(placeholder) if found else None
        if found and oid is not None:
            parameters.setdefault(int(found[1]) - 1, oid)
    return Inferred(parameters, tuple(scope.of_results(tree)))


def _parse(sql: str) -> exp.Expr | None:
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        return sqlglot.parse_one(_named_parameters(sql), read="sqlite")
    except (SqlglotError, RecursionError):
        return None


def _named_parameters(sql: str) -> str:
    """`$1` and `?1` as `:p1`: sqlglot would take `$1,$2` for the beginning of a dollar quote."""
    parts: list[str] = []
    done = 0
    for token in tokens(sql):
        if re.fullmatch(r"[$?]\d+", token.text):
            parts += (sql[done : token.start], ":p", token.text[1:])
            done = token.start + len(token.text)
    return "".join(parts) + sql[done:]


_INTEGER_FUNCTIONS = frozenset(
    {"LENGTH", "INSTR", "UNICODE", "CHANGES", "TOTAL_CHANGES", "LAST_INSERT_ROWID", "RANDOM"}
    | {
        "ROW_NUMBER",
        "RANK",
        "DENSE_RANK",
        "NTILE",
        "OCTET_LENGTH",
        "UNIXEPOCH",
        "JSON_ARRAY_LENGTH",
    }
)


class _Scope:
    """The rules, over the tables that a statement names."""

    def __init__(self, exp: Any, tables: dict[str, Mapping[str, str | None]]) -> None:
        self.exp = exp
        self.tables = tables

    # -- results

    def of_results(self, tree: Any) -> list[int | None]:
        exp = self.exp
        returning = tree.args.get("returning")
        if returning is not None:
            return self._projections(returning.expressions)
        if isinstance(tree, exp.Query):
            return self._projections(tree.selects)
        return []

    def _projections(self, found: list[Any]) -> list[int | None]:
        if any(isinstance(e.unalias(), self.exp.Star) or e.is_star for e in found):
            return []  # positions are unknown; declared types cover the star's columns
        return [self.of(e) for e in found]

    # -- an expression's type

    def of(self, e: Any) -> int | None:
        exp = self.exp
        match e:
            case exp.Alias() | exp.Paren() | exp.Neg() | exp.Distinct() if e.this is not None:
                return self.of(e.this)
            case exp.Column():
                return self._column(e)
            case exp.Literal():
                return t.TEXT if e.is_string else _number(e.name)
            case exp.Boolean() | exp.Predicate() | exp.Not() | exp.And() | exp.Or():
                return t.BOOL
            case exp.Cast():
                return t.oid_of_decltype(e.to.sql("sqlite"))
            case exp.Count() | exp.Length() | exp.BitwiseAnd() | exp.BitwiseOr():
                return t.INT8
            case exp.Avg():
                return t.FLOAT8
            case exp.Sum() | exp.Min() | exp.Max() | exp.Abs():
                return self._aggregate(e)
            case exp.DPipe() | exp.Concat() | exp.Lower() | exp.Upper() | exp.GroupConcat():
                return t.TEXT
            case exp.Binary():
                return self._arithmetic(e)
            case exp.Coalesce() | exp.If() | exp.Case():
                return self._first_known(e)
            case exp.Subquery() | exp.Select():
                selects = e.selects
                return self.of(selects[0]) if selects else None
            case exp.Window():
                return self.of(e.this)
            case exp.Func():
                name = e.name.upper() if isinstance(e, exp.Anonymous) else e.sql_name()
                return t.INT8 if name in _INTEGER_FUNCTIONS else None
        return None

    def _column(self, e: Any) -> int | None:
        name = e.name.lower()
        wanted = e.table.lower()
        for table in [wanted] if wanted else sorted(self.tables):
            columns = self.tables.get(table, {})
            if name in columns:
                declared = columns[name]
                return t.oid_of_decltype(declared) if declared else None
            if columns and name in ("rowid", "oid", "_rowid_"):
                return t.INT8
        return None

    def _aggregate(self, e: Any) -> int | None:
        found = self.of(e.this)
        if isinstance(e, self.exp.Sum) and found in (t.INT2, t.INT4, t.BOOL):
            return t.INT8
        return found

    def _arithmetic(self, e: Any) -> int | None:
        sides = {self.of(e.left), self.of(e.right)} - {None}
        if t.FLOAT8 in sides or t.FLOAT4 in sides:
            return t.FLOAT8
        if t.NUMERIC in sides:
            return t.NUMERIC
        return t.INT8 if sides and sides <= {t.INT2, t.INT4, t.INT8} else None

    def _first_known(self, e: Any) -> int | None:
        exp = self.exp
        if isinstance(e, exp.Case):
            options = [branch.args.get("true") for branch in e.args.get("ifs", [])]
            options.append(e.args.get("default"))
        else:
            options = [e.args.get("true"), e.args.get("false"), e.this, *e.expressions]
            if isinstance(e, exp.If):
                options.remove(e.this)
        found = [self.of(option) for option in options if option is not None]
        return next((oid for oid in found if oid is not None), None)

    # -- a parameter's type, from where it stands

    def of_parameter(self, e: Any) -> int | None:
        exp = self.exp
        child, parent = e, e.parent
        while isinstance(parent, exp.Paren | exp.Neg):
            child, parent = parent, parent.parent
        match parent:
            case exp.Cast():
                return t.oid_of_decltype(parent.to.sql("sqlite"))
            case exp.Limit() | exp.Offset():
                return t.INT8
            case exp.Tuple():
                return self._in_tuple(child, parent)
            case exp.In():
                return self.of(parent.this)
            case exp.Between():
                return self.of(parent.this)
            case exp.Like() | exp.Glob() | exp.DPipe():
                return t.TEXT
            case exp.Binary():
                other = parent.right if parent.left is child else parent.left
                return self.of(other)
            case exp.Coalesce():
                return self._first_known(parent)
        return None

    def _in_tuple(self, child: Any, row: Any) -> int | None:
        """In VALUES of an INSERT: the column's type; in `(a, b) IN ((1, 2))` nothing is known."""
        insert = row.find_ancestor(self.exp.Insert)
        if insert is None:
            return None
        at = next(i for i, e in enumerate(row.expressions) if e is child)
        schema = insert.this
        if isinstance(schema, self.exp.Schema):
            names = [column.name.lower() for column in schema.expressions]
            table = schema.this.name.lower()
        else:
            table = schema.name.lower()
            names = list(self.tables.get(table, {}))
        declared = self.tables.get(table, {}).get(names[at]) if at < len(names) else None
        return t.oid_of_decltype(declared) if declared else None


def _number(literal: str) -> int:
    return t.INT8 if literal.isdigit() else t.FLOAT8
