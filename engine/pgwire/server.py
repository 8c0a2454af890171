"""Sessions over sockets: start-up, limits, cancel requests, and who is connected.

The server is given accepted sockets (`engine.pgwire.handoff`) or listens by itself (tests, other
programs). It never accepts more sessions than its limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.errors import ProtocolError, SextetError, Unavailable
from engine.faults.bysql import SqlFaults
from engine.pgwire import codec
from engine.pgwire.codec import CancelRequest, EncryptionRequest, Startup
from engine.pgwire.connection import Connection
from engine.pgwire.wire import AnswersLost, Wire
from engine.sql.engine import SqlEngine
from engine.sql.session import Session
from engine.sql.turn import OUTCOME_UNKNOWN

log = logging.getLogger(__name__)

STARTUP_S = 30.0
"""A client that has not said who it is by then is let go."""

GOODBYE_S = 2.0
"""How long a client may take to read the last words."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    database: str
    instance_number: int
    sessions_max: int = 500
    message_bytes_max: int = codec.MESSAGE_BYTES_MAX


RelayCancel = Callable[[int, int, int], Awaitable[None]]
"""(instance number, pid, secret): a cancel request that belongs to another instance."""


class PgServer:
    """Serves any number of sockets over one SQL engine."""

    def __init__(
        self,
        config: ServerConfig,
        engine: Callable[[], SqlEngine | None],
        *,
        in_recovery: Callable[[], bool],
        relay_cancel: RelayCancel | None = None,
        faults: SqlFaults | None = None,
    ) -> None:
        self._faults = faults or SqlFaults()
        self._config = config
        self._engine = engine
        self._in_recovery = in_recovery
        self._relay_cancel = relay_cancel
        self._keys: dict[int, tuple[int, Session]] = {}
        self._next = 0
        self._clients: dict[asyncio.Task[None], Wire] = {}
        self._dismissed: set[asyncio.Task[None]] = set()
        self._sessions: dict[Wire, Session] = {}
        self._listener: asyncio.Server | None = None
        self._held = False

    @property
    def connections(self) -> int:
        """Clients there are, without those that have been told that it is over."""
        return len(self._clients) - len(self._dismissed)

    async def listen(self, host: str, port: int) -> int:
        """Accept clients directly; returns the port."""
        loop = asyncio.get_running_loop()

        def accept() -> Wire:
            wire = self._wire()
            self._spawn(wire, lambda: None)
            return wire

        self._listener = await loop.create_server(accept, host, port)
        return int(self._listener.sockets[0].getsockname()[1])

    async def adopt(
        self, client: socket.socket, on_closed: Callable[[], None], *, writer: bool = False
    ) -> None:
        """Serve a socket that somebody else accepted; `on_closed` is called once it is done with.

        `writer`: the client came for a writer and is refused by any other instance. The catalog may
        have named this one already while it is still a replica, and its reads would be of the past.
        """
        wire = self._wire()
        client.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, client)
        except OSError as error:
            log.debug("a client was gone before it was served: %s", error)
            client.close()
            on_closed()
            return
        self._spawn(wire, on_closed, writer=writer)

    async def stop(self) -> None:
        """Tell every client that the server is going, and close."""
        if self._listener is not None:
            self._listener.close()
        await self.dismiss("the instance is stopping")

    async def dismiss(self, why: str) -> None:
        """End the connection of every client there is at this moment, telling it `why`.

        57P01 says that nothing of an open transaction is there; who waits for a commit is told 08007.
        """
        clients = dict(self._clients)
        for task, wire in clients.items():
            session = self._sessions.get(wire)
            unknown = session is not None and session.commits
            state, more = ("08007", f"; {OUTCOME_UNKNOWN}") if unknown else ("57P01", "")
            message = f"terminating connection: {why}{more}"
            wire.write_last(codec.error(state, message, severity="FATAL"))
            self._dismissed.add(task)
            task.cancel()
        if clients:
            _, late = await asyncio.wait(clients, timeout=GOODBYE_S)
            for task in late:
                clients[task].abort()  # it does not read what it is sent
            await asyncio.gather(*clients, return_exceptions=True)

    def cancel(self, pid: int, secret: int) -> None:
        """Cancel what session `pid` runs, if the secret is its. Says nothing either way."""
        found = self._keys.get(pid)
        if found is not None and hmac.compare_digest(
            found[0].to_bytes(4, "big"), secret.to_bytes(4, "big")
        ):
            found[1].cancel()

    def hold_clients(self, held: bool) -> None:
        """Let no byte from or to any client pass, those of now and those to come, or let them again."""
        self._held = held
        for wire in self._clients.values():
            wire.hold(held)

    # -- one client

    def _wire(self) -> Wire:
        wire = Wire(self._config.message_bytes_max)
        wire.hold(self._held)
        return wire

    def _spawn(self, wire: Wire, on_closed: Callable[[], None], *, writer: bool = False) -> None:
        serving = self._serve(wire, writer=writer)
        task = asyncio.get_running_loop().create_task(serving, name="client")
        self._clients[task] = wire

        def done(task: asyncio.Task[None]) -> None:
            del self._clients[task]
            self._dismissed.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a client's session failed", exc_info=error)
            wire.close()
            on_closed()

        task.add_done_callback(done)

    async def _serve(self, wire: Wire, *, writer: bool) -> None:
        try:
            async with asyncio.timeout(STARTUP_S):
                startup = await self._greet(wire)
            if startup is not None:
                await self._converse(wire, startup, writer=writer)
        except TimeoutError:
            log.debug("a client said nothing for %.0f s", STARTUP_S)
        except SextetError as error:
            wire.write_last(codec.error(error.sqlstate, str(error), severity="FATAL"))
        except Exception:
            wire.write_last(codec.error("XX000", "internal error; see the log", severity="FATAL"))
            raise
        finally:
            if not wire.lost:
                wire.write(b"")
                with contextlib.suppress(AnswersLost):  # whoever is here has left, or been told
                    await wire.flush()

    async def _greet(self, wire: Wire) -> Startup | None:
        """Up to the Startup message; None if the client only cancelled or left."""
        for _ in range(3):  # GSSENCRequest, SSLRequest, then it must come to the point
            match await wire.first():
                case None:
                    return None
                case EncryptionRequest():
                    wire.write(b"N")
                    await wire.flush()
                case CancelRequest(pid, secret):
                    await self._cancel_anywhere(pid, secret)
                    return None
                case Startup() as startup:
                    return startup
        raise ProtocolError("too many encryption requests")

    async def _cancel_anywhere(self, pid: int, secret: int) -> None:
        number = pid >> 16
        if number == self._config.instance_number:
            self.cancel(pid, secret)
        elif self._relay_cancel is not None:
            await self._relay_cancel(number, pid, secret)

    async def _converse(self, wire: Wire, startup: Startup, *, writer: bool) -> None:
        user = startup.parameters.get("user", "")
        database = startup.parameters.get("database") or user
        if database not in (self._config.database, "postgres"):
            wire.write(
                codec.error(
                    "3D000",
                    f'database "{database}" does not exist; this cluster has '
                    f'"{self._config.database}"',
                    severity="FATAL",
                )
            )
            return
        engine = self._engine()
        if engine is None:
            raise Unavailable("the instance is starting; try again")
        if writer and self._in_recovery():
            refusal = "this instance is not the open writer (yet, or any more); connect again"
            wire.write(codec.error("57P03", refusal, severity="FATAL"))
            return
        if self.connections > self._config.sessions_max:
            wire.write(codec.error("53300", "sorry, too many clients already", severity="FATAL"))
            return
        session = engine.session(user or "postgres", self._config.database)
        pid, secret = self._new_pid(), secrets.randbits(32)
        self._keys[pid] = (secret, session)
        self._sessions[wire] = session
        try:
            await Connection(
                wire,
                session,
                startup,
                in_recovery=self._in_recovery(),
                pid=pid,
                secret=secret,
                faults=self._faults,
            ).run()
        finally:
            del self._keys[pid], self._sessions[wire]

    def _new_pid(self) -> int:
        """Instance number in the upper half, so that a cancel request finds its way."""
        while True:
            self._next = (self._next + 1) & 0xFFFF
            pid = self._config.instance_number << 16 | self._next
            if pid not in self._keys:
                return pid
