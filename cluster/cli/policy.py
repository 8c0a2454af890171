"""What `sextet autoscale` does: the layout has the policy, a process of its own carries it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cluster.cli.client import running_layout
from cluster.cli.console import out, print_json
from cluster.cli.errors import not_running
from cluster.local.change import change_layout, layout_turn, tell_supervisor
from cluster.local.folder import Folder
from cluster.local.layout import Layout
from cluster.local.policy import AutoscalePolicy


def set_policy(folder: Folder, cluster: str, policy: AutoscalePolicy | None) -> None:
    """The process is started, ended, or reads it within a second. Raises NotRunning, ConfigError."""
    running_layout(folder)
    with layout_turn(folder):

        def changed(layout: Layout) -> Layout:
            return layout.with_cluster(replace(layout.cluster(cluster), autoscale=policy))

        change_layout(folder, changed)
        if not tell_supervisor(folder):
            raise not_running(folder)
    out.print(_described(policy))


def show_policy(folder: Folder, cluster: str, *, as_json: bool) -> None:
    """Print it. Raises NotRunning, ConfigError."""
    spec = running_layout(folder).cluster(cluster)
    policy = spec.autoscale
    added = [instance.name for instance in spec.instances if instance.auto]
    if as_json:
        print_json({"policy": None if policy is None else _fields(policy), "added": added})
        return
    out.print(_described(policy))
    out.print(f"added by auto-scaling: {', '.join(added) or 'none'}")


def _fields(policy: AutoscalePolicy) -> dict[str, Any]:
    """The keys are an interface: add, but do not rename."""
    return {
        "metric": policy.metric,
        "target": policy.target,
        "min": policy.least,
        "max": policy.most,
        "out_cooldown_s": policy.out_cooldown_s,
        "in_cooldown_s": policy.in_cooldown_s,
    }


def _described(policy: AutoscalePolicy | None) -> str:
    if policy is None:
        return "auto-scaling is off"
    return (
        f"auto-scaling keeps {policy.metric} at {policy.target:.10g} per replica, with {policy.least} to "
        f"{policy.most} replicas; cool-down {policy.out_cooldown_s:.10g} s before one is added, "
        f"{policy.in_cooldown_s:.10g} s before one is removed"
    )
