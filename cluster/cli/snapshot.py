"""`sextet snapshot create|list|verify|copy|export|restore|delete`: states that are kept by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.backup import Store
from cluster.cli.options import DEFAULT_DATA, BacktrackWindow, Data, Json, Past, Retention
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_READERS

app = typer.Typer(
    help="Keep states of clusters by name, until they are deleted.", no_args_is_help=True
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The snapshot's name.", show_default=False)
]


@app.command()
def create(
    cluster: Annotated[
        str,
        typer.Argument(
            metavar="CLUSTER", help="A cluster here, or an archive.", show_default=False
        ),
    ],
    name: Name,
    data: Data = DEFAULT_DATA,
    to_time: Annotated[
        str | None,
        typer.Option(
            "--to-time",
            metavar="TIME",
            help="The state then: 2026-11-30T14:32:06Z, or '5 minutes ago'; that of now by default.",
            show_default=False,
        ),
    ] = None,
    to_lsn: Annotated[
        int | None,
        typer.Option("--to-lsn", metavar="LSN", help="The state at that LSN.", show_default=False),
    ] = None,
    store: Store = None,
) -> None:
    """Keep a cluster's state as it is now, or as it was. The cluster is not stopped, and need not run."""
    from cluster.cli.snapshots import create_snapshot

    create_snapshot(Folder.at(data), cluster, name, store, to_time=to_time, to_lsn=to_lsn)


@app.command(name="list")
def list_(data: Data = DEFAULT_DATA, store: Store = None, as_json: Json = False) -> None:
    """Show all snapshots of the store."""
    from cluster.cli.snapshots import list_snapshots

    list_snapshots(Folder.at(data), store, as_json=as_json)


@app.command()
def verify(name: Name, data: Data = DEFAULT_DATA, store: Store = None) -> None:
    """Read and check every object of a snapshot. Exit status 1 names those that are no good."""
    from cluster.cli.snapshots import verify_snapshot

    verify_snapshot(Folder.at(data), name, store)


@app.command()
def copy(
    name: Name,
    to_store: Annotated[
        str,
        typer.Option(
            "--to-store",
            metavar="STORE",
            help="A folder, made if it is not there, or s3://BUCKET/PREFIX.",
            show_default=False,
        ),
    ],
    new: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="The copy's name; the same if not given."),
    ] = None,
    data: Data = DEFAULT_DATA,
    store: Store = None,
) -> None:
    """Make the same snapshot in another store."""
    from cluster.cli.snapshots import copy_snapshot

    copy_snapshot(Folder.at(data), name, store, to_store=to_store, new=new or name)


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The SQLite database to write.")],
    data: Data = DEFAULT_DATA,
    store: Store = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a snapshot as a plain SQLite database. No cluster is needed."""
    from cluster.cli.snapshots import export_snapshot

    export_snapshot(Folder.at(data), name, store, file, force=force)


@app.command()
def restore(
    name: Name,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="What to call the new cluster.", show_default=False)
    ],
    data: Data = DEFAULT_DATA,
    store: Store = None,
    readers: Annotated[
        int, typer.Option(help="Read replicas of the new cluster.")
    ] = DEFAULT_READERS,
    retention: Retention = None,
    backtrack_window: BacktrackWindow = None,
) -> None:
    """Make a new cluster from a snapshot. Nothing of the old one is needed, nor of its archive."""
    from cluster.cli.restore import restore_snapshot

    past = Past(retention, backtrack_window)
    restore_snapshot(Folder.at(data), name, new, store=store, readers=readers, past=past)


@app.command()
def delete(name: Name, data: Data = DEFAULT_DATA, store: Store = None) -> None:
    """Delete a snapshot, or what one that was never finished has left."""
    from cluster.cli.snapshots import delete_snapshot

    delete_snapshot(Folder.at(data), name, store)
