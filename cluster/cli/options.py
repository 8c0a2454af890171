"""Options that many commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cluster.local.backtracking import parse_window
from cluster.local.layout import DEFAULT_RETENTION_DAYS

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="SEXTET_DATA",
        metavar="DIR",
        help="Folder of the installation.",
        show_default=True,
    ),
]
Cluster = Annotated[str, typer.Option("--cluster", metavar="NAME", help="Which cluster.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
Retention = Annotated[
    int | None,
    typer.Option(
        "--retention",
        metavar="DAYS",
        help="To any moment of so many days a new cluster can be restored, 1 to 35; 1 by default.",
        show_default=False,
    ),
]
BacktrackWindow = Annotated[
    str | None,
    typer.Option(
        "--backtrack-window",
        metavar="TIME",
        help="To any moment of so long ago it may be backtracked in place, e.g. 24h or 90m, at most 72h; "
        "not at all by default.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Past:
    """For how long a new cluster's past is kept, as given; None where the user did not say."""

    retention: int | None = None
    backtrack_window: str | None = None

    @property
    def retention_days(self) -> int:
        return DEFAULT_RETENTION_DAYS if self.retention is None else self.retention

    @property
    def window_s(self) -> int:
        """Raises ConfigError."""
        return 0 if self.backtrack_window is None else parse_window(self.backtrack_window)


DEFAULT_PAST = Past()

DEFAULT_DATA = Path(".sextet")
