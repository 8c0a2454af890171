"""The mutants still apply, and some of them are caught for real.

`make mutants` hunts all of them; here only that none has silently become the original.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.mutants.hunt import Original, Verdict, hunt, main, table
from tests.mutants.mutant import Edit, Mutant, NotApplicable, install, mutated, source_of
from tests.mutants.registry import MUTANTS, by_name

QUICK = {
    "commit-before-vdl": 2,
    "failed-fsync-retried": 1,
    "stale-writer": 10,
    "vdl-rounded-up": 2,
}
"""Each with a seed that shows it."""

PLANS = Path(__file__).parent / "plans"
"""Runs in which the simulator found a bug of this code, or would have: each with the mutant that plants
it again. A plan says everything itself, so no change of the swarm gives it another story."""

SHOWN = {
    "built-over-a-hole": "invariants/hole-in-log",
    "closed-file-torn": "invariants/sealed-not-durable",
    "found-not-rewritten": "invariants/ack-not-durable",
    "lost-still-counts": "invariants/vdl-without-quorum",
}

OTHERS = sorted(QUICK.keys() - {"failed-fsync-retried"})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_applies_and_compiles(mutant: Mutant) -> None:
    by_module: dict[str, list[Edit]] = {}
    for edit in mutant.edits:
        by_module.setdefault(edit.module, []).append(edit)
    for module, edits in by_module.items():
        source = source_of(module)
        changed = mutated(source, edits)
        assert changed != source
        compile(changed, module, "exec")


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 18


@pytest.mark.parametrize("found", [0, 2])
def test_text_that_is_not_there_exactly_once_is_refused(found: int) -> None:
    with pytest.raises(NotApplicable, match=f"{found} times"):
        mutated("x = 1\n" * found, [Edit("some.module", "x = 1", "x = 2")])


def test_module_imported_already_is_refused() -> None:
    assert "tests.mutants.mutant" in sys.modules
    mutant = Mutant("late", "", "", (Edit("tests.mutants.mutant", "a", "b"),))
    with pytest.raises(NotApplicable, match="imported before"):
        install(mutant)


def test_only_the_process_that_installed_it_is_changed() -> None:
    script = (
        "from tests.mutants.mutant import install\n"
        "from tests.mutants.registry import by_name\n"
        "install(by_name('three-of-six'))\n"
        "from engine.volume.quorum import WRITE\n"
        "print(WRITE)\n"
    )
    with_it = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    without = subprocess.run(
        [sys.executable, "-c", "from engine.volume.quorum import WRITE; print(WRITE)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (with_it.stdout, without.stdout) == ("3\n", "4\n")


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    found = Original()
    yield found
    found.close()


@pytest.mark.parametrize(
    "name", ["failed-fsync-retried", *(pytest.param(n, marks=pytest.mark.long) for n in OTHERS)]
)
def test_mutant_is_caught(name: str, original: Original) -> None:
    seed = QUICK[name]
    verdict = hunt(by_name(name), [seed], original)
    assert verdict.seed == seed, f"seed {seed} no longer shows {name}"


def shown_by(plan: Path, mutant: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.worker", mutant],
        input=f"{plan}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    kinds: list[str] = json.loads(done.stdout)["kinds"]
    return kinds


def test_every_plan_has_what_it_shows() -> None:
    assert {path.stem for path in PLANS.iterdir()} == SHOWN.keys()


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_bug_that_the_simulator_found_is_found_again_and_is_not_there(name: str) -> None:
    plan = PLANS / f"{name}.json"
    assert SHOWN[name] in shown_by(plan, name)
    assert shown_by(plan, "-") == []


def test_survivor_is_said_to_survive() -> None:
    rows = [Verdict(by_name("three-of-six"), 500, None).row()]
    assert "SURVIVED" in table(rows)


class Scripted:
    """In the place of a worker: what each seed shows is given."""

    def __init__(self, shows: dict[int, list[str]]) -> None:
        self.shows = shows

    def run(self, seed: int) -> dict[str, Any]:
        return {"kinds": self.shows.get(seed, []), "message": f"seed {seed}"}

    def kinds(self, seed: int) -> set[str]:
        return set()

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("shows", "seed", "seeds", "said"),
    [
        ({1: ["crash/KeyError"], 2: ["run/hangs"]}, None, 9, "crashed: crash/KeyError, run/hangs"),
        ({seed: ["crash/child"] for seed in range(9)}, None, 3, "crashed: crash/child"),
        ({1: ["crash/KeyError"], 5: ["oracle/page"]}, 5, 6, "oracle/page"),
        ({}, None, 9, "SURVIVED"),
    ],
)
def test_a_mere_crash_is_not_caught(
    monkeypatch: pytest.MonkeyPatch,
    shows: dict[int, list[str]],
    seed: int | None,
    seeds: int,
    said: str,
) -> None:
    scripted = Scripted(shows)
    monkeypatch.setattr("tests.mutants.hunt.Worker", lambda _mutant: scripted)
    verdict = hunt(by_name("three-of-six"), range(9), cast(Original, scripted))
    assert (verdict.seed, verdict.seeds) == (seed, seeds)
    assert verdict.row()[2] == said


@pytest.mark.parametrize(("kind", "status"), [("crash/KeyError", 1), ("oracle/page", 0)])
def test_only_what_a_checker_saw_is_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, status: int
) -> None:
    scripted = Scripted({1: [kind]})
    monkeypatch.setattr("tests.mutants.hunt.Worker", lambda _mutant: scripted)
    monkeypatch.setattr("tests.mutants.hunt.Original.kinds", lambda *_: set())
    monkeypatch.setattr(sys, "argv", ["hunt", "three-of-six", "--seeds", "2"])
    assert main() == status
    assert f"{1 - status} of 1 caught" in capsys.readouterr().out
