"""A client that is turned away gets a PostgreSQL error that it understands, whoever it is."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from cluster.endpoint import refusal
from cluster.endpoint.refusal import CANNOT_CONNECT_NOW, error_response, refuse

SSL = struct.pack(">II", 8, 80877103)
GSS = struct.pack(">II", 8, 80877104)
CANCEL = struct.pack(">IIII", 16, 80877102, 1, 2)
STARTUP_BODY = b"user\0postgres\0database\0main\0\0"
STARTUP = struct.pack(">II", 8 + len(STARTUP_BODY), 196608) + STARTUP_BODY
ERROR = error_response(CANNOT_CONNECT_NOW, "not now")


def test_error_response_is_what_the_protocol_says():
    assert ERROR[:1] == b"E"
    assert struct.unpack(">I", ERROR[1:5])[0] == len(ERROR) - 1
    assert ERROR[5:] == b"SFATAL\0VFATAL\0C57P03\0Mnot now\0\0"


async def _answer(sent: bytes, *, then_close: bool = False) -> bytes:
    """What a client gets that has sent `sent`."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        theirs.sendall(sent)
        if then_close:
            theirs.shutdown(socket.SHUT_WR)
        await refuse(ours, CANNOT_CONNECT_NOW, "not now")
        answer = b""
        loop = asyncio.get_running_loop()
        try:
            while more := await loop.sock_recv(theirs, 4096):
                answer += more
        except ConnectionResetError:
            pass  # it had sent more than anybody wanted to read
        return answer


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (STARTUP, ERROR),
        (SSL + STARTUP, b"N" + ERROR),
        (SSL + GSS + STARTUP, b"NN" + ERROR),
        (SSL + SSL + SSL + STARTUP, b"NNN"),
        (CANCEL, b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (struct.pack(">II", 4, 196608), b""),
        (struct.pack(">II", 1_000_000, 196608), b""),
    ],
)
async def test_answer_to(sent, answer):
    assert await _answer(sent) == answer


@pytest.mark.parametrize("sent", [b"", b"\0\0", SSL[:-1], STARTUP[:-1]])
async def test_client_that_leaves_half_way_is_closed(sent):
    assert await _answer(sent, then_close=True) == b""


async def test_client_that_says_nothing_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(refusal, "HANDSHAKE_S", 0.05)
    assert await _answer(STARTUP[:5]) == b""
