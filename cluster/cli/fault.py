"""`sextet fault`: what can go wrong, done on purpose to processes that run (docs/faults.md)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Data
from cluster.faults.catalogue import REAL_PARAMS, Kind
from engine.errors import ConfigError

if TYPE_CHECKING:
    from cluster.faults.kit import FaultKit
    from engine.faults.file import ActiveFault

fault_app = typer.Typer(
    help="Break a running cluster on purpose, and heal it. TARGET: a node, a zone, or a role: "
    "writer, replica, storage, endpoint, all.",
    no_args_is_help=True,
)

Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", show_default=False)]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TIME",
        help="End it after 30s, 500ms, 2m, at most 24h; otherwise when it is healed.",
    ),
]

SHARES, FACTORS = REAL_PARAMS[Kind.DROP]["share"], REAL_PARAMS[Kind.SLOW_DISK]["factor"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")


def seconds(text: str | None) -> float:
    """Seconds of "30s", "500ms", "2m", "1h" or "30"; 0 of None. Raises ConfigError."""
    if text is None:
        return 0.0
    match = _DURATION.fullmatch(text.strip().lower())
    value = float(match[1]) * _UNITS[match[2] or "s"] if match is not None else 0.0
    if value <= 0:
        raise ConfigError(f"{text!r} is no time; write it like 30s, 500ms or 2m")
    return value


def _kit(data: Path) -> FaultKit:
    """Raises NotRunning."""
    from cluster.cli.client import running_layout
    from cluster.faults.kit import FaultKit
    from cluster.local.folder import Folder

    folder = Folder.at(data)
    running_layout(folder)
    return FaultKit(folder)


def _each(data: Path, targets: list[str], begin: Callable[[FaultKit, str], ActiveFault]) -> None:
    """Begin a fault on each target. All of them must exist before the first begins."""
    kit = _kit(data)
    for target in targets:
        kit.resolve(target)
    for n, target in enumerate(targets):
        try:
            _say(begin(kit, target))
        except ConfigError as error:
            raise ConfigError(f"{error}{_others(targets[:n], targets[n + 1 :])}") from error


def _others(done: list[str], left: list[str]) -> str:
    """What became of the targets beside the one that failed."""
    said = f"; done to {', '.join(done)}" if done else ""
    return said + (f"; not tried on {', '.join(left)}" if left else "")


def _say(fault: ActiveFault) -> None:
    from cluster.cli.console import out
    from cluster.cli.faultlist import describe

    out.print(describe(fault), markup=False, soft_wrap=True)


# -- processes


@fault_app.command()
def kill(
    targets: Targets,
    for_: For = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep it down until it is healed.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """kill -9. It is started again at once, after --for, or with --hold when it is healed."""
    _each(data, targets, lambda kit, t: kit.kill(t, for_s=seconds(for_), hold=hold))


@fault_app.command()
def pause(targets: Targets, for_: For = None, data: Data = DEFAULT_DATA) -> None:
    """Stop a process (SIGSTOP): it hangs, connections stay open."""
    _each(data, targets, lambda kit, t: kit.pause(t, for_s=seconds(for_)))


@fault_app.command()
def resume(targets: Targets, data: Data = DEFAULT_DATA) -> None:
    """Let a paused process go on."""
    kit = _kit(data)
    for target in targets:
        if not kit.resume(target):
            raise ConfigError(f"{target} is not paused")


@fault_app.command()
def wipe(targets: Targets, for_: For = None, data: Data = DEFAULT_DATA) -> None:
    """kill -9 a storage node and delete its folder: it comes back with an empty disk."""
    _each(data, targets, lambda kit, t: kit.wipe(t, for_s=seconds(for_)))


@fault_app.command()
def az(
    name: Annotated[str, typer.Argument(metavar="AZ", help="az1, az2 or az3.")],
    state: Annotated[str, typer.Argument(metavar="down|up")],
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Take a whole availability zone down (kill -9, and it stays down), or let it come back."""
    kit = _kit(data)
    match state:
        case "down":
            _say(kit.az_down(name, for_s=seconds(for_)))
        case "up":
            if not kit.az_up(name):
                raise ConfigError(f"{name} is not down")
        case _:
            raise ConfigError(f"a zone goes down or up, not {state}")


@fault_app.command("crash-at")
def crash_at(
    step: Annotated[str, typer.Argument(metavar="STEP", help="A protocol step: persist, ack …")],
    targets: Targets,
    after: Annotated[
        bool, typer.Option("--after/--before", help="Behind the step, or ahead of it (default).")
    ] = False,
    nth: Annotated[int, typer.Option(min=1, help="The N-th time from now.")] = 1,
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let a process kill itself at a step of the protocol, once; with --for it stays down."""
    from engine.steps import Step

    if step not in set(Step):
        raise ConfigError(f"there is no step {step}; there is: {', '.join(Step)}")
    when = "after" if after else "before"
    _each(
        data,
        targets,
        lambda kit, t: kit.crash_at(t, Step(step), when=when, nth=nth, for_s=seconds(for_)),
    )


# -- the network

One = Annotated[str, typer.Argument(metavar="A", show_default=False)]
Other = Annotated[str, typer.Argument(metavar="B", show_default=False)]


@fault_app.command()
def partition(
    one: One,
    other: Other,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Only what A sends to B is cut.")
    ] = False,
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let nothing pass between two targets: silence, no refused connection."""
    _say(_kit(data).partition(one, other, one_way=one_way, for_s=seconds(for_)))


@fault_app.command()
def isolate(targets: Targets, for_: For = None, data: Data = DEFAULT_DATA) -> None:
    """Let nothing pass between a target and anybody else, its SQL clients included."""
    _each(data, targets, lambda kit, t: kit.isolate(t, for_s=seconds(for_)))


@fault_app.command("slow-net")
def slow_net(
    targets: Targets,
    latency: Annotated[str, typer.Option(metavar="TIME", help="Added, one way.")] = "50ms",
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Delay every message from and to a target."""
    _each(
        data,
        targets,
        lambda kit, t: kit.slow_net(t, latency_s=seconds(latency), for_s=seconds(for_)),
    )


@fault_app.command()
def drop(
    targets: Targets,
    share: Annotated[
        float, typer.Option(min=SHARES[0], max=SHARES[1], help="Of all messages.")
    ] = 0.1,
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let a share of the messages from and to a target be lost and sent again 0.2 s later."""
    _each(data, targets, lambda kit, t: kit.drop(t, share=share, for_s=seconds(for_)))


# -- disks and clocks


@fault_app.command("slow-disk")
def slow_disk(
    targets: Targets,
    factor: Annotated[
        float, typer.Option(min=FACTORS[0], max=FACTORS[1], help="So many times as slow.")
    ] = 50.0,
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let a storage node's disk take longer."""
    _each(data, targets, lambda kit, t: kit.slow_disk(t, factor=factor, for_s=seconds(for_)))


@fault_app.command("fail-fsync")
def fail_fsync(targets: Targets, data: Data = DEFAULT_DATA) -> None:
    """Let a storage node's next fsync fail: it ends itself and starts from what the disk holds."""
    _each(data, targets, lambda kit, t: kit.fail_fsync(t))


@fault_app.command("fill-disk")
def fill_disk(targets: Targets, for_: For = None, data: Data = DEFAULT_DATA) -> None:
    """Let no file on a storage node's disk grow."""
    _each(data, targets, lambda kit, t: kit.fill_disk(t, for_s=seconds(for_)))


@fault_app.command()
def corrupt(
    targets: Targets,
    what: Annotated[str, typer.Option(metavar="log|page", help="Where the bit flips.")] = "page",
    page: Annotated[
        int | None, typer.Option(min=0, help="Which page (0-based); the newest by default.")
    ] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Flip a bit in what storage nodes keep of a page: in the log, or in a page version."""
    _say(_kit(data).corrupt(*targets, what=what, page=page))


@fault_app.command("clock-skew")
def clock_skew(
    targets: Targets,
    by: Annotated[str, typer.Option(metavar="TIME", help="As in 1h or -10m.")] = "1h",
    for_: For = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Let a process's wall clock be wrong."""
    skew = -seconds(by[1:]) if by.startswith("-") else seconds(by)
    _each(data, targets, lambda kit, t: kit.clock_skew(t, seconds=skew, for_s=seconds(for_)))


# -- seeing and ending


@fault_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Show the faults in effect, how long they last, and how often they changed something."""
    from cluster.cli.faultlist import show

    show(_kit(data), as_json=as_json)


@fault_app.command()
def heal(
    which: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|TARGET]...", help="All, if none is given.", show_default=False),
    ] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """End faults: one by its id, those on a target, or all."""
    kit = _kit(data)
    wanted: list[str | None] = [*which] if which else [None]
    for what in wanted:
        ended = kit.heal(int(what) if what is not None and what.isdecimal() else what)
        if what is not None and not ended:
            raise ConfigError(f"there is no active fault on {what}")
        for fault in ended:
            _say(fault)
