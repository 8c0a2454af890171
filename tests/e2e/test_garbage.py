"""Garbage, half messages and oversized ones at every port: an error or a closed connection, and nobody
else notices. Meanwhile clients write and read on both endpoints, and no statement of theirs may fail.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator

import grpc
import psycopg
import pytest

from engine.net import methods
from engine.net.grpc_wire import MESSAGE_BYTES_MAX
from engine.ports import Method

pytestmark = pytest.mark.e2e

SEED = 7
PATIENCE_S = 20.0
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04" + bytes(5)
STARTUP_BODY = struct.pack("!I", 3 << 16) + b"user\0postgres\0database\0main\0\0"
STARTUP = struct.pack("!I", len(STARTUP_BODY) + 4) + STARTUP_BODY

RAW = {
    "nothing": b"",
    "one byte": b"\0",
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2, then junk": HTTP2 + b"\xff" * 64,
    "HTTP/2, half a header frame": HTTP2 + SETTINGS + b"\0\0\x64\x01\x04\0\0\0\x01" + b"\x82" * 10,
    "HTTP/2, an oversized frame": HTTP2 + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\x01" + bytes(50_000),
    "TLS asked for, then silence": struct.pack("!II", 8, 80877103),
    "a start-up of no user": struct.pack("!II", 9, 3 << 16) + b"\0",
    "an endless start-up": struct.pack("!II", 0x7FFFFFFF, 3 << 16) + b"A" * 100_000,
    "a cancel of nobody": struct.pack("!IIII", 16, 80877102, 1, 2),
    "ones": b"\xff" * 4000,
    "chance": random.Random(SEED).randbytes(65_536),
}

TO_A_SESSION = {
    "half a query": b"Q" + struct.pack("!I", 100) + b"SELEC",
    "an oversized query": b"Q" + struct.pack("!I", 0x7FFFFFFF) + b"A" * 100_000,
    "a query of negative length": b"Q" + struct.pack("!i", -5),
    "an unknown message": b"~" + struct.pack("!I", 4),
    "a bind of nothing": b"B" + struct.pack("!I", 8) + b"\xff" * 4,
    "chance": random.Random(SEED).randbytes(65_536),
}


@contextlib.contextmanager
def undisturbed(cluster) -> Iterator[None]:
    """Clients work on both endpoints during the block; no statement fails and no process ends."""

    def processes() -> dict[str, int | None]:
        return {p["name"]: p["pid"] for p in cluster.status()["processes"]}

    cluster.until(lambda: all(processes().values()), "the last process has started too")
    before = processes()
    cluster.query("CREATE TABLE IF NOT EXISTS calm (a)")
    cluster.until_sql("SELECT count(*) >= 0 FROM calm", [(True,)], reader=True)
    stop, errors, counts = threading.Event(), list[BaseException](), {False: 0, True: 0}

    def work(*, reader: bool) -> None:
        sql = "SELECT count(*) FROM calm" if reader else "INSERT INTO calm VALUES (1)"
        try:
            with cluster.connect(reader=reader) as connection:
                while not stop.is_set():
                    connection.execute(sql)
                    counts[reader] += 1
        except psycopg.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=work, kwargs={"reader": r}) for r in (False, True)]
    for thread in threads:
        thread.start()
    try:
        yield
        seen = dict(counts)
        cluster.until(lambda: errors or all(counts[r] > seen[r] for r in counts), "both go on")
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors
    total = [(cluster.query("SELECT count(*) FROM calm")[0][0],)]
    cluster.until_sql("SELECT count(*) FROM calm", total, reader=True)
    assert processes() == before


def test_raw_bytes_at_every_port(cluster):
    with contextlib.ExitStack() as held, undisturbed(cluster):
        for port in cluster.layout.ports:
            for data in RAW.values():
                send(port, data)
                # Another one sends as much and then neither goes on nor away, to the end of the test.
                held.enter_context(send_and_stay(port, data))


def test_a_session_that_speaks_nonsense_is_answered_or_closed(cluster):
    main = cluster.layout.cluster("main")
    with contextlib.ExitStack() as held, undisturbed(cluster):
        for port in (main.writer_port, main.reader_port):
            for what, data in TO_A_SESSION.items():
                ended = answer_to(port, data)
                assert ended[:1] in (b"E", b""), f"{what} was answered with {ended[:40]!r}"
                held.enter_context(send_and_stay(port, STARTUP + data))


def methods_of(layout) -> list[tuple[int, Method]]:
    """(port, method) for every gRPC method at every port that serves it."""
    every = [m for m in vars(methods).values() if isinstance(m, Method)]
    main = layout.cluster("main")
    ports = {
        methods.REGISTER.service: [layout.control_port],
        methods.APPEND.service: [node.port for node in layout.storage],
        methods.FOLLOW.service: [instance.port for instance in main.instances],
    }
    return [(port, method) for method in every for port in ports[method.service]]


def test_junk_and_oversized_calls_of_every_method_are_refused(cluster):
    junk = [b"\xff" * 64, random.Random(SEED).randbytes(5000)]
    calls = methods_of(cluster.layout)
    main = cluster.layout.cluster("main")
    endpoints = {main.writer_port, main.reader_port}
    assert {port for port, _ in calls} | endpoints == set(cluster.layout.ports)
    with undisturbed(cluster):
        for port, method in calls:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
                for data in junk:
                    assert refusal(channel, method, data) is grpc.StatusCode.FAILED_PRECONDITION
        oversized = bytes(MESSAGE_BYTES_MAX + 1)
        first_port = {method.service: (port, method) for port, method in reversed(calls)}
        for port, method in first_port.values():
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
                code = refusal(channel, method, oversized)
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                unknown = channel.unary_unary("/sextet.v1.Nobody/Nothing")
                with pytest.raises(grpc.RpcError) as refused:
                    unknown(b"", timeout=PATIENCE_S)
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


UNLIMITED = (("grpc.max_send_message_length", -1),)


def refusal(channel: grpc.Channel, method: Method, data: bytes) -> grpc.StatusCode:
    """The status with which a call carrying `data` ends."""
    call = channel.stream_stream(method.path)(iter([data]), timeout=PATIENCE_S)
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code()


def send(port: int, data: bytes) -> None:
    """Send and go away; an answer or a closed connection are both fine."""
    with send_and_stay(port, data) as client, contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        client.settimeout(0.05)
        client.recv(4096)


def send_and_stay(port: int, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    with contextlib.suppress(OSError):  # it may close before it has heard all
        client.sendall(data)
    return client


def answer_to(port: int, data: bytes) -> bytes:
    """What a session answers to `data` after its start-up, when nothing more will come."""
    with send_and_stay(port, STARTUP) as client:
        received = b""
        while b"Z" + struct.pack("!I", 5) not in received:
            more = client.recv(65536)
            assert more, f"the start-up was refused: {received!r}"
            received += more
        after = b""
        with contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while more := client.recv(65536):
                after += more
        return after
