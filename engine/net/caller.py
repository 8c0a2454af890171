"""Who calls: a node's name in the metadata of its calls, read where they arrive.

Only where an installation allows faults; node code does not ask. It says nothing about rights.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

KEY = "sextet-node"

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""In a handler's task: the caller's name, "" if it has not said."""


def caller_of(metadata: Iterable[Any] | None) -> str:
    return next((str(value) for key, value in metadata or () if key == KEY), "")
