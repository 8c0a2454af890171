"""The driver: faults begin, their effects are noted, all is healed after each round, and it can stop."""

from __future__ import annotations

import time

from cluster.chaos.driver import Driver
from cluster.chaos.schedule import Round, Schedule
from cluster.chaos.well import missing
from cluster.faults.catalogue import Fault, Kind
from cluster.faults.kit import FaultKit
from engine.errors import ConfigError
from engine.faults.file import ActiveFault

SLOW = Fault(Kind.SLOW_DISK, "storage-1", 0.01, 0.02)
KILL = Fault(Kind.KILL, "writer", 0.02)
ROT = Fault(Kind.ROT_PAGE, "storage-2", 0.03)
SCHEDULE = Schedule(
    1,
    30.0,
    (Round(1, 0.0, 0.05, (SLOW, KILL), "storage-1"), Round(2, 0.1, 0.15, (ROT,), "storage-2")),
)


class Kit(FaultKit):
    """Notes what it is asked for; rot finds nothing to corrupt."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def begin(self, fault: Fault) -> ActiveFault:
        self.asked.append(fault.kind.value)
        if fault.kind is Kind.ROT_PAGE:
            raise ConfigError("nothing was corrupted")
        return ActiveFault(
            id=0 if fault.kind is Kind.KILL else 7,
            kind=fault.kind.value,
            target=fault.target,
            names=("main-1",) if fault.target == "writer" else (fault.target,),
            since=0.0,
            until=None,
            for_s=fault.for_s,
        )

    def effects(self, fault: ActiveFault) -> dict[str, int]:
        assert "heal" not in self.asked, "what is healed says nothing any more"
        return {"storage-1": 3, "main-1": 1}

    def heal(self, *_: object, **__: object) -> list[ActiveFault]:
        self.asked.append("heal")
        return []


def drive(kit: Kit, ill: list[list[str]]) -> Driver:
    start = time.monotonic()

    async def well() -> list[str]:
        kit.asked.append("well")
        return ill.pop(0)

    return Driver(kit, lambda: time.monotonic() - start, well)


async def test_a_schedule_is_carried_out_in_order() -> None:
    kit = Kit()
    driver = drive(kit, [[], []])
    await driver.run(SCHEDULE)
    assert kit.asked == ["slow-disk", "kill", "heal", "well", "rot-page", "heal", "well"]
    assert driver.rounds == 2
    slow, kill, rot = driver.fired
    assert (slow.effects, kill.effects) == (4, None)
    assert kill.nodes == ("main-1",)
    assert (rot.done, rot.refused) == (False, "nothing was corrupted")
    assert slow.during(slow.began, slow.ended)
    assert not rot.during(0, 99)


async def test_no_round_begins_while_something_is_missing() -> None:
    kit = Kit()
    driver = drive(kit, [["storage-1: down"]])
    await driver.run(SCHEDULE)
    assert kit.asked == ["slow-disk", "kill", "heal", "well"]
    assert driver.ill == ["storage-1: down"]


async def test_a_round_that_no_longer_fits_is_left_out() -> None:
    kit = Kit()
    driver = drive(kit, [[]])
    first, second = SCHEDULE.rounds
    await driver.run(Schedule(1, 0.12, (first, second)))
    assert driver.rounds == 1


WELL = {
    "instances": [{"name": "main-1", "role": "writer", "state": "available", "error": ""}],
    "storage": [{"name": "storage-1", "state": "up", "error": ""}],
    "groups": [
        {
            "pg": 0,
            "write_quorum": True,
            "read_quorum": True,
            "replacing": None,
            "members": ["storage-1"],
            "answering": ["storage-1"],
        }
    ],
}


def test_a_cluster_is_well_only_when_every_copy_is_whole() -> None:
    assert missing(WELL) == []
    (group,) = WELL["groups"]
    told = {
        "no whole copy on storage-1": {**group, "answering": []},
        "storage-1 is replaced by storage-2": {**group, "replacing": ["storage-1", "storage-2"]},
        "no quorum": {**group, "write_quorum": False},
    }
    for words, changed in told.items():
        (found,) = missing({**WELL, "groups": [changed]})
        assert words in found
    (instance,) = WELL["instances"]
    assert missing({**WELL, "instances": [{**instance, "role": "replica"}]}) == [
        "there are 0 writers"
    ]
