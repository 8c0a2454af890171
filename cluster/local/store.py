"""Object stores by name: where archives are kept. A folder's path, or s3://BUCKET/PREFIX.

Without a name it is the folder `archive` in the data folder: that guards against mistakes in SQL and the
loss of all storage nodes, and not against the loss of the disk that all of it is on.

What S3 needs is imported only when such a store is named: every other process starts without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.local.create import with_store
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from engine.errors import ConfigError
from engine.net.objects import FolderStore

if TYPE_CHECKING:
    from engine.net.s3 import S3Objects

_S3 = "s3://"


def store_name(text: str) -> str:
    """What the layout keeps for what a user gave: an absolute path, or the URL of a bucket.

    Raises ConfigError.
    """
    if text.startswith(_S3):
        from engine.net.s3 import BucketName

        return str(BucketName.parse(text))
    if "://" in text:
        raise ConfigError(f"{text} cannot be an object store: give a folder, or s3://BUCKET/PREFIX")
    return str(Path(text).expanduser().absolute())


def store_of(folder: Folder, layout: Layout) -> str:
    """The name of the installation's store."""
    return layout.store or str(folder.archive)


def with_archives(folder: Folder, layout: Layout, wanted: str | None = None) -> Layout:
    """With every cluster archived, to the store that is `wanted` or as before; that store is there.

    One that was there before is not made again, but for a folder of our own that is wholly gone: what
    takes its place without its objects may be a mount point without its disk. Raises ConfigError,
    Unavailable.
    """
    store = layout.store if wanted is None else wanted
    store = "" if store == str(folder.archive) else store
    new = store != layout.store or not any(cluster.archive for cluster in layout.clusters)
    if new or not (store or folder.archive.exists()):
        make_store(store or str(folder.archive))
    return with_store(layout, store)


def make_store(name: str) -> None:
    """Have it there from now on; no harm if it is. A bucket must be there, and be fit for it.

    Raises Unavailable if it cannot be made or used, ConfigError if a bucket's server is not fit.
    """
    if name.startswith(_S3):
        _bucket(name).make()
    else:
        FolderStore(Path(name)).close()


def open_store(name: str) -> FolderStore | S3Objects:
    """Raises Unavailable if a folder is not there. It is never made on the way: a mount point without its
    disk looks like a folder where nothing was ever stored. A bucket is asked when it is used."""
    return _bucket(name) if name.startswith(_S3) else FolderStore(Path(name), make=False)


def missing_for(name: str) -> str:
    """What this process's environment lacks for the store, "" if nothing that can be known here."""
    if not name.startswith(_S3):
        return ""
    from engine.net.s3 import missing_credentials

    return missing_credentials(os.environ)


def _bucket(name: str) -> S3Objects:
    from engine.net.s3 import BucketName, S3Objects

    return S3Objects(BucketName.parse(name), os.environ)
