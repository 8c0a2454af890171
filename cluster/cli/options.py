"""Options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

DEFAULT_DATA = Path(".sextet")
