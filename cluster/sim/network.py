"""A simulated network: wires between processes, with latency, loss, resets, partitions and clogging.

What it imitates is TCP as gRPC uses it, not packets. A *wire* is one call or stream. What one end
transmits arrives at the other in order, some time later, or not before the path is open again, or never
because the wire was reset. A lost packet is a late one: TCP sends it again. A host that is cut off or a
process that is stopped looks silent, until keepalive gives the wire up after KEEPALIVE_S.

What a process had transmitted before it died is on its way and arrives: redo of a dead writer reaches
storage nodes after its death, here as there.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.sim.process import Life

KEEPALIVE_S = 15.0
"""How long a silent peer keeps an open wire, as `engine.net.grpc_wire.OPTIONS` says."""

CONNECT_S = 5.0
"""How long one attempt to connect may take, as in `engine.net.grpc_client`."""

RETRANSMIT_S = 0.2
WINDOW = 4 * 1024 * 1024
"""Bytes that one end may have on their way or unread at the other; more waits."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How a path behaves. Seconds; `loss` is the chance that a message has to be sent again."""

    latency_s: float = 0.0003
    jitter_s: float = 0.0005
    loss: float = 0.0


class Acceptor(Protocol):
    """Who listens at an address. Called when a wire has been opened to it."""

    life: Life | None

    def accept(self, end: End, opening: Any) -> None: ...


Observer = Callable[[str, dict[str, Any]], None]
"""Called with the kind of event ("send", "recv", "reset", …) and what is to be said of it."""


class End:
    """One end of a wire. Synchronous: the transport around it awaits."""

    def __init__(self, network: Network, number: int, host: str, life: Life | None) -> None:
        self.network = network
        self.number = number
        self.host = host
        self.life = life
        self.peer: End
        self.inbox: deque[Any] = deque()
        self.broken = ""
        """Why nothing comes any more, if the wire was reset or refused."""
        self.on_arrival: Callable[[], None] = lambda: None
        self.unread = 0  # bytes on their way to the peer or unread there
        self._wake: list[asyncio.Future[None]] = []
        self._room: list[asyncio.Future[None]] = []
        self._caught: deque[tuple[Any, int]] = deque()  # was on its way when the path closed
        self._held: deque[tuple[Any, int]] = deque()  # transmitted after that
        self._flight: deque[tuple[Any, int]] = deque()  # in order, whatever timers do
        self._last_arrival = 0.0
        self.connecting: asyncio.TimerHandle | None = None

    def life_alive(self) -> bool:
        return self.life is None or self.life.alive

    # -- sending

    def transmit(self, item: Any, size: int = 0) -> None:
        """Put `item` on its way. Nothing happens if the wire is broken here."""
        if self.broken:
            return
        if self.life is not None:
            self.life.check()
        self.unread += size
        self.network.observe("send", self, item, size)
        self._forward(item, size)

    def _forward(self, item: Any, size: int) -> None:
        blocked = self.network.blocked(self.host, self.peer.host)
        if self._caught or self._held or blocked:
            self._held.append((item, size))
            if blocked:
                self.network.hold(self.host, self.peer.host)
            return
        self._flight.append((item, size))
        self._schedule_arrival()

    def _schedule_arrival(self) -> None:
        """One more item will arrive: whichever is the first in flight by then."""
        loop = asyncio.get_running_loop()
        delay = self.network.delay(self.host, self.peer.host)
        when = self._last_arrival = max(self._last_arrival, loop.time() + delay)
        loop.call_at(when, self.peer._arrive, context=self.network.context)

    def release(self) -> None:
        """The path is open again: what was held goes on its way, in the order it was sent.

        Something may be in flight still if the path was closed for a moment only; what was caught was
        sent before that, so it arrives first.
        """
        caught, held = self._caught, self._held
        self._caught, self._held = deque(), deque()
        self._flight.extendleft(reversed(caught))
        for _ in caught:
            self._schedule_arrival()
        for item, size in held:
            self._forward(item, size)

    async def wait_room(self) -> None:
        """Until the peer has read enough of what was sent."""
        while self.unread > WINDOW and not self.broken:
            await _wait(self._room)

    # -- receiving

    def _arrive(self) -> None:
        item, size = self.peer._flight.popleft()
        if self.broken:
            return
        if self.network.blocked(self.peer.host, self.host):  # it closed while this was on its way
            self.peer._caught.append((item, size))
            self.network.hold(self.peer.host, self.host)
            self.network.owe(self.peer)
            return
        if self.life is not None and not self.life.alive:
            return
        self.network.observe("recv", self, item, size)
        if isinstance(item, Reset):
            self.reset(item.reason)
            return
        self.inbox.append((item, size))
        self.on_arrival()
        self.wake()

    def take(self) -> Any:
        """The next item that has arrived; there must be one."""
        item, size = self.inbox.popleft()
        self.peer.unread -= size
        if self.peer.unread <= WINDOW:
            _release(self.peer._room)
        return item

    async def wait(self) -> None:
        """Until something has arrived or the wire is broken."""
        await _wait(self._wake)

    def wake(self) -> None:
        _release(self._wake)

    # -- ends

    def reset(self, reason: str) -> None:
        """This end is over; the other one learns nothing from it."""
        if self.broken:
            return
        self.broken = reason or "connection reset"
        self._held.clear()
        self._caught.clear()
        self.network.forget(self)
        self.on_arrival()
        self.wake()
        _release(self._room)

    def abort(self, reason: str) -> None:
        """This end is over, and tells the other one so if the path is open."""
        if not self.broken:
            self._forward(Reset(reason), 0)
            caught, held = deque(self._caught), deque(self._held)
            self.reset(reason)
            # What was transmitted, and the reset behind it, goes out when the path opens.
            self._caught, self._held = caught, held
            if caught or held:
                self.network.owe(self)

    def finish(self) -> None:
        """This end has transmitted its last and expects nothing more."""
        self.network.forget(self)
        if self._held or self._caught:
            self.network.owe(self)


@dataclass(frozen=True, slots=True)
class Reset:
    reason: str


async def _wait(waiters: list[asyncio.Future[None]]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(future)
    await future


def _release(waiters: list[asyncio.Future[None]]) -> None:
    woken, waiters[:] = list(waiters), []
    for future in woken:
        if not future.done():
            future.set_result(None)


class Network:
    """All wires of a world. Faults are methods; each says what it is to those on the wire."""

    def __init__(self, rng: random.Random, observer: Observer | None = None) -> None:
        self.context = Context()  # deliveries are nobody's: a paused host's kernel lives
        self.weather = Weather()
        self.refusing: set[str] = set()
        """Addresses at which nobody is let in (a firewall that answers)."""
        self.resets = 0
        self.held: dict[tuple[str, str], int] = {}
        """By path: messages that found it closed."""
        self.delayed: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        """By host: messages that the weather there delayed, and had sent again."""
        self._rng = rng
        self._observer = observer
        self._listening: dict[str, Acceptor] = {}
        self._hosts: dict[str, str] = {}
        self._ends: dict[int, End] = {}
        self._late: dict[int, End] = {}  # over, but with something to deliver when a path opens
        self._number = 0
        self._cut: dict[tuple[str, str], float] = {}  # (from, to) -> since when
        self._silent: dict[str, float] = {}  # paused hosts
        self._slow: dict[str, Weather] = {}
        self._ports = 0

    # -- who is where

    def place(self, address: str, host: str) -> None:
        """`address` is on `host`, whether anybody listens there or not."""
        self._hosts[address] = host

    def host_of(self, address: str) -> str:
        return self._hosts.get(address, address)

    def free_port(self) -> int:
        self._ports += 1
        return 40000 + self._ports

    def listen(self, address: str, acceptor: Acceptor) -> bool:
        """False if somebody listens there already."""
        held = self._listening.get(address)
        if held is not None and (held.life is None or held.life.alive):
            return False
        self._listening[address] = acceptor
        return True

    def stop_listening(self, address: str, acceptor: Acceptor) -> None:
        if self._listening.get(address) is acceptor:
            del self._listening[address]

    def open(self, life: Life | None, host: str, address: str, opening: Any, size: int) -> End:
        """A wire to `address`, already transmitting `opening`; it may turn out to be refused."""
        near = self._end(host, life)
        far = self._end(self.host_of(address), None)
        near.peer, far.peer = far, near
        far.on_arrival = lambda: self._opened(far, address)
        near.transmit(opening, size)
        near.connecting = asyncio.get_running_loop().call_later(
            CONNECT_S, self._give_up, near, far, address, context=self.context
        )
        return near

    def _end(self, host: str, life: Life | None) -> End:
        self._number += 1
        end = End(self, self._number, host, life)
        self._ends[end.number] = end
        return end

    def _opened(self, far: End, address: str) -> None:
        far.on_arrival = lambda: None
        assert far.peer.connecting is not None
        far.peer.connecting.cancel()
        acceptor = self._listening.get(address)
        dead = acceptor is not None and acceptor.life is not None and not acceptor.life.alive
        if acceptor is None or dead or address in self.refusing:
            far.abort(f"{address} refuses the connection: nobody listens there")
            return
        if far.broken:
            return
        far.life = acceptor.life
        acceptor.accept(far, far.take())

    def _give_up(self, near: End, far: End, address: str) -> None:
        if not near.broken:
            far.reset("never connected")
            near.reset(f"{address} cannot be reached: no answer in {CONNECT_S:.0f} s")

    def forget(self, end: End) -> None:
        self._ends.pop(end.number, None)

    def owe(self, end: End) -> None:
        """`end` holds something back; it may be over already."""
        if end.number not in self._ends:
            self._late[end.number] = end

    def observe(self, kind: str, end: End, item: Any, size: int) -> None:
        if self._observer is not None:
            self._observer(
                kind,
                {
                    "wire": end.number,
                    "host": end.host,
                    "peer": end.peer.host,
                    "item": item,
                    "size": size,
                },
            )

    # -- paths

    def blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    def hold(self, source: str, target: str) -> None:
        """A message has met a closed path."""
        self.held[source, target] = self.held.get((source, target), 0) + 1

    def delay(self, source: str, target: str) -> float:
        """Seconds that a message takes now."""
        total, _ = self._one_of(self.weather)
        if not self._slow:
            return total
        for host in (source, target):
            weather = self._slow.get(host)
            if weather is None:
                continue
            more, lost = self._one_of(weather)
            total += more
            if weather.latency_s:
                self.delayed[host] = self.delayed.get(host, 0) + 1
            if lost:
                self.dropped[host] = self.dropped.get(host, 0) + 1
        return total

    def _one_of(self, weather: Weather) -> tuple[float, bool]:
        """Seconds that it costs one message, and whether it had to be sent again."""
        total = weather.latency_s + self._rng.random() * weather.jitter_s
        lost = weather.loss > 0 and self._rng.random() < weather.loss
        if lost:
            total += RETRANSMIT_S * (1 + int(self._rng.expovariate(1.0)))
        return total, lost

    def ends(self) -> Iterator[End]:
        yield from list(self._ends.values())

    # -- faults

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from `source` to `target` any more (one way)."""
        if (source, target) not in self._cut:
            self._cut[source, target] = asyncio.get_running_loop().time()
            self._after_keepalive(self._keepalive_path, source, target)

    def mend(self, source: str, target: str) -> None:
        """The path is open again; TCP sends again what was lost on it."""
        if self._cut.pop((source, target), None) is None:
            return
        for end in self.ends():
            if (end.host, end.peer.host) == (source, target):
                end.release()
        for end in list(self._late.values()):
            if (end.host, end.peer.host) == (source, target):
                del self._late[end.number]
                end.release()

    def _after_keepalive(self, check: Callable[..., None], *args: Any) -> None:
        since = asyncio.get_running_loop().time()
        loop = asyncio.get_running_loop()
        loop.call_later(KEEPALIVE_S, lambda: check(*args, since), context=self.context)

    def _keepalive_path(self, source: str, target: str, since: float) -> None:
        if self._cut.get((source, target)) != since:
            return
        for end in self.ends():
            if {end.host, end.peer.host} == {source, target}:
                end.reset(f"{end.peer.host} is silent: keepalive gives up")

    def silence(self, host: str) -> None:
        """The process on `host` is stopped: its kernel takes in, nobody reads."""
        self._silent[host] = asyncio.get_running_loop().time()
        self._after_keepalive(self._keepalive_host, host)

    def unsilence(self, host: str) -> None:
        self._silent.pop(host, None)

    def _keepalive_host(self, host: str, since: float) -> None:
        if self._silent.get(host) != since:
            return
        for end in self.ends():
            if host in (end.host, end.peer.host) and end.host != end.peer.host:
                end.reset(f"{host} is silent: keepalive gives up")

    def slow(self, host: str, weather: Weather | None) -> None:
        """Everything from and to `host` goes through `weather` too; None: no more."""
        if weather is None:
            self._slow.pop(host, None)
        else:
            self._slow[host] = weather

    def reset_between(self, one: str, other: str) -> int:
        """Break every wire between two hosts, at both ends. How many there were."""
        broken = 0
        for end in self.ends():
            if {end.host, end.peer.host} == {one, other}:
                end.reset("connection reset by the network")
                broken += 1
        self.resets += broken // 2
        return broken // 2

    def died(self, host: str, life: Life) -> None:
        """`life` is dead: its kernel closes its wires. What it transmitted before still arrives."""
        self.unsilence(host)
        for address, acceptor in list(self._listening.items()):
            if acceptor.life is life:
                del self._listening[address]
        for end in self.ends():
            if end.life is life:
                end.abort(f"{host} closed the connection")
