"""pgbench as the client of both."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Measured:
    """Transactions a second, and milliseconds of one on average; how many there were, and how many failed.

    The last ones end after the time is over, so it is not the rate times the seconds asked for."""

    tps: float
    latency_ms: float
    count: int
    failed: int


def run(script: Path, urls: Sequence[str], *, clients: int, seconds: float, scale: int) -> Measured:
    """One pgbench for each of `urls`, with its share of the clients, all at once."""
    shares = [clients // len(urls) + (n < clients % len(urls)) for n in range(len(urls))]
    children = [
        subprocess.Popen(
            _command(script, url, share, seconds, scale),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for url, share in zip(urls, shares, strict=True)
        if share
    ]
    outputs = [child.communicate()[0] for child in children]
    for child, output in zip(children, outputs, strict=True):
        if child.returncode:
            raise SystemExit(f"pgbench of {script.name}: {output}")
    found = [parse(output) for output in outputs]
    return Measured(
        sum(one.tps for one in found),
        sum(one.latency_ms * one.tps for one in found) / max(1e-9, sum(one.tps for one in found)),
        sum(one.count for one in found),
        sum(one.failed for one in found),
    )


def _command(script: Path, url: str, clients: int, seconds: float, scale: int) -> list[str]:
    at = urlsplit(url)
    return [
        *("pgbench", "-n", "-M", "prepared", "-T", f"{seconds:.0f}", "-c", str(clients)),
        *("-j", str(min(2, clients)), "-f", str(script), "-D", f"scale={scale}"),
        *("-h", at.hostname or "", "-p", str(at.port), "-U", at.username or "", at.path[1:]),
    ]


def parse(output: str) -> Measured:
    """Raises ValueError if that is not what pgbench prints."""
    tps = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", output, re.MULTILINE)
    count = re.search(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", output, re.MULTILINE)
    if tps is None or latency is None or count is None:
        raise ValueError(f"no result of pgbench: {output[-500:]}")
    return Measured(
        float(tps[1]), float(latency[1]), int(count[1]), int(failed[1]) if failed else 0
    )
