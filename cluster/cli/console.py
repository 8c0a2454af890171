"""How commands print: tables and progress for people, plain lines where nobody looks at a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cluster.local.sizes import format_size

PIPE_WIDTH = 250
"""Columns where there is no terminal: nothing is cut short for a program or a file."""

size = format_size

out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def narrow_table(columns: Sequence[str], *, right: Collection[str]) -> Table:
    """A table without frames whose columns are never cut, so that it fits into 80 characters."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def print_json(value: Any) -> None:
    """Stable: keys in the order given, two spaces, one final newline."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
