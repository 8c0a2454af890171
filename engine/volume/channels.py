"""One channel per address, shared by everything on a node that talks to that peer."""

from __future__ import annotations

from engine.ports import Channel, Transport


class Channels:
    """Opens each channel once; `close` ends them all."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._open: dict[str, Channel] = {}

    def to(self, address: str) -> Channel:
        channel = self._open.get(address)
        if channel is None:
            channel = self._open[address] = self._transport.connect(address)
        return channel

    async def close(self) -> None:
        while self._open:
            _, channel = self._open.popitem()
            await channel.close()
