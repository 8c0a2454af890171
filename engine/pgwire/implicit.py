"""The transaction that the client did not begin: around several statements of one Query, a batch that
ends with Sync, or one statement whose rows might not be encodable.

PostgreSQL runs everything in a transaction; SQLite's autocommit is cheaper, so one is begun only where
a later failure would have to undo an earlier statement.
"""

from __future__ import annotations

from engine.errors import SqlError
from engine.pgwire.codec import Decoder
from engine.pgwire.statements import Prepared
from engine.sql.session import Session
from engine.sql.statement import Statement
from engine.sql.transaction import Verb


class Implicit:
    """One per connection."""

    def __init__(self, session: Session, decoder: Decoder) -> None:
        self.open = False
        self._session = session
        self._decoder = decoder

    async def begin(self, wanted: bool = True) -> None:
        """Unless a transaction is open already."""
        if wanted and self._session.status == "I":
            await self._run("BEGIN")
            self.open = True
            self._session.answer_later(True)  # its COMMIT is still to come

    async def begin_for_batch(self, prepared: Prepared, *, executes: int = 0) -> None:
        """A write that is not followed by its Sync at once may have to be undone by what follows.

        `executes` says how many Executes are its own still.
        """
        statement = prepared.statement
        if statement is None:
            writes, returns = prepared.sql.lstrip()[:8].upper() == "TRUNCATE", False
        else:
            writes = not statement.readonly and statement.control is None
            returns = returns_what_it_wrote(statement)
        if writes and (returns or not self._decoder.sync_follows(executes=executes)):
            await self.begin()

    async def end(self, *, commit: bool) -> None:
        """Commit or roll back, if it is open."""
        if self.open:
            self.open = False
            if self._session.status != "I":
                await self._run("COMMIT" if commit else "ROLLBACK")

    async def end_if_sync_follows(self) -> None:
        """Nothing can come then that would undo it."""
        if self.open and self._decoder.sync_follows():
            await self.end(commit=True)

    def takes_over(self, statement: Statement) -> bool:
        """Whether `statement` is a BEGIN that only makes the open transaction the client's.

        COMMIT and ROLLBACK end it; for savepoints there is none: SqlError 25P01.
        """
        if not self.open or statement.control is None:
            return False
        verb = statement.control.verb
        if verb in (Verb.SAVEPOINT, Verb.RELEASE, Verb.ROLLBACK_TO):
            raise SqlError(f"{verb.value} can only be used in transaction blocks", sqlstate="25P01")
        self.open = False
        return verb is Verb.BEGIN and self._session.status == "T"

    async def _run(self, sql: str) -> None:
        cursor = await self._session.execute(await self._session.prepare(sql))
        await cursor.close()


def returns_what_it_wrote(statement: Statement) -> bool:
    """Then its rows are encoded before it commits: one that cannot be undoes it."""
    return bool(statement.columns) and not statement.readonly
