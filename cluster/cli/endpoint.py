"""`sextet endpoint add|remove|list`: custom endpoints, for some of a cluster's instances."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Cluster, Data, Json
from cluster.local.folder import Folder
from cluster.local.layout import MAIN

app = typer.Typer(help="Add, remove and list endpoints of a running cluster.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
    members: Annotated[
        str, typer.Option(metavar="A,B", help="The instances that get its clients.")
    ] = "",
    exclude: Annotated[
        str, typer.Option(metavar="C,D", help="All instances but these do, later ones too.")
    ] = "",
    port: Annotated[int | None, typer.Option(help="A free one by default.")] = None,
) -> None:
    """Add a port whose clients are balanced over some instances, replicas first."""
    from cluster.cli.custom import add_endpoint

    add_endpoint(
        Folder.at(data),
        cluster,
        name,
        members=_names(members),
        exclude=_names(exclude),
        port=port,
    )


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A custom endpoint.")],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
) -> None:
    """Close a custom endpoint's port. Clients that came by it go on."""
    from cluster.cli.custom import remove_endpoint

    remove_endpoint(Folder.at(data), cluster, name)


@app.command(name="list")
def list_(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
    as_json: Json = False,
) -> None:
    """Show all endpoints and whom their clients are given to."""
    from cluster.cli.custom import list_endpoints

    list_endpoints(Folder.at(data), cluster, as_json=as_json)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
