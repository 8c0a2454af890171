"""`sextet chaos`: a random fault run on real processes, and what to make of one that fails."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.chaos.run import Result, Run, shape_of
from cluster.chaos.schedule import Schedule, Shape, draw
from cluster.cli import chaosreport as report
from cluster.cli.client import running_layout
from cluster.cli.console import err, print_json
from cluster.cli.errors import EXIT_FAILED, CommandFailed, NotRunning
from cluster.faults.kit import FaultKit
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_READERS, load
from cluster.sim.history import History
from cluster.testing.local import LocalCluster
from engine.errors import ConfigError

SEED_BELOW = 1_000_000_000
TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What was asked for on the command line."""

    minutes: float = 1.0
    seed: int | None = None
    fresh: bool = False
    replicas: int | None = None
    dry_run: bool = False
    evidence: Path | None = None
    as_json: bool = False


def make_chaos(folder: Folder, options: ChaosOptions) -> int:
    """Make the run and print what it showed; the exit status. Raises NotRunning, ConfigError …"""
    if options.replicas is not None and not options.fresh:
        raise ConfigError("--replicas is for a cluster that is made for the run: give --fresh too")
    seed = options.seed if options.seed is not None else secrets.randbelow(SEED_BELOW) + 1
    seconds = options.minutes * 60
    if options.dry_run:
        _show(draw(seed, seconds, _shape(folder, options)), options)
        return 0
    if not options.fresh:
        return _on(folder, seed, seconds, options)
    shape = _shape(folder, options)
    draw(seed, seconds, shape)  # or say now what is wrong with it
    if not options.as_json:
        err.print("starting a cluster of its own for this run")
    with LocalCluster(replicas=len(shape.instances) - 1) as cluster:
        return _on(Folder.at(cluster.folder), seed, seconds, options)


def _shape(folder: Folder, options: ChaosOptions) -> Shape:
    """Of the installation, running or not; of a new one if there is none or it is asked for."""
    layout = None if options.fresh else load(folder.data)
    replicas = DEFAULT_READERS if options.replicas is None else options.replicas
    return Shape.new(replicas) if layout is None else shape_of(layout)


def _show(schedule: Schedule, options: ChaosOptions) -> None:
    if options.as_json:
        print_json(schedule.to_json())
    else:
        report.print_schedule(schedule)


def _on(folder: Folder, seed: int, seconds: float, options: ChaosOptions) -> int:
    """A run on an installation that is up. However it ends, no fault is left."""
    layout = running_layout(folder)
    kit = FaultKit(folder)
    kit.resolve("all")  # or say now that faults are not allowed
    if active := kit.active():
        raise CommandFailed(
            f"{len(active)} faults are active already; end them first with `sextet fault heal`"
        )
    schedule = draw(seed, seconds, shape_of(layout))
    if not options.as_json:
        report.print_intent(schedule, folder, fresh=options.fresh)
    try:
        result = _attempt(Run(folder, layout, schedule), options)
    finally:
        _heal(folder, kit)
    return conclude(result, folder, options)


def conclude(result: Result, folder: Folder, options: ChaosOptions) -> int:
    """Print what the run showed, and keep what a violation needs; the exit status. Raises OSError."""
    command = again(result.schedule.seed, options)
    kept = _keep(result, folder, options) if result.violations else None
    if options.as_json:
        print_json(report.to_json(result, command, kept))
    else:
        report.print_result(result, command, kept)
    return EXIT_FAILED if result.violations else 0


def _heal(folder: Folder, kit: FaultKit) -> None:
    """Nothing is to be healed of a cluster that went away meanwhile."""
    try:
        running_layout(folder)
    except NotRunning:
        return
    kit.heal()


def again(seed: int, options: ChaosOptions) -> str:
    """How to make that run again."""
    parts = [f"sextet chaos --minutes {options.minutes:g} --seed {seed}"]
    if options.fresh:
        parts.append("--fresh")
    if options.replicas is not None:
        parts.append(f"--replicas {options.replicas}")
    return " ".join(parts)


# -- while it runs


def _attempt(run: Run, options: ChaosOptions) -> Result:
    """Make the run and show how far it is. Raises ConfigError, NotRunning."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=options.as_json or not err.is_terminal,
    )
    seconds = run.result.schedule.seconds
    with bar:
        shown = bar.add_task("0 commits", total=seconds)

        def tell(text: str) -> None:
            if not options.as_json:
                bar.console.print(f"{run.clock():7.1f} s  {escape(text)}")

        async def tick() -> None:
            while True:
                commits = len(run.result.recorder.acknowledged)
                bar.update(
                    shown, completed=min(run.clock(), seconds), description=f"{commits} commits"
                )
                await asyncio.sleep(TICK_S)

        async def watched() -> Result:
            ticking = asyncio.create_task(tick(), name="progress")
            try:
                return await run.go(tell)
            finally:
                ticking.cancel()

        return _run_until_told(watched())


def _run_until_told(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it; a signal to end cancels it, as Ctrl-C does, instead of breaking off whatever task is running.

    Raises SystemExit if one came.
    """
    came: list[int] = []
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in numbers}

    async def told() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            came.append(number)
            task.cancel()

        for number in numbers:
            loop.add_signal_handler(number, end, number)
        return await work

    try:
        return asyncio.run(told())
    except asyncio.CancelledError:
        if came:
            sys.exit(128 + came[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- after a violation


def _keep(result: Result, folder: Folder, options: ChaosOptions) -> Path:
    """Write history, schedule and the nodes' logs into a folder; which. Raises OSError."""
    kept = options.evidence or Path(f"chaos-{result.schedule.seed}")
    kept.mkdir(parents=True, exist_ok=True)
    lines = result.recorder.history.to_lines()
    (kept / "history.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    everything = result.recorder.keys
    finals = (final.transaction(everything) for final in result.finals)
    shown = History(finals).to_lines()
    (kept / "final.jsonl").write_text("".join(f"{line}\n" for line in shown), encoding="utf-8")
    schedule = json.dumps(result.schedule.to_json(), indent=2)
    (kept / "schedule.json").write_text(f"{schedule}\n", encoding="utf-8")
    shutil.copytree(folder.log("x").parent, kept / "logs", dirs_exist_ok=True)
    return kept
