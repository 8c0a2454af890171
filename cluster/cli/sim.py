"""`sextet sim`: runs of the deterministic simulator, and what to make of one that fails."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.cli import simreport as report
from cluster.cli.console import err, print_json
from cluster.cli.errors import EXIT_FAILED
from cluster.sim import schedule
from cluster.sim.expect import CHECKER as EXPECT
from cluster.sim.jobs import LIMIT_S, Outcome, attempt, each, runs, slim
from cluster.sim.run import Plan, Result
from cluster.sim.scenario import Scenario, find, shipped
from cluster.sim.schedule import Task
from cluster.sim.shrink import TRIES, Shrunk, shrink
from cluster.sim.swarm import draw
from cluster.sim.timeline import Collector, Event, Focus
from cluster.sim.totals import Totals
from engine.errors import ConfigError

FAILURES_KEPT = 20
"""Of many runs, so many that failed are told in full; all are counted."""

SHRINKS_MAX = 2
"""Of many runs, so many failures that differ are made smaller: each takes minutes."""

JOBS_MAX = 64
"""Runs at a time, whatever was asked for: each needs a file descriptor here, and as a rule a CPU."""

INTERRUPTED = 130
SEED_BELOW = 1_000_000_000
SEEDS = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class SimOptions:
    """What was asked for on the command line."""

    seed: int | None = None
    seeds: str | None = None
    jobs: int | None = None
    scenario: str | None = None
    replay: Path | None = None
    save: Path | None = None
    trace: Path | None = None
    timeline: str | None = None
    complete: int | None = None
    shrink: bool = True
    tries: int = TRIES
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed, and the smallest one that fails in the same way, if it was looked for."""

    outcome: Outcome
    command: str
    shrunk: Shrunk | None = None
    violated: Result | None = None
    """What the shrunk run, or else the run itself, showed when it was made again for its timeline."""
    events: Sequence[Event] = ()


def list_scenarios(*, as_json: bool) -> None:
    known = shipped()
    if as_json:
        print_json([report.scenario_to_json(s) for s in known.values()])
    else:
        report.print_scenarios(known.values())


def simulate(options: SimOptions) -> int:
    """Make the runs, print what they showed. The exit status. Raises ConfigError."""
    plan = _Asked(options)
    for path in (options.save, options.trace):
        if path is not None:
            _refuse_unwritable(path)
    single = len(plan.seeds) == 1
    if not options.as_json and plan.scenario is not None:
        report.print_story(plan.scenario)
    if single:
        if options.complete is not None:
            raise ConfigError("--complete is about many runs: give --seeds A..B")
        return _one(plan, options)
    for name in ("trace", "timeline"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} shows one run: give one seed")
    return _many(plan, options)


class _Asked:
    """Which runs: seeds, and what makes a task of each."""

    def __init__(self, options: SimOptions) -> None:
        if options.seed is not None and options.seeds is not None:
            raise ConfigError("give --seed or --seeds, not both")
        self.options = options
        self.scenario: Scenario | None = None
        self.saved: Task | None = None
        if options.replay is not None:
            if (options.seed, options.seeds, options.scenario) != (None, None, None):
                raise ConfigError("--replay takes seed and all from its file; give nothing else")
            self.saved = schedule.load(options.replay)
            self.seeds: Sequence[int] = (self.saved.plan.seed,)
            return
        if options.scenario is not None:
            self.scenario = find(options.scenario)
        if options.seeds is not None:
            self.seeds = parse_seeds(options.seeds)
        elif options.seed is not None:
            self.seeds = (options.seed,)
        else:
            self.seeds = (1 + secrets.randbelow(SEED_BELOW - 1),)

    def task(self, seed: int) -> Task:
        if self.saved is not None:
            return self.saved
        if self.scenario is not None:
            return self.scenario.task(seed)
        return Task(draw(seed), title="swarm")

    def command(self, seed: int) -> str:
        """How to make that run again."""
        if self.options.replay is not None:
            return f"sextet sim --replay {self.options.replay}"
        scenario = f" --scenario {self.options.scenario}" if self.scenario is not None else ""
        return f"sextet sim --seed {seed}{scenario}"


def parse_seeds(text: str) -> range:
    """ "3..7" is 3, 4, 5, 6, 7; "3" is 3. Raises ConfigError."""
    found = SEEDS.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--seeds is {text!r}; write A..B, as in 1..300, with numbers below {SEED_BELOW:,}"
        )
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if last < first:
        raise ConfigError(f"--seeds is {text!r}; the second number must not be below the first")
    return range(first, last + 1)


def parse_span(text: str) -> tuple[float, float]:
    """ "3..7.5" in seconds; "all" is everything. Raises ConfigError."""
    if text == "all":
        return 0.0, float("inf")
    first, dots, last = text.partition("..")
    try:
        start, end = float(first or 0), float(last or "inf")
    except ValueError:
        start, end = 1.0, 0.0
    if not dots or not start <= end:  # not a number, for one
        raise ConfigError(
            f"--timeline is {text!r}; write FROM..TO in seconds, as in 4..6.5, or all"
        )
    return start, end


def _jobs(options: SimOptions) -> int:
    return min(JOBS_MAX, options.jobs or len(os.sched_getaffinity(0)))


# -- one run


def record(task: Task, trace: Path | None) -> tuple[Result, list[Event], str]:
    """Make the run with its events collected, and its trace written to a file if asked for.

    The text is "", or why the file is not whole.
    """
    collector = Collector()
    if trace is None:
        return slim(attempt(task, out=cast(IO[str], collector))), collector.events, ""
    both = _Both(collector, trace)
    result = attempt(task, out=cast(IO[str], both))
    both.close()
    return slim(result), collector.events, both.unwritten


class _Both:
    """Events to a collector and to a file.

    An error of the file goes no further than this, as nodes write events: it would reach them in the
    middle of what they do, and pass for a fault of their disk.
    """

    def __init__(self, collector: Collector, path: Path) -> None:
        self.unwritten = ""
        """Why the file is not whole."""
        self._collector = collector
        self._file: IO[str] | None = None
        with self._noticing():
            self._file = path.open("w", encoding="utf-8")

    def write(self, line: str) -> int:
        self._collector.write(line)
        if self._file is not None and not self.unwritten:
            with self._noticing():
                self._file.write(line)
        return len(line)

    def close(self) -> None:
        if self._file is not None:
            with self._noticing():
                self._file.close()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.unwritten = self.unwritten or error.strerror or str(error)


def _recorded(task: Task, trace: Path | None = None) -> tuple[Outcome, list[Event]]:
    """Raises ConfigError if the trace was asked for and could not be written."""
    with closing(each([task], partial(record, trace=trace), jobs=1)) as found:
        done = next(found)
    if done.value is None:
        return Outcome(task, None, done.died), []
    result, events, unwritten = done.value
    if unwritten:
        raise ConfigError(f"{trace} cannot be written: {unwritten}")
    return Outcome(task, result), events


def _one(asked: _Asked, options: SimOptions) -> int:
    span = parse_span(options.timeline) if options.timeline is not None else None
    (seed,) = asked.seeds
    task = asked.task(seed)
    totals = Totals()
    outcome: Outcome | None = None
    events: list[Event] = []
    failures: list[Failure] = []
    interrupted = False
    try:
        outcome, events = _recorded(task, options.trace)
        totals.add(outcome)
        if not outcome.ok:
            failures.append(_explained(outcome, asked.command(seed), options, events))
    except KeyboardInterrupt:
        interrupted = True
        if outcome is not None and not outcome.ok:
            failures = [Failure(outcome, asked.command(seed), None, outcome.result, events)]
    if options.as_json:
        print_json(report.to_json(totals, failures, outcome, interrupted=interrupted))
    else:
        report.print_totals(totals, outcome, interrupted=interrupted)
        if span is not None and outcome is not None:
            overview = options.timeline == "all"
            report.print_timeline(events, Focus(*span, () if overview else None))
        report.print_failures(failures)
    if outcome is not None:
        _save(options, task, failures)
    if interrupted:
        err.print(_cut_short(totals, 1))
        return INTERRUPTED
    return EXIT_FAILED if failures else 0


# -- many runs


def _many(asked: _Asked, options: SimOptions) -> int:
    totals = Totals()
    failed: list[Outcome] = []
    failures: list[Failure] = []
    interrupted = False
    tasks = (asked.task(seed) for seed in asked.seeds)
    try:
        with (
            closing(runs(tasks, jobs=_jobs(options))) as outcomes,
            _progress(len(asked.seeds), options) as tell,
        ):
            for outcome in outcomes:
                totals.add(outcome)
                if not outcome.ok and len(failed) < FAILURES_KEPT:
                    failed.append(outcome)
                tell(totals, outcome)
        failed.sort(key=_by_seed)
        _explain_all(failed, asked, options, failures)
    except KeyboardInterrupt:
        interrupted = True
        failed.sort(key=_by_seed)
        rest = failed[len(failures) :]
        failures += [Failure(outcome, asked.command(_by_seed(outcome))) for outcome in rest]
    judged = options.complete is not None and not interrupted  # half of the runs would show nothing
    untested = totals.incomplete(options.complete or 0) if judged else []
    if options.as_json:
        told = report.to_json(totals, failures, None, interrupted=interrupted, untested=untested)
        print_json(told)
    else:
        report.print_totals(totals, None, interrupted=interrupted)
        report.print_failures(failures)
        report.print_untested(untested)
    if failures:
        _save(options, failures[0].outcome.task, failures)
    elif options.save is not None:
        err.print("nothing was saved, as no run failed")
    if interrupted:
        err.print(_cut_short(totals, len(asked.seeds)))
        return INTERRUPTED
    return EXIT_FAILED if totals.failed or untested else 0


def _by_seed(outcome: Outcome) -> int:
    return outcome.task.plan.seed


def _cut_short(totals: Totals, wanted: int) -> str:
    if totals.runs < wanted:
        return f"interrupted after {totals.runs} of {wanted} runs"
    return "interrupted while looking for shorter runs that fail in the same way"


@contextmanager
def _progress(total: int, options: SimOptions) -> Iterator[Any]:
    """A bar on a terminal, a line for every tenth of the runs elsewhere, failures in both."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        auto_refresh=False,  # no thread: this process forks
        transient=True,
        disable=not err.is_terminal,
    )
    every = max(1, total // 10)
    with bar:
        shown = bar.add_task("runs", total=total)

        def tell(totals: Totals, outcome: Outcome) -> None:
            if not outcome.ok:
                bar.console.print(
                    f"[red]seed {outcome.task.plan.seed}[/red]: {', '.join(outcome.kinds)}"
                )
            bar.update(shown, completed=totals.runs, description=f"{totals.failed} failed")
            bar.refresh()
            if not err.is_terminal and not options.as_json and totals.runs % every == 0:
                err.print(f"{totals.runs} of {total} runs, {totals.failed} failed")

        yield tell


# -- failures


def _explain_all(
    failed: list[Outcome], asked: _Asked, options: SimOptions, failures: list[Failure]
) -> None:
    """The first failures that differ are shrunk and told; the others are named.

    Each is added to `failures` as soon as it is known: Ctrl-C leaves those.
    """
    seen: set[str] = set()
    for outcome in failed:
        command = asked.command(outcome.task.plan.seed)
        if outcome.telling in seen or len(seen) >= SHRINKS_MAX:
            failures.append(Failure(outcome, command))
            continue
        seen.add(outcome.telling)
        failures.append(_explained(outcome, command, options, ()))


def _explained(
    outcome: Outcome, command: str, options: SimOptions, events: Sequence[Event]
) -> Failure:
    """Shrink it and make it once more for its timeline. `events` are the run's, if it was recorded."""
    kind = outcome.telling
    shrunk = None
    if options.shrink and not kind.startswith(f"{EXPECT}/"):
        shrunk = _shrunk(outcome, kind, options)
        again, events = _recorded(replace(outcome.task, plan=shrunk.plan))
        return Failure(outcome, command, shrunk, again.result, events)
    if not events:
        again, events = _recorded(outcome.task)
        return Failure(outcome, command, None, again.result, events)
    return Failure(outcome, command, None, outcome.result, events)


def _shrunk(outcome: Outcome, kind: str, options: SimOptions) -> Shrunk:
    """Runs that end much later than the one that failed are given up."""
    tried = 0
    result = outcome.result
    limit_s = min(LIMIT_S, 30 + 10 * result.wall_s) if result is not None else LIMIT_S

    def work(numbered: tuple[int, Plan]) -> tuple[str, ...]:
        task = replace(outcome.task, plan=numbered[1])
        return Outcome(task, attempt(task)).kinds

    def first(plans: Sequence[Plan]) -> int | None:
        nonlocal tried
        ended: dict[int, bool] = {}
        with closing(each(enumerate(plans), work, jobs=_jobs(options), limit_s=limit_s)) as found:
            for done in found:
                kinds = done.value if done.value is not None else ("process/died",)
                ended[done.item[0]] = kind in kinds
                tried += 1
                if err.is_terminal:
                    err.print(f"shrinking: {tried} tries", end="\r")
                for number in range(len(plans)):
                    if number not in ended:
                        break
                    if ended[number]:
                        return number
        return None

    return shrink(outcome.task.plan, first, tries=options.tries)


def _refuse_unwritable(path: Path) -> None:
    """Raises ConfigError for a file that cannot be written: now, not after the runs. Leaves it as it is."""
    there = os.path.lexists(path)
    try:
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _save(options: SimOptions, task: Task, failures: Sequence[Failure]) -> None:
    """The run, or what the first failure was shrunk to."""
    if options.save is None:
        return
    shrunk = next((f.shrunk for f in failures if f.shrunk is not None), None)
    if shrunk is not None:
        task = replace(task, plan=shrunk.plan, title=f"{task.title}, shrunk")
    schedule.save(task, options.save)
