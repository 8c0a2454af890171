"""`sextet sql`: one command, or a shell with history, multi-line input and a few helpers."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable

import psycopg
from psycopg.pq import TransactionStatus

from cluster.cli.connect import Connection, connect, describe, endpoint_url
from cluster.cli.console import err, out, print_json
from cluster.cli.errors import CommandFailed
from cluster.cli.results import columns_of, json_rows, print_table, print_tsv
from cluster.local.folder import Folder

HELP = """\
  [bold].tables[/bold], [bold]\\dt[/bold]             tables and views
  [bold].schema \\[NAME][/bold], [bold]\\d NAME[/bold]  how they were created
  [bold]\\q[/bold], Ctrl-D               leave
SQL ends with a semicolon and may take several lines. Ctrl-C cancels what is typed or running."""

LOST = (
    "the connection was lost, and an open transaction with it; whether the last statement took effect "
    "is unknown: look before you repeat it"
)

TABLES = (
    "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') "
    "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
)
SCHEMA = "SELECT sql || ';' AS schema FROM sqlite_schema WHERE sql IS NOT NULL {} ORDER BY rowid"


# -- one command


def run_command(folder: Folder, cluster: str, text: str, *, reader: bool, as_json: bool) -> int:
    """Run `text` (one or more statements), print the results; exit status 1 after an SQL error."""
    url = endpoint_url(folder, cluster, reader=reader)
    with connect(url) as connection:
        started_at = time.monotonic()
        try:
            with connection.cursor() as cursor:
                cursor.execute(text)
                more: bool | None = True
                while more:
                    _print_one(cursor, time.monotonic() - started_at, as_json=as_json)
                    more = cursor.nextset()
        except psycopg.Error as error:
            print(f"sextet: {describe(error)}", file=sys.stderr)
            return 1
    return 0


def _print_one(
    cursor: psycopg.Cursor[tuple[object, ...]], elapsed_s: float, *, as_json: bool
) -> None:
    if as_json:
        if cursor.description is not None:
            print_json(json_rows(columns_of(cursor), cursor.fetchall()))
    elif out.is_terminal:
        print_table(cursor, elapsed_s)
    else:
        print_tsv(cursor)


# -- the shell


def run_shell(folder: Folder, cluster: str, *, reader: bool) -> None:
    """Read and run until the end of input. Input from a pipe is run as one command."""
    if not sys.stdin.isatty():
        sys.exit(run_command(folder, cluster, sys.stdin.read(), reader=reader, as_json=False))
    url = endpoint_url(folder, cluster, reader=reader)
    shell = _Shell(folder, url, f"{cluster}({'reader' if reader else 'writer'})")
    shell.run()


SETTLE_S = 5.0
"""How long the answer to a cancel may take."""


class _Shell:
    def __init__(self, folder: Folder, url: str, name: str) -> None:
        self._folder = folder
        self._url = url
        self._name = name
        self._connection: Connection = connect(url)

    def run(self) -> None:
        from cluster.cli.prompt import make_prompt

        ask = make_prompt(self._folder.history)
        out.print(f"{self._url}   (\\? for help)", soft_wrap=True)
        going_on = True
        while going_on:
            try:
                going_on = self._turn(ask)
            except KeyboardInterrupt:
                self._settle()
                err.print("[red]cancelled[/red]")
        self._connection.close()

    def _settle(self) -> None:
        """Take in the rest of what a cancelled statement answers: psycopg may have been interrupted just
        when it was reading that, and then the connection would seem busy for ever."""
        pgconn = self._connection.pgconn
        deadline = time.monotonic() + SETTLE_S
        try:
            while pgconn.transaction_status == TransactionStatus.ACTIVE:
                if time.monotonic() > deadline:
                    self._connection.close()  # the next statement connects again
                    return
                if select.select([pgconn.socket], [], [], 0.1)[0]:
                    pgconn.consume_input()
                while not pgconn.is_busy() and pgconn.get_result() is not None:
                    pass  # its error is what we have asked for
        except (psycopg.Error, OSError, ValueError):  # it is gone
            self._connection.close()

    def _turn(self, ask: Callable[[str], str]) -> bool:
        """Read and run once; False at the end. KeyboardInterrupt has cancelled what was running."""
        try:
            text = ask(self._prompt()).strip()
        except KeyboardInterrupt:
            return True
        except EOFError:
            return False
        if leaves(text):
            return False
        if text:
            self._run(text)
        return True

    def _prompt(self) -> str:
        if self._connection.closed:
            return self._name + "?> "
        match self._connection.info.transaction_status:
            case TransactionStatus.IDLE:
                mark = "=> "
            case TransactionStatus.INERROR:
                mark = "!> "
            case _:
                mark = "*> "
        return self._name + mark

    def _run(self, text: str) -> None:
        if text.startswith(("\\", ".")):
            command = helper_sql(text)
            if command is None:
                if text.split()[0] not in ("\\?", "\\h", ".help"):
                    err.print(f"there is no command {text}", style="red", markup=False)
                out.print(HELP)
                return
            text = command
        if self._connection.closed and not self._reconnect():
            return
        try:
            self._execute(text)
        except psycopg.Error as error:
            err.print(describe(error), style="red", markup=False, soft_wrap=True)
            if self._connection.closed:
                err.print(LOST, style="red", soft_wrap=True)
                self._reconnect()

    def _execute(self, text: str) -> None:
        started_at = time.monotonic()
        with self._connection.cursor() as cursor:
            cursor.execute(text)
            more: bool | None = True
            while more:
                print_table(cursor, time.monotonic() - started_at)
                more = cursor.nextset()

    def _reconnect(self) -> bool:
        """Whether there is a connection again; if not, the next statement tries once more."""
        try:
            self._connection = connect(self._url)
        except CommandFailed as error:
            err.print(str(error), style="red", markup=False, soft_wrap=True)
            return False
        err.print("[dim]connected again[/dim]")
        return True


def leaves(text: str) -> bool:
    """Whether it ends the shell; on a line of its own `\\q` does so in the middle of a statement too."""
    last = text.rpartition("\n")[2].strip()
    return last == "\\q" or text in ("quit", "exit", ".quit", ".exit")


def helper_sql(text: str) -> str | None:
    """The SQL behind a backslash or dot command; None if it is none we know."""
    command, _, argument = text.rstrip(";").partition(" ")
    name = argument.strip().strip("\"'")
    match command, name:
        case ((".tables" | "\\dt" | "\\d"), ""):
            return TABLES
        case (".schema", ""):
            return SCHEMA.format("")
        case ((".schema" | "\\d"), _):
            quoted = name.replace("'", "''")
            return SCHEMA.format(f"AND tbl_name = '{quoted}' COLLATE NOCASE")
        case _:
            return None
