"""`sextet cluster create|list|stop|start|delete`: several clusters on one fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, BacktrackWindow, Data, Json, Past, Retention
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_READERS, READERS_MAX

app = typer.Typer(
    help="Create, list, stop, start and delete clusters of a running installation.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A cluster.", show_default=False)]


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)
    ],
    data: Data = DEFAULT_DATA,
    readers: Annotated[
        int, typer.Option(help=f"Read replicas, 0 to {READERS_MAX}.")
    ] = DEFAULT_READERS,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the writer endpoint, the reader endpoint gets the next; free ones by default.",
            show_default=False,
        ),
    ] = None,
    max_storage: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Largest size of its database, e.g. 512M."),
    ] = "10G",
    retention: Retention = None,
    backtrack_window: BacktrackWindow = None,
) -> None:
    """Create an empty cluster with a volume of its own, and return once it answers SQL."""
    from cluster.cli.clusters import create as create_it

    create_it(
        Folder.at(data),
        name,
        readers=readers,
        port=port,
        max_storage=max_storage,
        past=Past(retention, backtrack_window),
    )


@app.command(name="list")
def list_(data: Data = DEFAULT_DATA, as_json: Json = False) -> None:
    """Show all clusters, their state and their endpoints."""
    from cluster.cli.clusters import list_clusters

    list_clusters(Folder.at(data), as_json=as_json)


@app.command()
def stop(name: Name, data: Data = DEFAULT_DATA) -> None:
    """End a cluster's processes until `sextet cluster start`. Its data stays; others go on."""
    from cluster.cli.clusters import stop as stop_it

    stop_it(Folder.at(data), name)


@app.command()
def start(name: Name, data: Data = DEFAULT_DATA) -> None:
    """Start a stopped cluster, and return once it answers SQL."""
    from cluster.cli.clusters import start as start_it

    start_it(Folder.at(data), name)


@app.command()
def delete(
    name: Name,
    data: Data = DEFAULT_DATA,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a cluster and its data, for good."""
    from cluster.cli.clusters import delete as delete_it

    delete_it(Folder.at(data), name, yes=yes)
