"""Where does a commit's CPU go? Process by process, then function by function (`make profile`).

    python -m benchmarks.profile [--script update] [--clients 16] [--seconds 10] [--only NAME]

First pgbench runs against a cluster that nothing watches, and what each process has used of the CPU
meanwhile, by the kernel's count, is divided by the commits. Then it runs again while every process
of Sextet profiles its event loop's thread (SEXTET_PROFILE, cProfile: everything takes longer, calls
more so than work), and the functions that took most themselves are listed for one process of each
kind. The profiles stay for `pstats` or snakeviz.
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench import pgbench, scripts
from benchmarks.local import RESULTS, Cluster, cluster, save
from benchmarks.procfs import cpu_s

SCALE = 1
WRITTEN_S = 10.0


def processes(made: Cluster) -> dict[str, int]:
    status = made.status()
    found = {str(one["name"]): int(one["pid"]) for one in status["processes"] if one["pid"]}
    return dict(sorted(found.items()))


def run_pgbench(made: Cluster, script: Path, arguments: argparse.Namespace) -> pgbench.Measured:
    return pgbench.run(
        script,
        [made.status()["endpoints"]["writer"]],
        clients=arguments.clients,
        seconds=arguments.seconds,
        scale=SCALE,
    )


def shares(made: Cluster, script: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU microseconds of each process for one transaction."""
    pids = processes(made)
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    measured = run_pgbench(made, script, arguments)
    wall = time.perf_counter() - began
    used = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    count = max(1, measured.count)
    print(f"{arguments.script}, {arguments.clients} clients: {measured.tps:.0f} tps")
    for name, seconds in sorted(used.items(), key=lambda one: -one[1]):
        print(
            f"  {name:14} {seconds / count * 1e6:7.0f} µs   {100 * seconds / wall:5.1f} % of one CPU"
        )
    total = sum(used.values())
    print(f"  {'all of them':14} {total / count * 1e6:7.0f} µs   {100 * total / wall:5.1f} %")
    return {
        "tps": measured.tps,
        "cpu_us_per_transaction": {n: round(s / count * 1e6, 1) for n, s in used.items()},
    }


def functions(
    made: Cluster, script: Path, arguments: argparse.Namespace, folder: Path
) -> Mapping[str, Path]:
    pids = processes(made)
    told = {name: pid for name, pid in pids.items() if kind_of(name) in KINDS}
    for pid in told.values():
        os.kill(pid, signal.SIGUSR1)
    measured = run_pgbench(made, script, arguments)
    for pid in told.values():
        os.kill(pid, signal.SIGUSR1)
    print(f"\nprofiled: {measured.tps:.0f} tps")
    deadline = time.monotonic() + WRITTEN_S
    paths = {name: folder / f"{name}.prof" for name in told}
    while not all(path.exists() for path in paths.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {name: path for name, path in paths.items() if path.exists()}


KINDS = ("writer", "replica", "storage", "control", "archiver")


def kind_of(name: str) -> str:
    if re.fullmatch(r"main-\d+", name):
        return "writer" if name == "main-1" else "replica"
    return {"storage": "storage", "archive": "archiver"}.get(name.partition("-")[0], name)


def show(paths: Mapping[str, Path], arguments: argparse.Namespace) -> None:
    seen: set[str] = set()
    for name, path in paths.items():
        kind = kind_of(name)
        if kind in seen or (arguments.only and arguments.only not in (kind, name)):
            continue
        seen.add(kind)
        stats: Any = pstats.Stats(str(path))
        total = stats.total_tt or 1.0
        print(f"\n{kind} ({name}): own time of the loop's thread")
        rows = sorted(stats.stats.items(), key=lambda one: -one[1][2])
        for (file, line, function), (calls, _, own, *_rest) in rows[: arguments.functions]:
            where = f"{Path(file).parent.name}/{Path(file).name}:{line}" if line else ""
            print(f"  {100 * own / total:5.1f} %  {calls:9} calls  {function:32.32} {where}")


def main() -> None:
    names = sorted({work.name for work in scripts.WORKS})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--script", default="update", choices=names)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--functions", type=int, default=12, help="how many of each kind")
    parser.add_argument(
        "--only", default="", help="a kind of process (writer, storage, ...) or a name"
    )
    arguments = parser.parse_args()
    if shutil.which("pgbench") is None:
        sys.exit("pgbench is missing (Debian: postgresql-contrib)")
    folder = RESULTS / "profile"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["SEXTET_PROFILE"] = str(folder.resolve())
    script = folder / "script.sql"
    script.write_text(next(w.script for w in scripts.WORKS if w.name == arguments.script))
    with cluster() as made:
        with made.connect() as client:
            for sql in scripts.SCHEMA:
                client.execute(sql.encode())
            for sql, _ in scripts.fill(SCALE):
                client.execute(sql.encode())
        found = shares(made, script, arguments)
        paths = functions(made, script, arguments, folder)
    show(paths, arguments)
    save("profile", {"script": arguments.script, "clients": arguments.clients, **found})
    print(f"\nprofiles: {folder}")


if __name__ == "__main__":
    main()
