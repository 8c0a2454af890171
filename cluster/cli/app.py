"""The `sextet` command. Each subcommand imports what it needs when it runs: help must be quick."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cluster.cli import autoscale, backup, cluster, endpoint, instance, snapshot, volume
from cluster.cli.errors import EXIT_FAILED, EXIT_NOT_RUNNING, NotRunning
from cluster.cli.fault import fault_app
from cluster.cli.options import DEFAULT_DATA, BacktrackWindow, Cluster, Data, Json, Past, Retention
from cluster.local.folder import Folder
from cluster.local.layout import DEFAULT_PORT, DEFAULT_READERS, READERS_MAX
from engine.errors import SextetError

app = typer.Typer(
    name="sextet",
    help="A small Aurora-style database: SQL over one volume kept six times in three zones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cluster.app, name="cluster")
app.add_typer(instance.app, name="instance")
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(autoscale.app, name="autoscale")
app.add_typer(backup.app, name="backup")
app.add_typer(volume.app, name="volume")
app.add_typer(snapshot.app, name="snapshot")


LSN_MAX = 2**63 - 1

app.add_typer(fault_app, name="fault")


@app.command()
def up(
    data: Data = DEFAULT_DATA,
    readers: Annotated[
        int | None,
        typer.Option(
            help=f"Read replicas of a new cluster, 0 to {READERS_MAX}; {DEFAULT_READERS} by default."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the writer endpoint, the reader endpoint gets the next one; "
            f"{DEFAULT_PORT} by default, or where they were before."
        ),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C, which stops the cluster.")
    ] = False,
    max_storage: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Largest size of a new cluster's database, e.g. 512M; 10G by default.",
        ),
    ] = None,
    faults: Annotated[
        bool | None,
        typer.Option(
            "--faults/--no-faults",
            help="May `sextet fault` break it? Allowed in a new installation, then as before.",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Archive to this folder or s3://BUCKET/PREFIX; a folder in the data folder by "
            "default, then as before.",
            show_default=False,
        ),
    ] = None,
    archive_every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How often what is new is archived; 1 by default, then as before.",
            show_default=False,
        ),
    ] = None,
    hot_window: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For so long the past stays readable on the storage nodes; 60 by default, then as "
            "before.",
            show_default=False,
        ),
    ] = None,
    retention: Retention = None,
    backtrack_window: BacktrackWindow = None,
) -> None:
    """Start everything and return once it answers SQL. What was in the folder before is there.

    The options are about the first cluster; `sextet cluster` makes others.
    """
    from cluster.cli.up import UpOptions, bring_up

    options = UpOptions(
        readers=readers,
        port=port,
        max_storage=max_storage,
        foreground=foreground,
        faults=faults,
        archive=archive,
        archive_every_s=archive_every,
        hot_window_s=hot_window,
        retention_days=retention,
        backtrack_window=backtrack_window,
    )
    bring_up(Folder.at(data), options)


@app.command()
def down(data: Data = DEFAULT_DATA) -> None:
    """Stop every process of the installation. The data stays."""
    from cluster.cli.down import bring_down

    bring_down(Folder.at(data))


@app.command()
def status(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    as_json: Json = False,
    every_group: Annotated[
        bool, typer.Option("--all", help="Show every protection group, however many.")
    ] = False,
) -> None:
    """Show instances, storage nodes, quorums and the volume's points. Exit status 3: it is down."""
    from cluster.cli.status import show_status

    show_status(Folder.at(data), cluster, as_json=as_json, every_group=every_group)


@app.command()
def restore(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A cluster here, or an archive.", show_default=False),
    ],
    name: Annotated[
        str, typer.Argument(metavar="NEW", help="What to call the new cluster.", show_default=False)
    ],
    data: Data = DEFAULT_DATA,
    to_time: Annotated[
        str | None,
        typer.Option(
            "--to-time",
            metavar="TIME",
            help="The state then: 2026-11-30T14:32:06Z, or '5 minutes ago'.",
            show_default=False,
        ),
    ] = None,
    to_lsn: Annotated[
        int | None,
        typer.Option("--to-lsn", metavar="LSN", help="The state at that LSN.", show_default=False),
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="All that is archived.")] = False,
    from_snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot", metavar="NAME", help="The snapshot of that name.", show_default=False
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="A folder, or s3://BUCKET/PREFIX; this installation's own by default.",
        ),
    ] = None,
    readers: Annotated[
        int, typer.Option(help="Read replicas of the new cluster.")
    ] = DEFAULT_READERS,
    retention: Retention = None,
    backtrack_window: BacktrackWindow = None,
) -> None:
    """Make a new cluster from an archive, as it was at some moment, or from a snapshot.

    Nothing of the old one is needed.
    """
    from cluster.cli.restore import RestoreOptions, restore_cluster

    past = Past(retention, backtrack_window)
    options = RestoreOptions(to_time, to_lsn, latest, store, readers, from_snapshot, past)
    restore_cluster(Folder.at(data), source, name, options)


@app.command()
def clone(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A cluster here.", show_default=False)
    ],
    name: Annotated[
        str, typer.Argument(metavar="NEW", help="What to call the clone.", show_default=False)
    ],
    data: Data = DEFAULT_DATA,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="LSN|TIME",
            help="As it was then, as far back as storage nodes still go: some seconds.",
            show_default=False,
        ),
    ] = None,
    readers: Annotated[
        int, typer.Option(help=f"Read replicas of the clone, 0 to {READERS_MAX}.")
    ] = DEFAULT_READERS,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the writer endpoint, the reader endpoint gets the next; free ones by default.",
            show_default=False,
        ),
    ] = None,
    retention: Retention = None,
    backtrack_window: BacktrackWindow = None,
) -> None:
    """Make a new cluster that shares a cluster's pages until one of the two writes them.

    It takes as long for a large one as for a small one, and the source goes on. A 16th clone of one source
    is a full copy.
    """
    from cluster.cli.cloning import CloneOptions
    from cluster.cli.cloning import clone as clone_it

    past = Past(retention, backtrack_window)
    clone_it(Folder.at(data), source, name, CloneOptions(at, readers, port, past))


@app.command()
def backtrack(
    cluster: Annotated[
        str, typer.Argument(metavar="CLUSTER", help="A cluster here.", show_default=False)
    ],
    data: Data = DEFAULT_DATA,
    to_time: Annotated[
        str | None,
        typer.Option(
            "--to-time",
            metavar="TIME",
            help="The state then: 2026-11-30T14:32:06Z, or '5 minutes ago'.",
            show_default=False,
        ),
    ] = None,
    to_lsn: Annotated[
        int | None,
        typer.Option("--to-lsn", metavar="LSN", help="The state at that LSN.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a cluster back, in place, to a moment within its backtrack window; or forward again.

    Every client's connection is closed. The nearest commit before that moment is taken.
    """
    from cluster.cli.backtracking import BacktrackOptions
    from cluster.cli.backtracking import backtrack as backtrack_it

    backtrack_it(Folder.at(data), cluster, BacktrackOptions(to_time, to_lsn, yes))


@app.command()
def failover(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="INSTANCE", help="The new writer; the best replica by default."
        ),
    ] = None,
) -> None:
    """Make a replica the writer, on purpose, and return once it takes writes."""
    from cluster.cli.failover import fail_over

    fail_over(Folder.at(data), cluster, to)


@app.command()
def events(
    data: Data = DEFAULT_DATA,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """Show what happened: failovers, epochs, growth, nodes that came back with another disk."""
    from cluster.cli.failover import show_events

    show_events(Folder.at(data), limit, as_json=as_json)


@app.command()
def sql(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    reader: Annotated[
        bool, typer.Option("--reader", help="Use the reader endpoint instead of the writer's.")
    ] = False,
    command: Annotated[
        str | None, typer.Option("-c", "--command", metavar="SQL", help="Run this and exit.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With -c: print the rows as a JSON array of objects.")
    ] = False,
) -> None:
    """Open a SQL shell, or run one command."""
    from cluster.cli.sql import run_command, run_shell

    folder = Folder.at(data)
    if command is not None:
        sys.exit(run_command(folder, cluster, command, reader=reader, as_json=as_json))
    if as_json:
        raise typer.BadParameter("--json needs -c")
    run_shell(folder, cluster, reader=reader)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A SQLite database; it is only read.")],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
) -> None:
    """Bring an existing SQLite database into the empty volume, all of it or nothing."""
    from cluster.cli.importing import import_file

    import_file(Folder.at(data), cluster, file)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The SQLite database to write.")],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a consistent copy of the database at one read point, stopping nothing."""
    from cluster.cli.exporting import export_file

    export_file(Folder.at(data), cluster, file, force=force)


@app.command()
def log(
    node: Annotated[str, typer.Argument(help="A storage node, e.g. storage-1.")],
    data: Data = DEFAULT_DATA,
    start: Annotated[
        int, typer.Option("--from", metavar="LSN", help="First LSN to show.", min=0, max=LSN_MAX)
    ] = 0,
    page: Annotated[
        int | None, typer.Option(help="Only records of this page (0-based).", min=0)
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many records.", min=1)] = 50,
    volume: Annotated[
        int | None, typer.Option(help="Which volume, where the node keeps several.", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the redo records that a storage node has in its hot log."""
    from cluster.cli.log import LogQuery, show_log

    query = LogQuery(start=start, page=page, limit=limit, volume=volume)
    show_log(Folder.at(data), node, query, as_json=as_json)


@app.command()
def sim(
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Make this run; a random one by default.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A..B", help="Make the runs of all these seeds.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="J", min=1, help="Runs at a time, at most 64; one for each CPU by default."
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Tell this story instead of drawing faults."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a run that --save has written.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the run, or the shortest that fails like it, to a file."
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every event as a line of JSON.")
    ] = None,
    timeline: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..TO", help="Show what happened in these virtual seconds, or all."
        ),
    ] = None,
    complete: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Fail unless the runs reach every mark and step, and each fault takes effect N times.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the scenarios there are.")] = False,
    shrink: Annotated[
        bool, typer.Option(help="Look for the shortest fault schedule that still fails.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run a whole cluster in virtual time under faults, and check it. Exit status 1: a violation."""
    from cluster.cli.sim import SimOptions, list_scenarios, simulate

    if list_:
        list_scenarios(as_json=as_json)
        return
    sys.exit(
        simulate(
            SimOptions(
                seed=seed,
                seeds=seeds,
                jobs=jobs,
                scenario=scenario,
                replay=replay,
                save=save,
                trace=trace,
                timeline=timeline,
                complete=complete,
                shrink=shrink,
                as_json=as_json,
            )
        )
    )


@app.command()
def chaos(
    minutes: Annotated[
        float,
        typer.Option(metavar="M", help="How long clients work and faults come, 0.25 to 20."),
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Draw these faults; random ones by default.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a cluster for this run and throw it away.")
    ] = False,
    replicas: Annotated[
        int | None,
        typer.Option(help=f"With --fresh: its read replicas, 0 to {READERS_MAX}; 2 by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the schedule of faults.")
    ] = False,
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where history and logs are kept if something was violated; chaos-SEED by default.",
        ),
    ] = None,
    data: Data = DEFAULT_DATA,
    as_json: Json = False,
) -> None:
    """Break a real cluster at random under a checked workload. Exit status 1: a violation."""
    from cluster.cli.chaos import ChaosOptions, make_chaos

    options = ChaosOptions(
        minutes=minutes,
        seed=seed,
        fresh=fresh,
        replicas=replicas,
        dry_run=dry_run,
        evidence=evidence,
        as_json=as_json,
    )
    sys.exit(make_chaos(Folder.at(data), options))


storage = typer.Typer(
    name="storage",
    help="Storage nodes: which there are, one more, one less, and whether all copies are equal.",
    no_args_is_help=True,
)
app.add_typer(storage)


@storage.command(name="list")
def storage_list(
    data: Data = DEFAULT_DATA, cluster: Cluster = "main", as_json: Json = False
) -> None:
    """Show storage nodes, how many segments each keeps, and which segments are being replaced."""
    from cluster.cli.storage import list_storage

    list_storage(Folder.at(data), cluster, as_json=as_json)


@storage.command(name="add")
def storage_add(
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    az: Annotated[
        str | None,
        typer.Option(metavar="AZ", help="Its zone; the one with the fewest nodes by default."),
    ] = None,
) -> None:
    """Start one more storage node. New protection groups use it, and it can replace another."""
    from cluster.cli.storage import add_storage

    add_storage(Folder.at(data), cluster, az)


@storage.command(name="drain")
def storage_drain(
    node: Annotated[str, typer.Argument(help="A storage node, e.g. storage-1.")],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    undo: Annotated[bool, typer.Option("--undo", help="Let it keep segments again.")] = False,
    wait: Annotated[bool, typer.Option(help="Return only once it keeps nothing any more.")] = True,
) -> None:
    """Have other nodes take over all segments of one, under load and without losing a copy."""
    from cluster.cli.storage import drain_storage

    drain_storage(Folder.at(data), cluster, node, undo=undo, wait=wait)


@storage.command(name="limit")
def storage_limit(
    size: Annotated[
        str | None, typer.Argument(metavar="[SIZE]", help="The new one, e.g. 20G.")
    ] = None,
    data: Data = DEFAULT_DATA,
    cluster: Cluster = "main",
    as_json: Json = False,
) -> None:
    """Show or change how large the volume may become, while it runs."""
    from cluster.cli.limit import set_limit, show_limit

    if size is not None:
        set_limit(Folder.at(data), cluster, size)
    if size is None or as_json:
        show_limit(Folder.at(data), cluster, as_json=as_json)


@storage.command(name="verify")
def storage_verify(
    data: Data = DEFAULT_DATA, cluster: Cluster = "main", as_json: Json = False
) -> None:
    """Read all copies of everything at one LSN and compare them. Exit status 1: they differ."""
    from cluster.cli.storage import verify_storage

    sys.exit(verify_storage(Folder.at(data), cluster, as_json=as_json))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench(context: typer.Context) -> None:
    """Measure Sextet against PostgreSQL with the same promise, as `make bench` does.

    Options: --rounds N, --seconds S, --scale N, --only NAME, --out FOLDER.
    """
    from cluster.cli.bench import run

    sys.exit(run(context.args))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"sextet {installed('sextet')}")


def main() -> None:
    """Entry point: every expected error is one line and an exit status, never a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    try:
        sys.exit(app(standalone_mode=False, prog_name="sextet"))
    except typer.TyperException as error:  # how the command was called
        if not error.format_message():  # no command at all: its help has been printed
            sys.exit(error.exit_code)
        _fail(_usage_message(error), error.exit_code)
    except NotRunning as error:
        _fail(str(error), EXIT_NOT_RUNNING)
    except SextetError as error:
        _fail(str(error), EXIT_FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", EXIT_FAILED)
    except typer.Abort:
        _fail("interrupted", EXIT_FAILED)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by way of every `finally`: a start that is half done is undone, as after Ctrl-C."""
    sys.exit(128 + number)


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return " ".join(error.format_message().split()).removesuffix(".") + hint


def _fail(message: str, status: int) -> NoReturn:
    print(f"sextet: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
