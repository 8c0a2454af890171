"""ALTER SYSTEM CRASH and SIMULATE: what is understood, and where the rest goes wrong."""

from __future__ import annotations

import pytest

from engine.errors import SqlError
from engine.faults.statements import (
    CRASH,
    DISK_CONGESTION,
    DISK_FAILURE,
    REPLICA_FAILURE,
    FaultStatement,
    parse_alter_system,
)
from engine.sql.tokens import tokens


def parse(sql: str) -> FaultStatement:
    return parse_alter_system(list(tokens(sql)))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CRASH", FaultStatement(CRASH)),
        ("crash instance", FaultStatement(CRASH)),
        ("CRASH NODE", FaultStatement(CRASH)),
        (
            "SIMULATE 25 PERCENT READ REPLICA FAILURE TO ALL FOR INTERVAL 2 MINUTE",
            FaultStatement(REPLICA_FAILURE, 25.0, "", 120.0),
        ),
        (
            'SIMULATE 100 PERCENT READ REPLICA FAILURE TO "main-2" FOR INTERVAL 10 SECOND',
            FaultStatement(REPLICA_FAILURE, 100.0, "main-2", 10.0),
        ),
        (
            "SIMULATE 50 PERCENT DISK FAILURE FOR INTERVAL 1 HOUR",
            FaultStatement(DISK_FAILURE, 50.0, "", 3600.0),
        ),
        (
            "SIMULATE 50 PERCENT DISK FAILURE NODE 'storage-3' FOR INTERVAL 1 SECOND",
            FaultStatement(DISK_FAILURE, 50.0, "storage-3", 1.0),
        ),
        (
            "SIMULATE 80 PERCENT DISK CONGESTION BETWEEN 5 AND 10 MILLISECONDS IN DISK 3 "
            "FOR INTERVAL 3 SECONDS",
            FaultStatement(DISK_CONGESTION, 80.0, "3", 3.0, (0.005, 0.01)),
        ),
    ],
)
def test_what_is_understood(sql, expected):
    assert parse(sql) == expected


@pytest.mark.parametrize(
    ("sql", "state", "message"),
    [
        ("", "42601", "expected CRASH or SIMULATE at the end"),
        ("CRASH DISPATCHER", "42601", 'expected the end of the statement at or near "DISPATCHER"'),
        ("SIMULATE x PERCENT", "42601", "expected a number"),
        ("SIMULATE 1x PERCENT", "42601", "1x is no number"),
        ("SIMULATE 1 PERCENT DISK FAILURE", "42601", "expected FOR INTERVAL at the end"),
        ("SIMULATE 1 PERCENT DISK FAILURE FOR INTERVAL 1 EON", "42601", "expected SECOND, MINUTE"),
        ("SIMULATE 0 PERCENT DISK FAILURE FOR INTERVAL 1 SECOND", "22023", "0 percent cannot be"),
        ("SIMULATE 1 PERCENT DISK FAILURE FOR INTERVAL 99 HOUR", "22023", "at most a day"),
        ("SIMULATE 1 PERCENT DISK FAILURE NODE storage FOR INTERVAL", "42601", "a name in quotes"),
        (
            "SIMULATE 1 PERCENT DISK CONGESTION BETWEEN 9 AND 5 MILLISECONDS FOR INTERVAL 1 HOUR",
            "22023",
            "between 9 and 5 ms cannot be",
        ),
    ],
)
def test_what_is_refused(sql, state, message):
    with pytest.raises(SqlError) as caught:
        parse(sql)
    assert caught.value.sqlstate == state
    assert message in str(caught.value)
