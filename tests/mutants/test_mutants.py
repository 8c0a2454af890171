"""The mutants still apply, and some of them are caught for real.

`make mutants` hunts all of them; here only that none has silently become the original.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.hunt import Original, Verdict, hunt, table
from tests.mutants.mutant import Edit, Mutant, NotApplicable, install, mutated, source_of
from tests.mutants.registry import MUTANTS, by_name

QUICK = {
    "commit-before-vdl": 4,
    "failed-fsync-retried": 1,
    "stale-writer": 6,
    "vdl-rounded-up": 3,
}
"""Each with a seed that shows it."""

PLANS = Path(__file__).parent / "plans"
"""Runs in which the simulator found a bug of this code, or would have: each with the mutant that plants
it again. A plan says everything itself, so no change of the swarm gives it another story."""

SHOWN = {
    "closed-file-torn": "run/not-quiet",
    "found-not-rewritten": "invariants/ack-not-durable",
    "index-below-floor": "segments/page-differs",
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
