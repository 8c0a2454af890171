"""A shop: orders take goods from a stock. Whatever fails, no order is lost and none is made twice.

What an application has to do for that is little:

1. Repeat a transaction that certainly did not happen: the connection could not be had (08001, 57P03), the
   server is going down (57P01), or somebody else was faster (40001).
2. Repeat one whose outcome is unknown (08006, 08007, a connection lost in the middle) only if a second
   time does no harm. Here the customer's order number is the key, so it does not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

T = TypeVar("T")

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS goods (name TEXT PRIMARY KEY, stock INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS orders"
    " (number TEXT PRIMARY KEY, goods TEXT NOT NULL, pieces INTEGER NOT NULL)",
)

REPEAT = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03"}
"""Not done, says the server: the transaction may simply run again. Class 08 is about the connection."""

PATIENCE_S = 30.0


class OutOfStock(Exception):
    """There are not so many pieces left."""


class Shop:
    """`url` is the writer endpoint's: behind it is always the current writer."""

    def __init__(self, url: str, *, connections: int = 4) -> None:
        # `check`: a connection that a failover has closed is found out before it is handed out.
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=connections,
            timeout=5.0,
            check=ConnectionPool.check_connection,
            kwargs={"connect_timeout": 5},
            open=True,
        )
        for sql in SCHEMA:
            self._transaction(lambda connection, sql=sql: connection.execute(sql))

    def close(self) -> None:
        self._pool.close()

    def deliver(self, goods: str, pieces: int) -> None:
        """Goods arrive. Not safe to repeat, and so not repeated when the outcome is unknown."""

        def work(connection: Connection[Any]) -> None:
            connection.execute(
                "INSERT INTO goods VALUES (%s, %s)"
                " ON CONFLICT (name) DO UPDATE SET stock = stock + excluded.stock",
                (goods, pieces),
            )

        self._transaction(work, safe_to_repeat=False)

    def order(self, number: str, goods: str, pieces: int) -> None:
        """Order `number` is made, once, however often this is called. Raises OutOfStock."""

        def work(connection: Connection[Any]) -> None:
            made = connection.execute(
                "INSERT INTO orders VALUES (%s, %s, %s) ON CONFLICT (number) DO NOTHING",
                (number, goods, pieces),
            )
            if made.rowcount == 0:
                return  # an earlier try did it after all
            taken = connection.execute(
                "UPDATE goods SET stock = stock - %s WHERE name = %s AND stock >= %s",
                (pieces, goods, pieces),
            )
            if taken.rowcount == 0:
                raise OutOfStock(f"there are no {pieces} pieces of {goods}")

        self._transaction(work)

    def stock(self, goods: str) -> int:
        """How many pieces are left."""

        def work(connection: Connection[Any]) -> int:
            row = connection.execute("SELECT stock FROM goods WHERE name = %s", (goods,)).fetchone()
            return 0 if row is None else int(row[0])

        return self._transaction(work)

    def orders(self) -> dict[str, int]:
        """Pieces by order number."""
        return self._transaction(
            lambda connection: dict(connection.execute("SELECT number, pieces FROM orders"))
        )

    def _transaction(
        self, work: Callable[[Connection[Any]], T], *, safe_to_repeat: bool = True
    ) -> T:
        """Run `work` in a transaction until it is committed, for PATIENCE_S at most."""
        deadline = time.monotonic() + PATIENCE_S
        pause = 0.02
        while True:
            try:
                with self._pool.connection() as connection:
                    return work(connection)
            except PoolTimeout:
                if time.monotonic() > deadline:
                    raise
            except psycopg.Error as error:
                if time.monotonic() > deadline or not _may_repeat(error, safe_to_repeat):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(1.0, pause * 2)


def _may_repeat(error: psycopg.Error, safe_to_repeat: bool) -> bool:
    if error.sqlstate in REPEAT:
        return True
    lost = error.sqlstate is None or error.sqlstate.startswith("08")  # outcome unknown
    return lost and isinstance(error, psycopg.OperationalError) and safe_to_repeat
