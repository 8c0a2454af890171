"""What `sextet backup` does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from rich.markup import escape
from rich.progress import Progress

from cluster.cli.console import days, err, narrow_table, out, print_json
from cluster.cli.errors import CommandFailed
from cluster.cli.told import told_of
from cluster.local.change import change_layout, layout_turn
from cluster.local.folder import Folder
from cluster.local.layout import Layout, load
from cluster.local.store import open_store, store_name, store_of
from engine.archive.catalogue import archives_in, generations
from engine.archive.restore import Archive, shown
from engine.archive.verify import verify
from engine.errors import ConfigError, SextetError
from engine.ports import ObjectStore
from engine.types import LSN


@asynccontextmanager
async def opened(folder: Folder, store: str | None) -> AsyncIterator[ObjectStore]:
    """The store that was named, or the installation's. Raises ConfigError, Unavailable."""
    found = open_store(store_meant(folder, store))
    try:
        yield found
    finally:
        found.close()


def store_meant(folder: Folder, store: str | None) -> str:
    """The full name of the store that was named, or of the installation's. Raises ConfigError."""
    if store is not None:
        return store_name(store)
    layout = load(folder.data)
    if layout is None:
        raise ConfigError(
            f"there is no installation in {folder.data}; name its object store with --store"
        )
    return store_of(folder, layout)


async def names(store: ObjectStore) -> list[str]:
    """All archives there are."""
    return archives_in(await store.keys())


async def find(folder: Folder, store: ObjectStore, source: str) -> Archive:
    """A cluster's newest archive, or the one of that name. Raises ConfigError, ObjectMissing."""
    known = await names(store)
    layout = load(folder.data)
    first = next((c.archive for c in layout.clusters if c.name == source), "") if layout else ""
    if source in known:
        return await Archive.open(store, source)
    own = generations(first, (f"{n}/" for n in known)) if first else []
    if not own:
        raise ConfigError(
            f"there is no archive of {source}; there is: {', '.join(known) or 'none'}"
        )
    return await Archive.open(store, own[-1])


def list_archives(folder: Folder, store: str | None, *, as_json: bool) -> None:
    """Raises ConfigError, Unavailable."""
    rows = asyncio.run(_rows(folder, store))
    if as_json:
        print_json(rows)
        return
    table = narrow_table(
        ("archive", "from", "to", "LSN", "chunks", "bases"), right=("LSN", "chunks")
    )
    for row in rows:
        if row["error"]:
            table.add_row(row["archive"], f"[red]{escape(row['error'])}[/red]", "", "", "", "")
        else:
            table.add_row(
                row["archive"],
                row["from"] or "the beginning",
                row["to"],
                *(str(row[key]) for key in ("lsn", "chunks", "bases")),
            )
    out.print(table)


async def _rows(folder: Folder, store: str | None) -> list[dict[str, Any]]:
    """The keys are an interface: add, but do not rename."""
    found = []
    async with opened(folder, store) as objects:
        for name in await names(objects):
            row: dict[str, Any] = {"archive": name, "error": ""}
            try:
                archive = await Archive.open(objects, name)
                window = await archive.window()
                archive.listing.check_gapless(max(1, window.first))
            except SextetError as error:
                row["error"] = str(error)
            else:
                row |= {
                    "from": shown(window.earliest.time_us) if window.first else None,
                    "to": shown(window.known_us),
                    "lsn": window.upto,
                    "chunks": len(archive.listing.chunks),
                    "bases": len(archive.listing.bases),
                }
            found.append(row)
    return found


def verify_archive(folder: Folder, source: str, store: str | None) -> None:
    """Raises CommandFailed naming what is wrong; ConfigError."""
    wrong, checked, told = asyncio.run(_verified(folder, source, store))
    for message in wrong:
        err.print(f"[red]![/red] {escape(message)}", soft_wrap=True)
    if wrong:
        raise CommandFailed(f"{len(wrong)} of {checked} objects of {source}'s archive are no good")
    out.print(f"{checked} objects of {source}'s archive are whole")
    if told:
        out.print(f"and all are there of which storage nodes have heard, up to LSN {told}")
    else:
        out.print("whether later ones are lost nobody here can say: no storage node knows of any")


async def _verified(folder: Folder, source: str, store: str | None) -> tuple[list[str], int, LSN]:
    """(what is wrong, objects that were looked at, up to where storage nodes know that the log is archived;
    0 if none says so, or if that is another archive than the newest of its cluster)."""
    async with opened(folder, store) as objects:
        told = await told_of(folder, (await find(folder, objects, source)).name)
        archive = await find(folder, objects, source)
        if await _has_successor(objects, archive.name):
            told = 0
        with Progress(console=err, transient=True, disable=not err.is_terminal) as show:
            task = show.add_task("checking", total=None)

            def progress(done: int, total: int) -> None:
                show.update(task, completed=done, total=total)

            wrong, checked = await verify(archive, progress, told=told)
            return wrong, checked, told


async def _has_successor(store: ObjectStore, archive: str) -> bool:
    first = re.sub(r"\.\d+$", "", archive)
    return generations(first, (f"{name}/" for name in await names(store)))[-1:] != [archive]


# -- retention


def set_retention(folder: Folder, cluster: str, wanted: int) -> None:
    """The archiver reads it within a second; what is too old goes within the hour. Raises ConfigError."""

    def changed(layout: Layout) -> Layout:
        return layout.with_cluster(replace(layout.cluster(cluster), retention_days=wanted))

    with layout_turn(folder):
        change_layout(folder, changed)


def show_retention(folder: Folder, cluster: str) -> None:
    """Raises ConfigError."""
    layout = load(folder.data)
    if layout is None:
        raise ConfigError(f"{folder.data} has no installation; make one with `sextet up`")
    kept = days(layout.cluster(cluster).retention_days)
    out.print(f"{cluster} can be restored to any moment of the last {kept}")
