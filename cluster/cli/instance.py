"""`sextet instance add|remove|list`: a cluster's instances while it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Cluster, Data, Json
from cluster.local.folder import Folder
from cluster.local.layout import AZS, DEFAULT_TIER, MAIN, READERS_MAX, TIER_MAX
from engine.config import DEFAULT_SIZE, SIZES

app = typer.Typer(help="Add, remove and list instances of a running cluster.", no_args_is_help=True)


@app.command()
def add(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
    az: Annotated[
        str | None,
        typer.Option(metavar="AZ", help=f"{', '.join(AZS)}; the one with the fewest by default."),
    ] = None,
    tier: Annotated[
        int, typer.Option(min=0, max=TIER_MAX, help="Failover prefers the lowest.")
    ] = DEFAULT_TIER,
    size: Annotated[str, typer.Option(metavar="CLASS", help=f"{', '.join(SIZES)}.")] = DEFAULT_SIZE,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="CLUSTER-NUMBER by default.")
    ] = None,
) -> None:
    """Add a replica and return once it serves reads, in seconds however large the volume is."""
    from cluster.cli.scaling import add_instance

    add_instance(Folder.at(data), cluster, az=az, tier=tier, size=size, name=name)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="An instance, e.g. main-3.")],
    data: Data = DEFAULT_DATA,
    force: Annotated[
        bool, typer.Option("--force", help="Even the writer: another instance takes its place.")
    ] = False,
) -> None:
    """Remove an instance: its clients are cut off, its process ends. The data is not its own."""
    from cluster.cli.scaling import remove_instance

    remove_instance(Folder.at(data), name, force=force)


@app.command(name="list", help=f"Show the instances, {READERS_MAX + 1} at most.")
def list_(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
    as_json: Json = False,
) -> None:
    from cluster.cli.scaling import list_instances

    list_instances(Folder.at(data), cluster, as_json=as_json)
