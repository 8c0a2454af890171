"""PostgreSQL with Sextet's promise: one primary and five standbys.

A commit waits until three of them have it on disk, so there are six copies and it is acknowledged at four.
A primary alone is to be had as well, for what concerns only it.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks import procfs
from benchmarks.bench.report import Written
from cluster.local.ports import free_ports

PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian keeps the server's, by version; elsewhere they are on the PATH."""

STANDBYS = 5
SETTINGS = {
    "synchronous_standby_names": "ANY 3 (s1, s2, s3, s4, s5)",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_senders": "10",
    "wal_keep_size": "512MB",
}


def programs() -> Path | None:
    """The folder of the newest server's programs, or None."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def server_user() -> str | None:
    """Whom the server is to run as: it refuses to as root. None: there is nobody."""
    if os.geteuid() != 0:
        return getpass.getuser()
    known = subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode == 0
    return "postgres" if known and shutil.which("runuser") else None


def postgres(
    folder: Path, *, standbys: int = STANDBYS, settings: Mapping[str, str] | None = None
) -> Postgres | None:
    """Servers to make in `folder`, which is made; `settings` come after SETTINGS. None, and a word about it
    to stderr, where they cannot be had."""
    bin_, user = programs(), server_user()
    if bin_ is None or user is None:
        lacking = (
            "its server programs are not installed" if bin_ is None else "no user to run it as"
        )
        print(f"without PostgreSQL ({lacking}), so there are no ratios", file=sys.stderr)
        return None
    folder.mkdir()
    folder.parent.chmod(0o755)  # its user has to get in
    return Postgres(folder, bin_, user, standbys, dict(settings or {}))


@dataclass
class Postgres:
    """A primary and `standbys`, none or five, in `folder`. `make` once, then `start` and `stop` as often as
    need be."""

    folder: Path
    bin: Path
    user: str
    standbys: int = STANDBYS
    more: Mapping[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    name: str = "PostgreSQL"

    def _run(self, *command: object) -> None:
        as_user = ["runuser", "-u", self.user, "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_user, *map(str, command)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")

    def url(self, server: int = 0) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.ports[server]}/postgres"

    @property
    def writer_url(self) -> str:
        return self.url()

    @property
    def read_urls(self) -> Sequence[str]:
        """The primary and two standbys."""
        return [self.url(n) for n in range(3)]

    def make(self) -> None:
        shutil.chown(self.folder, self.user)
        found = free_ports(29_000, taken=())
        self.ports = [next(found) for _ in self._servers]
        self._run(self.bin / "initdb", "-D", self.data(), "-U", "postgres", "-A", "trust")
        self._start(0, alone=True)
        for number in self._servers[1:]:
            source = f"{self.url()}?application_name=s{number}"
            self._run(
                *(self.bin / "pg_basebackup", "-d", source, "-D", self.data(number)),
                *("-R", "-X", "stream", "-c", "fast"),
            )
        self._stop(0)

    @property
    def _servers(self) -> range:
        return range(self.standbys + 1)

    def launch(self) -> None:
        """Start all of them and wait for none."""
        for number in self._servers:
            self._start(number, wait=False)

    def start(self) -> None:
        for number in self._servers:
            self._start(number)
        with psycopg.connect(self.writer_url, autocommit=True) as client:
            client.execute(
                "SELECT txid_current()"
            )  # once that is committed three standbys are there

    def stop(self) -> None:
        for number in reversed(self._servers):
            self._stop(number)

    def pids(self) -> list[int]:
        """Of all processes that the servers have now."""
        files = [self.data(number) / "postmaster.pid" for number in self._servers]
        postmasters = [int(file.read_text().split()[0]) for file in files if file.exists()]
        return postmasters + [child for pid in postmasters for child in procfs.children(pid)]

    def data(self, number: int = 0) -> Path:
        return self.folder / f"s{number}"

    def arguments(self, number: int = 0, *, alone: bool = False) -> list[str]:
        """Of `postgres`, for this server."""
        settings = {**SETTINGS, **self.more}
        if number or alone or not self.standbys:
            del settings["synchronous_standby_names"]
        settings["listen_addresses"] = "127.0.0.1"
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*given, "-p", str(self.ports[number]), "-k", str(self.folder)]

    def _start(self, number: int, *, alone: bool = False, wait: bool = True) -> None:
        options = shlex.join(self.arguments(number, alone=alone))
        self._run(
            *(self.bin / "pg_ctl", "-D", self.data(number), "-w" if wait else "-W"),
            *("-o", options, "-l", f"{self.data(number)}.log", "start"),
        )

    def _stop(self, number: int) -> None:
        data = self.data(number)
        if (data / "postmaster.pid").exists():
            self._run(self.bin / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")

    def written(self) -> Written:
        with psycopg.connect(self.writer_url, autocommit=True) as client:
            row = client.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return Written(int(row[0]))

    def settings(self) -> dict[str, str]:
        version = subprocess.run(
            [self.bin / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        return {
            "version": version.stdout.strip(),
            "servers": str(len(self._servers)),
            **SETTINGS,
            **self.more,
        }
