"""How commands print: tables and progress for people, plain lines where nobody looks at a terminal."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Stable: keys in the order given, two spaces, one final newline."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def size(value: float) -> str:
    """Bytes as people read them, powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
