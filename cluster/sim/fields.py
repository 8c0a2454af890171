"""Dataclasses from and to plain values (what JSON and TOML can say), strict and with clear errors.

Plans and scenarios are written by people and by other versions of this program. A key that nobody knows
is refused with the keys that would be right, never skipped: a fault schedule that silently lacks a fault
shows the wrong thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin, get_type_hints

from cluster.faults.catalogue import Fault
from cluster.plain import number, refuse_unknown, table, text
from engine.errors import ConfigError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """The inverse of `from_plain`; keys in the order of the fields."""
    if isinstance(value, Fault):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(kept) for key, kept in sorted(value.items())}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(base: T, value: Any, where: str) -> T:
    """`base`, a dataclass instance, with the fields that `value` names replaced.

    `where` says in errors what is being read, as in "demo.toml: cluster". Raises ConfigError.
    """
    known = {f.name for f in dataclasses.fields(base)}  # type: ignore[arg-type]
    refuse_unknown(table(value, where), known, where)
    hints = get_type_hints(type(base))
    new = {
        name: _converted(hints[name], getattr(base, name), given, f"{where}.{name}")
        for name, given in value.items()
    }
    return dataclasses.replace(base, **new)  # type: ignore[type-var]


def faults(value: Any, where: str) -> tuple[Fault, ...]:
    """A list of faults. Raises ConfigError naming the one that cannot be read, from 1."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; it must be a list of faults")
    found = []
    for position, item in enumerate(value, 1):
        try:
            found.append(Fault.from_json(table(item, f"{where} {position}")))
        except ConfigError as error:
            raise ConfigError(f"{where} {position}: {error}") from error
    return tuple(found)


def _converted(kind: Any, base: Any, given: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_plain(base, given, where)
    if kind is bool:
        if not isinstance(given, bool):
            raise ConfigError(f"{where} is {given!r}; it must be true or false")
        return given
    if kind is int:
        if isinstance(given, bool) or not isinstance(given, int):
            raise ConfigError(f"{where} is {given!r}; it must be a whole number")
        return given
    if kind is float:
        return number(given, where)
    if kind is str:
        return text(given, where)
    if get_origin(kind) is tuple:
        return faults(given, where)
    if get_origin(kind) is not None and issubclass(get_origin(kind), Mapping):
        items = table(given, where).items()
        return {key: number(value, f"{where}.{key}") for key, value in items}
    raise TypeError(f"{where}: values of type {kind} cannot be read from a file")
