"""Looking for the first seed that shows a mutant: `make mutants`, or `python -m tests.mutants.hunt`.

A mutant counts as caught by a seed only if the run shows a kind of violation that the same seed does
not show with the code as it is. A run that crashes or never ends shows only that the edit is broken: no
checker has seen anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from tests.mutants.mutant import Mutant
from tests.mutants.registry import MUTANTS, by_name

SEEDS_MAX = 500
CRASHES_MAX = 3
"""So many seeds may crash or hang before a mutant is given up as broken."""


class Worker:
    """A child process with one mutant, or none, in place. Ends with `close`."""

    def __init__(self, mutant: Mutant | None) -> None:
        name = mutant.name if mutant is not None else "-"
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, seed: int) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{seed}\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._child.wait()}; see above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


class Original:
    """What the code as it is shows, seed by seed; asked only where a mutant shows something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._known: dict[int, set[str]] = {}

    def kinds(self, seed: int) -> set[str]:
        with self._lock:
            if seed not in self._known:
                if self._worker is None:
                    self._worker = Worker(None)
                self._known[seed] = set(self._worker.run(seed)["kinds"])
            return self._known[seed]

    def failing(self) -> dict[int, set[str]]:
        return {seed: kinds for seed, kinds in sorted(self._known.items()) if kinds}

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


@dataclass
class Verdict:
    mutant: Mutant
    seeds: int
    """How many were run; the last one caught it, if any did."""
    seed: int | None
    kinds: list[str] = field(default_factory=list)
    message: str = ""
    wall_s: float = 0.0
    crashes: list[str] = field(default_factory=list)
    """How runs ended that a checker saw nothing in, or never came to see."""

    def row(self) -> tuple[str, ...]:
        shown = ", ".join(self.kinds[:3]) + (", ..." if len(self.kinds) > 3 else "")
        if self.seed is None:
            shown = (
                f"crashed: {', '.join(dict.fromkeys(self.crashes))}" if self.crashes else "SURVIVED"
            )
        return (
            self.mutant.name,
            self.mutant.invariant,
            shown,
            str(self.seeds),
            str(self.seed) if self.seed is not None else "",
            f"{self.wall_s:.0f} s",
        )


def is_crash(kind: str) -> bool:
    """The simulator itself did not get through the run."""
    return kind.startswith("crash/") or kind == "run/hangs"


HEAD = ("mutant", "at stake", "caught by", "seeds", "seed", "wall")


def hunt(
    mutant: Mutant, seeds: Iterable[int], original: Original, ignore: Iterable[str] = ()
) -> Verdict:
    """Run `seeds` in order until one shows the mutant, by a kind that is not to be ignored."""
    ignored = set(ignore)
    began = time.perf_counter()
    worker = Worker(mutant)
    verdict = Verdict(mutant, 0, None)
    try:
        for seed in seeds:
            verdict.seeds += 1
            shown = worker.run(seed)
            new = set(shown["kinds"]) - ignored
            every = sorted(new - original.kinds(seed)) if new else []
            kinds = [kind for kind in every if not is_crash(kind)]
            if every and not kinds:
                verdict.crashes += every
                verdict.message = shown["message"]
                if len(verdict.crashes) >= CRASHES_MAX:
                    break
            if kinds:
                verdict.seed, verdict.kinds, verdict.message = seed, kinds, shown["message"]
                break
    finally:
        worker.close()
        verdict.wall_s = time.perf_counter() - began
    return verdict


def table(rows: Sequence[Sequence[str]]) -> str:
    every = [HEAD, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in every]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants; all if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="mutants hunted at a time")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="how many at most")
    parser.add_argument("--ignore", default="", help="kinds of violation not to count: a/b,c/d")
    parser.add_argument("--list", action="store_true", help="name the mutants and end")
    args = parser.parse_args()
    mutants = [by_name(name) for name in args.names] or list(MUTANTS)
    if args.list:
        for mutant in mutants:
            print(f"{mutant.name:<34}{mutant.invariant:<6}{mutant.breaks}")
        return 0
    seeds = range(args.first, args.first + args.seeds)
    ignore = args.ignore.split(",")
    original = Original()
    verdicts: dict[str, Verdict] = {}
    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            futures = [pool.submit(hunt, mutant, seeds, original, ignore) for mutant in mutants]
            for future in as_completed(futures):
                verdict = future.result()
                verdicts[verdict.mutant.name] = verdict
                print("  ".join(verdict.row()), file=sys.stderr, flush=True)
    finally:
        original.close()
    print(table([verdicts[mutant.name].row() for mutant in mutants]))
    for seed, kinds in original.failing().items():
        print(f"without any mutant seed {seed} shows {', '.join(sorted(kinds))}")
    not_caught = [name for name, verdict in verdicts.items() if verdict.seed is None]
    print(f"{len(verdicts) - len(not_caught)} of {len(verdicts)} caught")
    return 1 if not_caught else 0


if __name__ == "__main__":
    raise SystemExit(main())
