"""Is one seed one history? Each seed is run under other hash seeds, and under another Python.

    python -m benchmarks.determinism [--seeds A..B] [--python PATH ...]

Every run is a fresh interpreter's: this one's twice, with PYTHONHASHSEED 1 and 2, and each PATH's once (it
needs Sextet's dependencies: `PYTHON=python3.13 make up` in another clone makes such a `.venv/bin/python`).
Prints how many seeds had the same trace hash everywhere, and those that had not. Exit status 1 if there are
any, or if a process died: then what it said last is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

CHILD = """
import sys
from cluster.sim.jobs import runs
from cluster.sim.schedule import Task
from cluster.sim.swarm import draw
tasks = [Task(draw(seed)) for seed in range(int(sys.argv[1]), int(sys.argv[2]))]
for outcome in runs(tasks, jobs=1):
    if outcome.result is None:
        sys.exit(f"seed {outcome.task.plan.seed}: {outcome.died}")
    print(outcome.task.plan.seed, outcome.result.digest, flush=True)
"""


LINES_MAX = 20


class Died(Exception):
    """A process did not get through its seeds; the message says which, and why."""


def histories(python: str, hash_seed: int, seeds: range) -> dict[int, str]:
    """Trace hash by seed. Raises Died."""
    done = subprocess.run(
        [python, "-c", CHILD, str(seeds.start), str(seeds.stop)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-LINES_MAX:])
        raise Died(f"{python}, PYTHONHASHSEED={hash_seed}: status {done.returncode}\n{said}")
    return {int(seed): digest for seed, digest in map(str.split, done.stdout.splitlines())}


def version(python: str) -> str:
    said = "import platform, apsw; print(platform.python_version(), 'SQLite', apsw.sqlite_lib_version())"
    return subprocess.run(
        [python, "-c", said], capture_output=True, text=True, check=True
    ).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default="1..100", metavar="A..B")
    parser.add_argument("--python", action="append", default=[], metavar="PATH")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    ways = [(sys.executable, 1), (sys.executable, 2), *((python, 3) for python in options.python)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(histories, python, hash_seed, seeds) for python, hash_seed in ways]
    died = [str(error) for one in running if (error := one.exception()) is not None]
    for why in died:
        print(why)
    if died:
        return 1
    found = [one.result() for one in running]
    for python, hash_seed in ways:
        print(f"{python}: {version(python)}, PYTHONHASHSEED={hash_seed}")
    differ = [seed for seed in seeds if len({hashes.get(seed) for hashes in found}) != 1]
    for seed in differ:
        print(f"seed {seed}: {', '.join(str(hashes.get(seed)) for hashes in found)}")
    print(
        f"{len(seeds) - len(differ)} of {len(seeds)} seeds have one history, run {len(ways)} times each"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
