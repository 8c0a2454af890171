"""`sextet volume show`: volumes, and what clones share."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Data, Json
from cluster.local.folder import Folder

app = typer.Typer(help="Volumes: how large they are, and what clones share.", no_args_is_help=True)


@app.callback()
def volumes() -> None:
    """Volumes: how large they are, and what clones share."""


@app.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[CLUSTER]", help="Only this one; all by default.", show_default=False
        ),
    ] = None,
    data: Data = DEFAULT_DATA,
    as_json: Json = False,
) -> None:
    """Show every cluster's pages, its own and shared ones, and what is a clone of what."""
    from cluster.cli.volumes import show_volumes

    show_volumes(Folder.at(data), name, as_json=as_json)
