"""The command line as a PostgreSQL client of a running cluster."""

from __future__ import annotations

from typing import Any

import psycopg

from cluster.cli.client import running_layout
from cluster.cli.errors import CommandFailed
from cluster.local.folder import Folder

CONNECT_S = 15
"""Longer than an endpoint holds a client when nobody can take it."""

Connection = psycopg.Connection[tuple[Any, ...]]


def endpoint_url(folder: Folder, cluster: str, *, reader: bool) -> str:
    """Raises NotRunning, ConfigError."""
    spec = running_layout(folder).running_cluster(cluster)
    return spec.reader_url if reader else spec.writer_url


def connect(url: str) -> Connection:
    """An autocommit connection. Raises CommandFailed."""
    try:
        return psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_S, application_name="sextet"
        )
    except psycopg.Error as error:
        raise CommandFailed(
            f"cannot connect to {url}: {_in_brief(error)}; see `sextet status`"
        ) from error


def _in_brief(error: psycopg.Error) -> str:
    """Without libpq's guesses about what might be wrong, which span lines."""
    text = describe(error)
    return text.partition(" Is the server running")[0] if error.sqlstate is None else text


def describe(error: psycopg.Error) -> str:
    """One line: SQLSTATE and message, and the hint if there is one."""
    message = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    state = f"{error.sqlstate}: " if error.sqlstate else ""
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return f"{state}{message}{hint}"
