"""Which TCP ports are free on this machine, asked by trying to listen."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator

from engine.errors import ConfigError

LAST_PORT = 65535


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now. What holds a moment ago may not hold now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: connections in TIME_WAIT do not hold a port, listeners do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def answers(port: int, host: str = "127.0.0.1", timeout: float = 0.2) -> bool:
    """Whether something listens on `port` and accepts a connection."""
    try:
        with socket.create_connection((host, port), timeout=timeout):
            return True
    except OSError:
        return False


def require_free(port: int, *, option: str = "--port") -> None:
    """Raises ConfigError, saying what to do, if an endpoint could not listen on `port`."""
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(f"{port} is no port number; choose one from 1 to {LAST_PORT - 1}")
    if not is_free(port):
        raise ConfigError(f"port {port} is taken by another program; choose another with {option}")


def free_ports(after: int, taken: Collection[int]) -> Iterator[int]:
    """Free ports above `after` that are not in `taken`, ascending. Raises ConfigError at the end."""
    for port in range(after + 1, LAST_PORT + 1):
        if port not in taken and is_free(port):
            yield port
    raise ConfigError(f"no free port above {after} is left; choose a lower one with --port")
