"""`sextet autoscale set|show|off`: how many replicas there are, by what they do."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import DEFAULT_DATA, Cluster, Data, Json
from cluster.local.folder import Folder
from cluster.local.layout import MAIN
from cluster.local.policy import METRICS, REPLICAS_MAX

app = typer.Typer(help="Have replicas added and removed by what they do.", no_args_is_help=True)


@app.command(name="set")
def set_(
    target: Annotated[
        float, typer.Option(help="Per replica on average: connections, or statements a second.")
    ],
    data: Data = DEFAULT_DATA,
    cluster: Cluster = MAIN,
    metric: Annotated[str, typer.Option(metavar="|".join(METRICS), help="What counts.")] = METRICS[
        0
    ],
    least: Annotated[int, typer.Option("--min", help="At least so many replicas.")] = 1,
    most: Annotated[int, typer.Option("--max", help="At most so many.")] = REPLICAS_MAX,
    out_cooldown: Annotated[
        str, typer.Option(metavar="TIME", help="After any change none is added for so long.")
    ] = "10s",
    in_cooldown: Annotated[
        str, typer.Option(metavar="TIME", help="After any change none is removed for so long.")
    ] = "60s",
) -> None:
    """Set the policy, in place of the one there is."""
    from cluster.cli.fault import seconds
    from cluster.cli.policy import set_policy
    from cluster.local.policy import AutoscalePolicy

    policy = AutoscalePolicy(
        metric, target, least, most, seconds(out_cooldown), seconds(in_cooldown)
    )
    set_policy(Folder.at(data), cluster, policy)


@app.command()
def show(data: Data = DEFAULT_DATA, cluster: Cluster = MAIN, as_json: Json = False) -> None:
    """Show the policy and the replicas that it has added."""
    from cluster.cli.policy import show_policy

    show_policy(Folder.at(data), cluster, as_json=as_json)


@app.command()
def off(data: Data = DEFAULT_DATA, cluster: Cluster = MAIN) -> None:
    """Add and remove no replicas any more. Those there are stay."""
    from cluster.cli.policy import set_policy

    set_policy(Folder.at(data), cluster, None)
