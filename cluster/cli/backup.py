"""`sextet backup list|verify|retention`: what can be restored."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Data, Json
from cluster.local.folder import Folder

app = typer.Typer(
    help="Show and verify what can be restored, and say for how long.", no_args_is_help=True
)

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="A folder, or s3://BUCKET/PREFIX; this installation's by default.",
    ),
]


@app.command(name="list")
def list_(data: Data = DEFAULT_DATA, store: Store = None, as_json: Json = False) -> None:
    """Show all archives of the store, and from when to when each can be restored."""
    from cluster.cli.archives import list_archives

    list_archives(Folder.at(data), store, as_json=as_json)


@app.command()
def verify(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A cluster here, or an archive.", show_default=False),
    ] = "main",
    data: Data = DEFAULT_DATA,
    store: Store = None,
) -> None:
    """Read and check every object that a restore might need. Exit status 1 names those that are no good."""
    from cluster.cli.archives import verify_archive

    verify_archive(Folder.at(data), source, store)


@app.command()
def retention(
    cluster: Annotated[
        str, typer.Argument(metavar="CLUSTER", help="A cluster.", show_default=False)
    ],
    days: Annotated[
        int | None, typer.Argument(metavar="[DAYS]", help="The new one, 1 to 35.")
    ] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Show or change to how far back a cluster can be restored, while it runs."""
    from cluster.cli.archives import set_retention, show_retention

    if days is not None:
        set_retention(Folder.at(data), cluster, days)
    show_retention(Folder.at(data), cluster)
