"""The ports between node code and the world: clock, disk, transport, random; and the object store.

Node code gets one `Runtime` and touches nothing else: no `time`, `os`, `socket`, `grpc` or
`random`. The real bindings are in `engine.net`; a simulator binds the same ports to virtual time,
simulated disks and a simulated network, and then one seed decides everything. Timeouts and tasks
come from asyncio itself, whose loop is virtual there, so they are no port.

Caller's duties are stated at each method; `tests/conformance` holds every binding to them.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from engine.steps import OFF, Steps

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)
SendT = TypeVar("SendT", bound=Message, contravariant=True)
RecvT = TypeVar("RecvT", bound=Message, covariant=True)


# -- clock


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since some start; never goes back. The running loop's time."""

    def wall_us(self) -> int:
        """Unix microseconds. May jump; no safety decision may rest on it."""


# -- disk


class AppendFile(Protocol):
    """A file that grows at its end and becomes durable by `sync`."""

    @property
    def size(self) -> int:
        """Bytes appended so far, durable or not."""

    def append(self, data: bytes) -> int:
        """Append all of `data` and return its offset; not durable before the next `sync`.

        Raises DiskFull with nothing kept of `data`, DiskFailed on any other error.
        """

    def rewrite(self, offset: int) -> None:
        """Write the bytes from `offset` to the end once more, as they are; for the next `sync`.

        For who finds bytes here that no sync of its own has covered: if an earlier process's failed,
        the kernel has called them clean, and syncing again would write nothing (and report success).
        Raises DiskFailed.
        """

    async def sync(self) -> None:
        """Make every byte appended before this call durable (fdatasync).

        Raises DiskFailed: then nothing since the last good sync may be believed, and the caller
        must never retry; it fences itself and restarts from what the disk really holds.
        """

    def close(self) -> None: ...


class Disk(Protocol):
    """One node's folder. Paths are relative to it, with "/" as separator.

    Raises FileNotFoundError where a named file is missing, DiskFull, DiskFailed.
    """

    def list(self, folder: str) -> list[str]:
        """Names in `folder`, sorted; empty if the folder does not exist."""

    def size(self, path: str) -> int: ...

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        """Up to `length` bytes (-1: all) from `offset`; fewer at the end of the file."""

    def open_append(self, path: str) -> AppendFile:
        """Open for appending, creating folders and the file; creation is durable on return."""

    def truncate(self, path: str, size: int) -> None:
        """Cut to `size` bytes, durably."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Replace the whole file durably: after a crash it is the old or the new one."""

    def delete(self, path: str) -> None:
        """Delete durably; deleting what is not there is no error."""

    def free_bytes(self) -> int: ...

    def local_path(self, path: str) -> str:
        """The path in the operating system, for libraries that open files themselves (SQLite)."""


# -- transport


@dataclass(frozen=True)
class Method(Generic[Req, Rep]):
    """One RPC, as the .proto file declares it (`engine.net.methods` lists them all)."""

    service: str
    name: str
    request: type[Req]
    reply: type[Rep]
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


class Stream(Protocol[SendT, RecvT]):
    """One side of an open stream. One task may send while another receives.

    Cancelling a task inside `send` or `recv` drops the whole stream.
    """

    async def send(self, message: SendT) -> None:
        """Hand over `message`; waits while flow control says so. Raises Unavailable."""

    async def recv(self) -> RecvT | None:
        """The next message, or None once the other side has finished. Raises Unavailable."""

    async def done_sending(self) -> None:
        """Tell the other side that nothing more comes (client streams only)."""

    def close(self) -> None:
        """Drop the stream at once. Idempotent."""


class Channel(Protocol):
    """A connection to one address that connects by itself, again and again if need be."""

    async def call(self, method: Method[Req, Rep], request: Req, *, timeout: float) -> Rep:
        """One request, one reply, within `timeout` seconds.

        Raises DeadlineExceeded, Unavailable, or the SextetError that the handler raised.
        """

    def stream(self, method: Method[Req, Rep], request: Req | None = None) -> Stream[Req, Rep]:
        """Open a stream. `request` is given exactly for server-streaming methods."""

    async def collect(self, method: Method[Req, Rep], stream: Stream[Req, Rep]) -> Rep:
        """The single reply of a client-streaming method, after `done_sending`."""

    async def close(self) -> None: ...


Handler = Callable[..., Awaitable[Any]]
"""How a service implements one method, by kind:

unary             async def m(request) -> reply
server-streaming  async def m(request, stream) -> None
client-streaming  async def m(stream) -> reply
both              async def m(stream) -> None

A SextetError raised by it reaches the caller as itself; anything else is logged, and the caller
sees ProtocolError("internal error ..."). When the caller has gone, its handler is cancelled or gets
Unavailable from `recv`, never None: half a stream does not look like a whole one.
"""

Handlers = Mapping[Method[Any, Any], Handler]


class Server(Protocol):
    @property
    def address(self) -> str:
        """host:port that it really listens on."""

    async def stop(self, grace: float = 0.5) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cancel them."""


class Transport(Protocol):
    async def serve(self, address: str, handlers: Handlers) -> Server:
        """Listen on "host:port" (port 0: any free one). Raises ConfigError if it is taken."""

    def connect(self, address: str) -> Channel: ...


# -- object store


class ObjectStore(Protocol):
    """Objects that are created once, never change, and outlive the fleet: a folder, or a bucket.

    `create` succeeds for one caller only, whoever else tries: all the fencing there is, and all that is
    needed (an S3 bucket has it too). Keys are checked by `engine.objects.check_key`.

    No key may lead on from another object's, as a/b does from a: a store that is made of folders raises
    ConfigError, a bucket does not mind, and who uses the port does not do it.

    Everything raises Unavailable if the store cannot be reached or does not answer (then a `create` or
    `delete` may have taken effect), and ConfigError for a key that cannot be one.
    """

    async def create(self, key: str, data: bytes) -> None:
        """Durable and whole on return; before, nobody sees any of it.

        Raises ObjectExists, also if the caller's own earlier try did take effect; DiskFull.
        """

    async def read(self, key: str) -> bytes:
        """All of the object. Raises ObjectMissing."""

    async def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with `prefix`, sorted."""

    async def delete(self, key: str) -> None:
        """Delete durably; deleting what is not there is no error."""


# -- all of them


@dataclass(frozen=True)
class Runtime:
    """What a node is given of the world."""

    clock: Clock
    disk: Disk
    transport: Transport
    rng: random.Random
    stop_node: Callable[[str], None]
    """Fence this node by ending it now, with a reason for its log; its supervisor restarts it."""
    steps: Steps = OFF
    """Told of every protocol step; see `engine.steps`."""
