"""What a local installation consists of: DATA/cluster.json as frozen dataclasses.

The layout says who should exist and where they listen: one control plane, a storage fleet, and any
number of clusters with their instances. It is the supervisor's list of processes and what the
control plane's catalog starts from. Who is writer *now* and which volume epoch counts is the
catalog's business and never here: `writer_first` only names the writer of a cluster's first start.

Invariants
- Every name and every port occurs once; an instance's number occurs once in its cluster.
- There is always a cluster, and one that is not being deleted. Nothing is lost because a cluster is
  missing from the file: only one that says that it is being deleted loses its volume.
- A cluster that is being cloned has a source in the file, which is neither deleted nor missing meanwhile.
- A file of an unknown format version is refused, not guessed.
- Everything here is a value; `load` and `save` are the only I/O. Growing means making a new layout
  with `with_instance`, `with_storage` or `with_cluster` and saving it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from cluster.local.backtracking import check_window
from cluster.local.files import read_json, write_json
from cluster.local.names import check_instance_name, is_name
from cluster.local.policy import REPLICAS_MAX, AutoscalePolicy
from engine.config import DEFAULT_SIZE, size_class
from engine.errors import ConfigError
from engine.volume.geometry import max_pages_for

FORMAT = 1
FILE = "cluster.json"
HOST = "127.0.0.1"
MAIN = "main"
AZS = ("az1", "az2", "az3")
STORAGE_PER_AZ = 2
ENDPOINTS_MAX = 16
READERS_MAX = REPLICAS_MAX
"""As many replicas as Aurora allows."""

TIER_MAX = 15
DEFAULT_TIER = 1
"""Failover tiers as in Aurora: the replica of the lowest tier is promoted first."""

DEFAULT_READER_LAG_MS = 1000

DEFAULT_PORT = 25432
DEFAULT_READERS = 2
DEFAULT_MAX_STORAGE = 10 * 1024**3
"""Bytes of database; six copies of what is really used are kept."""

HOT_WINDOW_S = 60.0
HOT_WINDOW_S_MAX = 3600.0
"""Storage nodes keep its log in memory, indexed."""

RETENTION_DAYS = range(1, 36)
DEFAULT_RETENTION_DAYS = 1
ARCHIVE_EVERY_S = 1.0
ARCHIVE_EVERY_S_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class StorageSpec:
    """One storage node."""

    name: str
    az: str
    port: int


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One compute instance. `number` is unique in its cluster and part of cancel keys.

    `tier`: failover prefers the lowest, 0 to 15. `size`: one of `engine.config.SIZES`. Files of before
    there were such things have neither, and their instances are of the default.
    """

    name: str
    number: int
    az: str
    port: int
    tier: int = DEFAULT_TIER
    size: str = DEFAULT_SIZE
    auto: bool = False
    """Auto-scaling added it, and may remove it."""

    def __post_init__(self) -> None:
        if not 0 <= self.tier <= TIER_MAX:
            raise ConfigError(f"tier {self.tier} of {self.name} cannot be; choose 0 to {TIER_MAX}")
        size_class(self.size)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """A custom endpoint: a port of its own for some of the instances.

    Either `members` names them, or they are all but those in `exclude`, later ones included.
    """

    name: str
    port: int
    members: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.members) == bool(self.exclude):
            raise ConfigError(f"endpoint {self.name} needs either members or a list of exclusions")

    def admits(self, instance: str) -> bool:
        """Whether its clients may be given to that instance."""
        return instance in self.members if self.members else instance not in self.exclude


class ClusterState(StrEnum):
    """What is wanted of a cluster; whether it is so yet is for its processes to say."""

    CLONING = "cloning"  # its volume is being made; no process of its own until then
    CREATING = "creating"  # it runs, and nobody has seen yet that it takes SQL
    RUNNING = "running"
    STOPPED = "stopped"  # no process of its own; the volume stays
    DELETING = "deleting"  # likewise, and the volume goes: there is no way back


@dataclass(frozen=True, slots=True)
class ForkSpec:
    """What a cluster is being cloned from: the last commit of `source` at or below `at_lsn`, or made by
    `at_time_us` (Unix microseconds), or (both 0) its newest one."""

    source: str
    at_lsn: int = 0
    at_time_us: int = 0


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One cluster: a volume, its instances (the first starts as writer) and two endpoint ports."""

    name: str
    writer_port: int
    reader_port: int
    max_storage_bytes: int
    instances: tuple[InstanceSpec, ...]
    reader_lag_ms_max: int = DEFAULT_READER_LAG_MS
    """The reader endpoint gives no clients to a replica that lags by more."""
    endpoints: tuple[EndpointSpec, ...] = ()
    """Custom ones, besides the writer's and the reader's."""
    autoscale: AutoscalePolicy | None = None
    state: ClusterState = ClusterState.RUNNING
    """Files of before there were several clusters have none: theirs runs."""
    archive: str = ""
    """What its archive is called in the installation's object store. Whoever starts an installation gives
    all clusters one (`cluster.local.store`)."""
    retention_days: int = DEFAULT_RETENTION_DAYS
    """To any moment of so many days it can be restored."""
    fork: ForkSpec | None = None
    """Until somebody has seen that it takes SQL: what it is a clone of."""
    backtrack_window_s: int = 0
    """To any moment of so many seconds it may be put back in place; 0: to none. Files of before there was
    such a thing have none."""
    restoring: bool = False
    """It is there for a restore's contents, and nobody has seen them in it yet."""

    def __post_init__(self) -> None:
        check_retention(self.retention_days)
        check_window(self.name, self.backtrack_window_s, self.retention_days)

    @property
    def runs(self) -> bool:
        """Whether it is to have processes."""
        return self.state in (ClusterState.CREATING, ClusterState.RUNNING)

    @property
    def max_pages(self) -> int:
        return max_pages_for(self.max_storage_bytes)

    @property
    def writer_first(self) -> str:
        """Who is writer when the catalog does not know this cluster yet."""
        return self.instances[0].name

    @property
    def writer_url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.writer_port}/{self.name}"

    @property
    def reader_url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.reader_port}/{self.name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole installation."""

    control_port: int
    storage: tuple[StorageSpec, ...]
    clusters: tuple[ClusterSpec, ...]
    store: str = ""
    """The object store to archive to (`cluster.local.store`), "" for the folder in the data folder."""
    archive_every_s: float = ARCHIVE_EVERY_S
    """How often what is new goes there."""
    hot_window_s: float = HOT_WINDOW_S
    """For so long the past of every cluster stays readable on the storage nodes."""

    def __post_init__(self) -> None:
        _once("port", sorted(self.ports))
        _once("name", self.node_names)
        _once("cluster", [cluster.name for cluster in self.clusters])
        if all(cluster.state is ClusterState.DELETING for cluster in self.clusters):
            raise ConfigError("an installation without a cluster cannot be")
        if not 0 <= self.hot_window_s <= HOT_WINDOW_S_MAX:
            raise ConfigError(
                f"a hot window of {self.hot_window_s:g} s cannot be; choose 0 to {HOT_WINDOW_S_MAX:g}"
            )
        if not 0.1 <= self.archive_every_s <= ARCHIVE_EVERY_S_MAX:
            raise ConfigError(
                f"archiving every {self.archive_every_s:g} s cannot be; choose 0.1 to "
                f"{ARCHIVE_EVERY_S_MAX:.0f} s"
            )
        self._check_sources()
        for cluster in self.clusters:
            if not cluster.instances:
                raise ConfigError(f"cluster {cluster.name} has no instance")
            _once(f"endpoint of {cluster.name}", [e.name for e in cluster.endpoints])
            _once(f"instance number of {cluster.name}", [i.number for i in cluster.instances])

    def _check_sources(self) -> None:
        """Pages that a clone is to share must not go before it does."""
        there = {c.name for c in self.clusters if c.state is not ClusterState.DELETING}
        for cluster in self.clusters:
            if cluster.state is not ClusterState.CLONING:
                continue
            if cluster.fork is None:
                raise ConfigError(f"cluster {cluster.name} is being cloned from nothing")
            source = cluster.fork.source
            if source not in there:
                raise ConfigError(
                    f"{cluster.name} is being cloned from {source}; finish that with `sextet clone "
                    f"{source} {cluster.name}`, or `sextet cluster delete {cluster.name}`"
                )

    def _instance_names(self) -> list[str]:
        return [instance.name for cluster in self.clusters for instance in cluster.instances]

    @property
    def node_names(self) -> list[str]:
        """Of storage nodes and instances."""
        return [*(s.name for s in self.storage), *self._instance_names()]

    @property
    def running(self) -> tuple[ClusterSpec, ...]:
        """The clusters that are to have processes."""
        return tuple(cluster for cluster in self.clusters if cluster.runs)

    @property
    def control_address(self) -> str:
        return address(self.control_port)

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port of every process."""
        found = [self.control_port, *(s.port for s in self.storage)]
        for cluster in self.clusters:
            found += [cluster.writer_port, cluster.reader_port]
            found += [instance.port for instance in cluster.instances]
            found += [endpoint.port for endpoint in cluster.endpoints]
        return tuple(found)

    def cluster(self, name: str) -> ClusterSpec:
        """Raises ConfigError naming the clusters there are."""
        for cluster in self.clusters:
            if cluster.name == name:
                return cluster
        known = ", ".join(c.name for c in self.clusters)
        raise ConfigError(f"there is no cluster {name} here; there is: {known}")

    def running_cluster(self, name: str) -> ClusterSpec:
        """As `cluster`. Raises ConfigError too if it is to have no processes now, saying what to do."""
        found = self.cluster(name)
        if found.runs:
            return found
        raise ConfigError(f"cluster {name} is {_word(found)}")

    def storage_node(self, name: str) -> StorageSpec:
        """Raises ConfigError naming the storage nodes there are."""
        for node in self.storage:
            if node.name == name:
                return node
        known = ", ".join(s.name for s in self.storage)
        raise ConfigError(f"there is no storage node {name} here; there is: {known}")

    # -- growing

    def with_cluster(self, cluster: ClusterSpec) -> Layout:
        """With `cluster` added, or put in the place of the one of its name."""
        if any(c.name == cluster.name for c in self.clusters):
            changed = tuple(cluster if c.name == cluster.name else c for c in self.clusters)
            return replace(self, clusters=changed)
        return replace(self, clusters=(*self.clusters, cluster))

    def with_state(self, cluster: str, state: ClusterState) -> Layout:
        """With another wish for that cluster. Raises ConfigError if there is none of that name, if it is
        being deleted and `state` is not that, if it is being cloned and `state` is neither that nor the
        next one, or if no other would be left."""
        old = self.cluster(cluster)
        if old.state is ClusterState.DELETING and state is not ClusterState.DELETING:
            self.running_cluster(cluster)  # raises
        if old.state is ClusterState.CLONING and state not in _AFTER_CLONING:
            self.running_cluster(cluster)
        if state is ClusterState.DELETING:
            self._refuse_to_lose_the_last(cluster)
        return self.with_cluster(replace(old, state=state))

    def without_cluster(self, name: str) -> Layout:
        """Raises ConfigError if there is none of that name, or no other would be left."""
        self.cluster(name)
        self._refuse_to_lose_the_last(name)
        return replace(self, clusters=tuple(c for c in self.clusters if c.name != name))

    def _refuse_to_lose_the_last(self, name: str) -> None:
        others = (c for c in self.clusters if c.name != name)
        if all(c.state is ClusterState.DELETING for c in others):
            raise ConfigError(
                f"{name} is the last cluster here and cannot be deleted; create another one first, or "
                "`sextet down` and remove the data folder"
            )

    def with_storage(self, node: StorageSpec) -> Layout:
        return replace(self, storage=(*self.storage, node))

    def with_instance(
        self,
        cluster: str,
        *,
        port: int,
        az: str | None = None,
        tier: int = DEFAULT_TIER,
        size: str = DEFAULT_SIZE,
        name: str | None = None,
        auto: bool = False,
    ) -> Layout:
        """With one more instance in `cluster`, by default in the AZ that has the fewest.

        Raises ConfigError if the cluster does not run, there are as many as there may be, or the name or
        the AZ cannot be.
        """
        old = self.running_cluster(cluster)
        if len(old.instances) > READERS_MAX:
            raise ConfigError(
                f"{cluster} has {len(old.instances)} instances, as many as there may be"
            )
        number = 1 + max(i.number for i in old.instances)
        if az is None:
            az = min(AZS, key=lambda name: sum(i.az == name for i in old.instances))
        elif az not in AZS:
            raise ConfigError(f"there is no AZ {az}; choose one of {', '.join(AZS)}")
        name = self._new_name(cluster, number, name)
        instance = InstanceSpec(name, number, az, port, tier, size, auto)
        return self.with_cluster(replace(old, instances=(*old.instances, instance)))

    def with_endpoint(self, cluster: str, endpoint: EndpointSpec) -> Layout:
        """With one more custom endpoint. Raises ConfigError if its name or one of its lists cannot be."""
        old = self.cluster(cluster)
        if len(old.endpoints) >= ENDPOINTS_MAX:
            raise ConfigError(f"{cluster} has {ENDPOINTS_MAX} custom endpoints, as many as may be")
        if not is_name(endpoint.name) or endpoint.name in ("writer", "reader"):
            raise ConfigError(f"{endpoint.name!r} cannot be a custom endpoint's name")
        known = [instance.name for instance in old.instances]
        for name in (*endpoint.members, *endpoint.exclude):
            if name not in known:
                raise ConfigError(f"{cluster} has no instance {name}; there is: {', '.join(known)}")
        return self.with_cluster(replace(old, endpoints=(*old.endpoints, endpoint)))

    def without_endpoint(self, cluster: str, name: str) -> Layout:
        """Raises ConfigError if there is no custom endpoint of that name."""
        old = self.cluster(cluster)
        left = tuple(endpoint for endpoint in old.endpoints if endpoint.name != name)
        if len(left) == len(old.endpoints):
            known = ", ".join(endpoint.name for endpoint in old.endpoints) or "none"
            raise ConfigError(f"{cluster} has no custom endpoint {name}; there is: {known}")
        return self.with_cluster(replace(old, endpoints=left))

    def _new_name(self, cluster: str, number: int, wanted: str | None) -> str:
        clusters = [c.name for c in self.clusters]
        if wanted is None:
            taken = {*self.node_names, *clusters}
            free = (f"{cluster}-{n}" for n in range(number, number + len(taken) + 1))
            return next(name for name in free if name not in taken)
        check_instance_name(wanted, clusters=clusters)
        return wanted

    def without_instance(self, name: str) -> Layout:
        """Raises ConfigError if there is none of that name, or it is the last of its cluster."""
        for cluster in self.clusters:
            left = tuple(i for i in cluster.instances if i.name != name)
            if len(left) < len(cluster.instances):
                if not left:
                    raise ConfigError(f"{name} is the last instance of {cluster.name}")
                return self.with_cluster(replace(cluster, instances=left))
        known = ", ".join(self._instance_names())
        raise ConfigError(f"there is no instance {name} here; there is: {known}")


_AFTER_CLONING = (ClusterState.CLONING, ClusterState.CREATING, ClusterState.DELETING)


def _word(cluster: ClusterSpec) -> str:
    """What it is, without processes, and what to do about that."""
    name, fork = cluster.name, cluster.fork
    if cluster.state is ClusterState.CLONING and fork is not None:
        return (
            f"being cloned; finish that with `sextet clone {fork.source} {name}`, or remove it with "
            f"`sextet cluster delete {name}`"
        )
    if cluster.state is ClusterState.STOPPED:
        return f"stopped; start it with `sextet cluster start {name}`"
    return f"being deleted; finish that with `sextet cluster delete {name}`"


def check_retention(days: int) -> None:
    """Raises ConfigError."""
    if days not in RETENTION_DAYS:
        raise ConfigError(
            f"a retention of {days} days cannot be; choose {RETENTION_DAYS.start} to "
            f"{RETENTION_DAYS.stop - 1}, and it cannot be switched off"
        )


def address(port: int) -> str:
    return f"{HOST}:{port}"


def _once(what: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{what} {value} is given twice")


# -- the file


def to_json(layout: Layout) -> dict[str, Any]:
    return {"format": FORMAT, **asdict(layout)}


def from_json(value: Any, *, source: str = FILE) -> Layout:
    """Raises ConfigError if the version is unknown or a field is missing."""
    if not isinstance(value, dict) or "format" not in value:
        raise ConfigError(f"{source} is no layout of a Sextet installation")
    if value["format"] != FORMAT:
        raise ConfigError(
            f"{source} has format {value['format']}, this Sextet knows {FORMAT}; "
            "use the version that made it, or another --data folder"
        )
    try:
        return Layout(
            control_port=int(value["control_port"]),
            storage=tuple(StorageSpec(**node) for node in value["storage"]),
            clusters=tuple(
                ClusterSpec(
                    **{
                        **cluster,
                        "instances": tuple(InstanceSpec(**i) for i in cluster["instances"]),
                        "endpoints": tuple(_endpoint(e) for e in cluster.get("endpoints", ())),
                        "autoscale": _autoscale(cluster.get("autoscale")),
                        "state": ClusterState(cluster.get("state", ClusterState.RUNNING)),
                        "fork": _fork(cluster.get("fork")),
                    }
                )
                for cluster in value["clusters"]
            ),
            store=str(value.get("store", "")),
            archive_every_s=float(value.get("archive_every_s", ARCHIVE_EVERY_S)),
            hot_window_s=float(value.get("hot_window_s", HOT_WINDOW_S)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{source} is damaged: {type(error).__name__}: {error}") from error


def _endpoint(value: dict[str, Any]) -> EndpointSpec:
    return EndpointSpec(
        value["name"], value["port"], tuple(value["members"]), tuple(value["exclude"])
    )


def _fork(value: dict[str, Any] | None) -> ForkSpec | None:
    return None if value is None else ForkSpec(**value)


def _autoscale(value: dict[str, Any] | None) -> AutoscalePolicy | None:
    return None if value is None else AutoscalePolicy(**value)


def load(data: Path) -> Layout | None:
    """The layout of folder `data`, None if there is none yet. Raises ConfigError."""
    path = data / FILE
    value = read_json(path)
    return None if value is None else from_json(value, source=str(path))


def save(data: Path, layout: Layout) -> None:
    """Durably, in one step."""
    write_json(data / FILE, to_json(layout), durable=True)
