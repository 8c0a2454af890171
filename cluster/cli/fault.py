"""`sextet fault`: what can go wrong, done on purpose to processes that run (docs/faults.md)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import ConfigError

if TYPE_CHECKING:
    from cluster.faults.kit import FaultKit
    from engine.faults.file import ActiveFault

fault_app = typer.Typer(
    help="Break a running cluster on purpose, and heal it. TARGET: a node, a zone, or a role: "
    "writer, replica, storage, endpoint, all.",
    no_args_is_help=True,
)

Data = Annotated[
    Path,
    typer.Option("--data", envvar="SEXTET_DATA", metavar="DIR", help="Folder of the installation."),
]
Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", show_default=False)]
For = Annotated[
    str | None,
    typer.Option(
        "--for", metavar="TIME", help="End it after 30s, 500ms, 2m; otherwise when it is healed."
    ),
]
DATA = Path(".sextet")

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
    for target in targets:
        _say(begin(kit, target))


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
    data: Data = DATA,
) -> None:
    """kill -9. It is started again at once, after --for, or with --hold when it is healed."""
    _each(data, targets, lambda kit, t: kit.kill(t, for_s=seconds(for_), hold=hold))


@fault_app.command()
def pause(targets: Targets, for_: For = None, data: Data = DATA) -> None:
    """Stop a process (SIGSTOP): it hangs, connections stay open."""
    _each(data, targets, lambda kit, t: kit.pause(t, for_s=seconds(for_)))


@fault_app.command()
def resume(targets: Targets, data: Data = DATA) -> None:
    """Let a paused process go on."""
    kit = _kit(data)
    for target in targets:
        if not kit.resume(target):
            raise ConfigError(f"{target} is not paused")


@fault_app.command()
def wipe(targets: Targets, for_: For = None, data: Data = DATA) -> None:
    """kill -9 a storage node and delete its folder: it comes back with an empty disk."""
    _each(data, targets, lambda kit, t: kit.wipe(t, for_s=seconds(for_)))


@fault_app.command()
def az(
    name: Annotated[str, typer.Argument(metavar="AZ", help="az1, az2 or az3.")],
    state: Annotated[str, typer.Argument(metavar="down|up")],
    for_: For = None,
    data: Data = DATA,
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


# -- seeing and ending


@fault_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = DATA,
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
    data: Data = DATA,
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
