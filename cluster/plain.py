"""Values that people wrote, in TOML or JSON: each is what it must be, or a ConfigError that says so. Pure.

`where` names in errors what is being read, as in "demo.toml: cluster" or "a fault's at".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from engine.errors import ConfigError

E = TypeVar("E", bound=StrEnum)


def refuse_unknown(value: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raises ConfigError naming keys of `value` that are not known, and those that are."""
    strange = sorted(set(value) - known)
    if strange:
        raise ConfigError(
            f"{where} has no {', '.join(strange)}; it may have {', '.join(sorted(known))}"
        )


def table(value: Any, where: str) -> Mapping[str, Any]:
    """`value`, if it is a table (an object). Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}; it must be a table of keys and values")
    return value


def number(value: Any, where: str) -> float:
    """Raises ConfigError unless `value` is a number (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} is {value!r}; it must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{where} is too large a number") from error


def text(value: Any, where: str) -> str:
    """Raises ConfigError unless `value` is a string."""
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}; it must be a string")
    return value


def member(kind: type[E], value: Any, what: str) -> E:
    """The member that has this value. Raises ConfigError naming those there are."""
    names = [known.value for known in kind]
    if value not in names:
        raise ConfigError(f"there is no {what} {value!r}; there are {', '.join(names)}")
    return kind(value)
