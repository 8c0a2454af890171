"""PostgreSQL's types over SQLite's values: object ids, text and binary formats.

A column is announced by its declared type. SQLite lets any value be in any column, so encoding may
find one that does not fit: then it fails with 42804 naming the column, rather than sending a wrong
value.
"""

from __future__ import annotations

import datetime
import math
import re
import struct
import uuid
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

from engine.errors import FeatureNotSupported, SqlError
from engine.sql.statement import SqlValue

Encoder: TypeAlias = Callable[[SqlValue], bytes]
Decoder: TypeAlias = Callable[[bytes], SqlValue]

BOOL: Final = 16
BYTEA: Final = 17
CHAR: Final = 18
NAME: Final = 19
INT8: Final = 20
INT2: Final = 21
INT4: Final = 23
TEXT: Final = 25
OID: Final = 26
JSON: Final = 114
FLOAT4: Final = 700
FLOAT8: Final = 701
UNKNOWN: Final = 705
BPCHAR: Final = 1042
VARCHAR: Final = 1043
DATE: Final = 1082
TIME: Final = 1083
TIMESTAMP: Final = 1114
TIMESTAMPTZ: Final = 1184
NUMERIC: Final = 1700
UUID: Final = 2950
JSONB: Final = 3802

SIZES: Final = {BOOL: 1, INT8: 8, INT2: 2, INT4: 4, OID: 4, FLOAT4: 4, FLOAT8: 8, UUID: 16}
"""Bytes of types of fixed size; others are announced as -1."""

_BY_NAME: Final = {
    "BOOL": BOOL,
    "BOOLEAN": BOOL,
    "SMALLINT": INT2,
    "INT2": INT2,
    "INT4": INT4,
    "BYTEA": BYTEA,
    "BLOB": BYTEA,
    "REAL": FLOAT8,
    "FLOAT4": FLOAT4,
    "NUMERIC": NUMERIC,
    "DECIMAL": NUMERIC,
    "DATE": DATE,
    "TIMESTAMP": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMPTZ,
    "DATETIME": TIMESTAMP,
    "UUID": UUID,
    "JSON": JSON,
    "JSONB": JSONB,
    "VARCHAR": VARCHAR,
    "CHARACTER": BPCHAR,
    "CHAR": BPCHAR,
}


def oid_of_decltype(decltype: str) -> int:
    """The type a declared type stands for: by its name, else by SQLite's affinity rules."""
    name = decltype.upper().split("(")[0].strip()
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith("TIMESTAMP"):
        return TIMESTAMPTZ if "WITH TIME" in name else TIMESTAMP
    if "INT" in name or name in ("SERIAL", "BIGSERIAL"):
        return INT8
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return TEXT
    if any(part in name for part in ("REAL", "FLOA", "DOUB")):
        return FLOAT8
    return TEXT


_BY_CLASS: Final[dict[type, int]] = {int: INT8, float: FLOAT8, bytes: BYTEA}


def oid_of_values(values: Iterable[SqlValue]) -> int:
    """For a column that nobody declared: the type of what is in it, text if nothing else fits all."""
    found = {_BY_CLASS.get(type(value), TEXT) for value in values if value is not None}
    if found == {INT8, FLOAT8}:
        return FLOAT8
    return found.pop() if len(found) == 1 else TEXT


# -- results


def _unfit(value: SqlValue, wanted: str) -> SqlError:
    return SqlError(
        f"a value of type {type(value).__name__} is in a column announced as {wanted}; "
        "cast it, or declare the column's type",
        sqlstate="42804",
    )


def _text_of(value: SqlValue) -> bytes:
    match value:
        case str():
            return value.encode()
        case bytes():
            return b"\\x" + value.hex().encode()
        case float():
            return _float_text(value)
        case _:
            return str(value).encode()


def _float_text(value: float) -> bytes:
    if math.isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    if value.is_integer() and abs(value) < 1e15:
        return b"%.0f" % value  # minus zero keeps its sign
    return repr(value).encode()


def _integer(value: SqlValue) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _unfit(value, "an integer")


def _float(value: SqlValue) -> float:
    if isinstance(value, int | float):
        return float(value)
    raise _unfit(value, "a floating-point number")


def _bool(value: SqlValue) -> bool:
    if value in (0, 1):
        return bool(value)
    raise _unfit(value, "boolean")


def _bytes(value: SqlValue) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise _unfit(value, "bytea")


def _pack(layout: str, take: Callable[[SqlValue], int | float]) -> Encoder:
    packer = struct.Struct(layout)

    def encode(value: SqlValue) -> bytes:
        try:
            return packer.pack(take(value))
        except (struct.error, OverflowError) as error:
            raise SqlError(f"{value!r} is out of range", sqlstate="22003") from error

    return encode


_PG_EPOCH: Final = datetime.datetime(2000, 1, 1)  # noqa: DTZ001 - the protocol's zero, without zone
_US: Final = datetime.timedelta(microseconds=1)


def _moment(value: SqlValue) -> datetime.datetime:
    if not isinstance(value, str):
        raise _unfit(value, "a date or time")
    try:
        found = datetime.datetime.fromisoformat(value)
    except ValueError as error:
        raise SqlError(f"{value[:40]!r} is no ISO date or time", sqlstate="22007") from error
    try:
        return found.astimezone(datetime.UTC).replace(tzinfo=None) if found.tzinfo else found
    except OverflowError as error:
        raise SqlError(f"{value!r} is out of range in UTC", sqlstate="22008") from error


def _encode_date(value: SqlValue) -> bytes:
    return struct.pack("!i", (_moment(value) - _PG_EPOCH).days)


def _encode_timestamp(value: SqlValue) -> bytes:
    return struct.pack("!q", (_moment(value) - _PG_EPOCH) // _US)


def _encode_uuid(value: SqlValue) -> bytes:
    try:
        return (
            value if isinstance(value, bytes) and len(value) == 16 else uuid.UUID(str(value)).bytes
        )
    except ValueError as error:
        raise _unfit(value, "uuid") from error


_NUMERIC: Final = re.compile(rb"[+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d{1,6})?")
_DIGITS_MAX: Final = 16_383
"""Before and after the point, as in PostgreSQL; what a float has is far below."""
_NAN, _INF, _NEGATIVE_INF = 0xC000, 0xD000, 0xF000
_SPECIAL: Final = {
    b"nan": _NAN,
    **dict.fromkeys((b"inf", b"infinity"), _INF),
    **dict.fromkeys((b"-inf", b"-infinity"), _NEGATIVE_INF),
}


def _encode_numeric(value: SqlValue) -> bytes:
    shown = b"" if isinstance(value, bytes) else str(value).encode()
    special = _SPECIAL.get(shown.lower())
    if special is not None:
        return struct.pack("!hhHh", 0, 0, special, 0)
    if not _NUMERIC.fullmatch(shown):
        raise _unfit(value, "numeric")
    number = Decimal(shown.decode())
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if max(len(digits), len(digits) + exponent, -exponent) > _DIGITS_MAX:
        raise SqlError("a numeric has too many digits", sqlstate="22003")
    scale = max(0, -exponent)
    whole = "".join(map(str, digits)) + "0" * max(0, exponent)
    whole = whole.rjust(scale + 1, "0")
    left, right = whole[: len(whole) - scale], whole[len(whole) - scale :]
    left = left.rjust(-(-len(left) // 4) * 4, "0")
    right = right.ljust(-(-len(right) // 4) * 4, "0")
    groups = [int((left + right)[i : i + 4]) for i in range(0, len(left) + len(right), 4)]
    weight = len(left) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    head = struct.pack("!hhHh", len(groups), weight if groups else 0, 0x4000 * sign, scale)
    return head + struct.pack(f"!{len(groups)}h", *groups)


_BINARY_OUT: Final[dict[int, Encoder]] = {
    BOOL: lambda v: b"\1" if _bool(v) else b"\0",
    BYTEA: _bytes,
    INT2: _pack("!h", _integer),
    INT4: _pack("!i", _integer),
    OID: _pack("!I", _integer),
    INT8: _pack("!q", _integer),
    FLOAT4: _pack("!f", _float),
    FLOAT8: _pack("!d", _float),
    DATE: _encode_date,
    TIMESTAMP: _encode_timestamp,
    TIMESTAMPTZ: _encode_timestamp,
    NUMERIC: _encode_numeric,
    UUID: _encode_uuid,
    JSONB: lambda v: b"\1" + _text_of(v),
}


def _checked(check: Callable[[SqlValue], object], write: Encoder) -> Encoder:
    def encode(value: SqlValue) -> bytes:
        check(value)
        return write(value)

    return encode


_TEXT_OUT: Final[dict[int, Encoder]] = {
    BOOL: lambda v: b"t" if _bool(v) else b"f",
    BYTEA: lambda v: b"\\x" + _bytes(v).hex().encode(),
    INT2: lambda v: str(_integer(v)).encode(),
    INT4: lambda v: str(_integer(v)).encode(),
    INT8: lambda v: str(_integer(v)).encode(),
    FLOAT4: lambda v: _float_text(_float(v)),
    FLOAT8: lambda v: _float_text(_float(v)),
    NUMERIC: _checked(_encode_numeric, _text_of),
}


def encoder(oid: int, code: int) -> Encoder:
    """How values that are not NULL are written in format `code` (0 text, 1 binary)."""
    return (_BINARY_OUT if code else _TEXT_OUT).get(oid, _text_of)


# -- parameters


def _decode_bool(data: bytes) -> SqlValue:
    word = data.decode().strip().lower()
    if word and ("true".startswith(word) or "yes".startswith(word) or word in ("on", "1")):
        return 1
    if word and ("false".startswith(word) or "no".startswith(word) or word in ("off", "of", "0")):
        return 0
    raise ValueError(word)


def _decode_bytea(data: bytes) -> SqlValue:
    if data.startswith(b"\\x"):
        return bytes.fromhex(data[2:].decode())
    return data.decode("unicode_escape").encode("latin-1")


def _decode_number(data: bytes) -> SqlValue:
    """Numeric: an integer where it is one, else a float, which is what SQLite has."""
    number = Decimal(data.decode())
    if number == number.to_integral_value() and abs(number) < 2**63:
        return int(number)
    found = float(number)
    if math.isinf(found) and number.is_finite():
        raise OverflowError(data)
    return found


def _decode_numeric(data: bytes) -> SqlValue:
    count, weight, sign, _scale = struct.unpack_from("!hhHh", data)
    if sign == _NAN:
        return math.nan  # refused further on: SQLite has no value for it
    if sign in (_INF, _NEGATIVE_INF):
        return math.inf if sign == _INF else -math.inf
    groups = struct.unpack_from(f"!{count}h", data, 8)
    number = sum(
        (Decimal(g) * Decimal(10000) ** (weight - i) for i, g in enumerate(groups)), Decimal(0)
    )
    return _decode_number(str(-number if sign else number).encode())


def _unpack(layout: str) -> Decoder:
    unpacker = struct.Struct(layout)

    def decode_one(data: bytes) -> SqlValue:
        found: tuple[SqlValue] = unpacker.unpack(data)
        return found[0]

    return decode_one


def _decode_timestamp(data: bytes) -> SqlValue:
    us: int = struct.unpack("!q", data)[0]
    return (_PG_EPOCH + us * _US).isoformat(sep=" ")


def _decode_date(data: bytes) -> SqlValue:
    days: int = struct.unpack("!i", data)[0]
    return (_PG_EPOCH + datetime.timedelta(days=days)).date().isoformat()


def _decode_utf8(data: bytes) -> SqlValue:
    return data.decode()


_BINARY_IN: Final[dict[int, Decoder]] = {
    BOOL: lambda d: int(struct.unpack("!?", d)[0]),
    BYTEA: bytes,
    INT2: _unpack("!h"),
    INT4: _unpack("!i"),
    OID: _unpack("!I"),
    INT8: _unpack("!q"),
    FLOAT4: _unpack("!f"),
    FLOAT8: _unpack("!d"),
    DATE: _decode_date,
    TIMESTAMP: _decode_timestamp,
    TIMESTAMPTZ: _decode_timestamp,
    NUMERIC: _decode_numeric,
    UUID: lambda d: str(uuid.UUID(bytes=d)),
    JSONB: lambda d: d[1:].decode(),
}
_TEXTS: Final = frozenset({0, CHAR, NAME, TEXT, JSON, UNKNOWN, BPCHAR, VARCHAR})
"""Types whose binary format is their text."""

_TEXT_IN: Final[dict[int, Decoder]] = {
    BOOL: _decode_bool,
    BYTEA: _decode_bytea,
    INT2: lambda d: int(d),
    INT4: lambda d: int(d),
    OID: lambda d: int(d),
    INT8: lambda d: int(d),
    FLOAT4: lambda d: float(d),
    FLOAT8: lambda d: float(d),
    NUMERIC: _decode_number,
}


def decode(oid: int, code: int, data: bytes, number: int) -> SqlValue:
    """Parameter `number` as SQLite's value. Raises SqlError 22P02, 22P03, 22021 or 0A000."""
    try:
        if code == 0:
            return _TEXT_IN.get(oid, _decode_utf8)(data)
        if code != 1:
            raise SqlError(f"format code {code} is neither text nor binary", sqlstate="08P01")
        found = _BINARY_IN.get(oid, _decode_utf8 if oid in _TEXTS else None)
        if found is None:
            raise FeatureNotSupported(
                f"parameter ${number} has type {oid}, which cannot be given in binary"
            )
        return found(data)
    except UnicodeDecodeError as error:
        raise SqlError(f"parameter ${number} is no UTF-8: {error}", sqlstate="22021") from error
    except (ValueError, struct.error, InvalidOperation, OverflowError) as error:
        shown = data[:40].decode(errors="replace")
        raise SqlError(
            f"parameter ${number} is not valid for its type: {shown!r}",
            sqlstate="22P03" if code else "22P02",
        ) from error
