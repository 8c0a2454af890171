"""Scenario files: what is wrong with one is said; those that are shipped show what their stories say."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.faults.catalogue import Fault, Kind
from cluster.sim import scenario
from cluster.sim.jobs import runs
from cluster.sim.scenario import find, parse, shipped
from engine.errors import ConfigError
from engine.steps import Step

SEEDS = (1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long))
FOLDER = Path(scenario.__file__).parent / "scenarios"

WHOLE = """
name = "demo"
title = "A demonstration"
story = "Something happens."

[cluster]
replicas = 1
storage = { gossip_s = 2.0 }

[workload]
clients = 3
weights = { append = 1 }

[run]
seconds = 5
heal_seconds = 10.5

[[fault]]
kind = "kill"
target = "main-2"
step = "apply"
when = "after"
nth = 3
at = 1
for_s = 2.5

[expect]
commits = ">= 1"
"""


def test_a_file_says_all_about_a_run() -> None:
    found = parse(WHOLE, "demo.toml")
    plan = found.task(9).plan
    assert (plan.seed, plan.shape.replicas, plan.mix.clients) == (9, 1, 3)
    assert plan.shape.storage.gossip_s == 2.0
    assert plan.shape.storage.scrub_s == found.task(1).plan.shape.storage.scrub_s == 1.0
    assert plan.mix.weights == {"append": 1.0}
    assert (plan.safety_s, plan.liveness_s) == (5.0, 10.5)
    assert plan.schedule == (
        Fault(Kind.KILL, "main-2", 1.0, 2.5, step=Step.APPLY, when="after", nth=3),
    )
    assert found.expect.required


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[cluster]", "[clutser]", "demo.toml has no clutser; it may have chapter, cluster"),
        ("replicas = 1", "replica = 1", "demo.toml: cluster has no replica; it may have"),
        (
            "replicas = 1",
            'replicas = "1"',
            "demo.toml: cluster.replicas is '1'; it must be a whole",
        ),
        (
            "gossip_s",
            "gosip_s",
            "demo.toml: cluster.storage has no gosip_s; it may have acks_queued",
        ),
        ("append = 1", "apend = 1", "demo.toml: weights has no apend; it may have append, bank"),
        ("seconds = 5", "second = 5", "demo.toml: run has no second; it may have heal_seconds"),
        ("seconds = 5", "seconds = true", "demo.toml: run.seconds is True; it must be a number"),
        (
            '"kill"',
            '"kil"',
            "demo.toml: fault 1: there is no kind 'kil'; there are kill, power, wipe",
        ),
        ("for_s", "fors", "demo.toml: fault 1: a fault has no fors; it has at, for_s, kind"),
        ('"main-2"', '"main-3"', "demo.toml: kill has no target main-3; here a target is one of"),
        ('"after"', '"afterwards"', "demo.toml: fault 1: a fault's when is before or after"),
        ('"apply"', '"aply"', "demo.toml: fault 1: there is no step 'aply'; there are receive"),
        ("at = 1", "at = true", "demo.toml: fault 1: a fault's at is True; it must be a number"),
        ("at = 1", f"at = 1{'0' * 400}", "demo.toml: fault 1: a fault's at is too large"),
        ("at = 1", "at = inf", "demo.toml: at of kill is inf; it must be seconds"),
        ("seconds = 5", f"seconds = 1{'0' * 400}", "demo.toml: run.seconds is too large a number"),
        ("seconds = 5", f"seconds = 1{'0' * 5000}", "demo.toml is not TOML: Exceeds the limit"),
        ("seconds = 5", f"seconds = {'[' * 5000}", "demo.toml is nested too deeply"),
        ("gossip_s = 2.0", "gossip_s = 0", "demo.toml: storage.gossip_s is 0.0; it must be above"),
        ('">= 1"', '"many"', "demo.toml: expect.commits is 'many'; write a comparison such as"),
        ("commits", "commit", "demo.toml: expect has no commit; it may have commits"),
        ('name = "demo"', "", "demo.toml has no name"),
        ('name = "demo"', "name = 4", "demo.toml: name is 4; it must be a string"),
        ('"A demonstration"', '" "', "demo.toml has no title"),
        ("[[fault]]", "[[fault]", "demo.toml is not TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_what_would_be_right(
    old: str, new: str, said: str
) -> None:
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        parse(WHOLE.replace(old, new, 1), "demo.toml")
    assert str(caught.value).startswith(said)


def test_a_scenario_is_found_by_its_name_or_its_file(tmp_path: Path) -> None:
    assert find("lose-an-az").name == "lose-an-az"
    (tmp_path / "mine.toml").write_text(WHOLE)
    assert find(str(tmp_path / "mine.toml")).name == "demo"
    with pytest.raises(ConfigError, match="there is no scenario mine; there are az-plus-one, "):
        find("mine")
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: .*No such file"):
        find(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"bytes\.toml cannot be read"):
        find(str(tmp_path / "bytes.toml"))


def test_a_dozen_and_more_are_shipped_and_each_says_what_it_shows() -> None:
    known = shipped()
    assert len(known) >= 12
    assert sorted(f"{name}.toml" for name in known) == sorted(p.name for p in FOLDER.iterdir())
    for found in known.values():
        assert found.chapter.startswith(("P17 ", "P18 ")), found.name
        assert len(found.story) > 150, found.name
        assert found.plan.schedule, found.name
        assert found.expect.bounds or found.expect.windows, found.name
    assert len({found.title for found in known.values()}) == len(known)


@pytest.mark.sim
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(shipped()))
def test_what_the_story_says_happens_whatever_the_seed(name: str, seed: int) -> None:
    for outcome in runs([shipped()[name].task(seed)], jobs=1):
        told = outcome.died or [str(v) for v in outcome.result.violations]  # type: ignore[union-attr]
        assert outcome.ok, f"sextet sim --scenario {name} --seed {outcome.task.plan.seed}: {told}"
