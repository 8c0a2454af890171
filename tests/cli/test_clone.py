"""`sextet clone`: which moment is meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cluster.cli.cloning import fork_of
from cluster.local.layout import ForkSpec
from engine.errors import ConfigError

NOW = datetime(2026, 11, 30, 14, 32, 6, tzinfo=UTC)
NOW_US = 1_796_049_126_000_000


@pytest.mark.parametrize(
    ("at", "fork"),
    [
        (None, ForkSpec("main")),
        ("1", ForkSpec("main", at_lsn=1)),
        (" 10000005 ", ForkSpec("main", at_lsn=10_000_005)),
        ("2026-11-30T14:32:06Z", ForkSpec("main", at_time_us=NOW_US)),
        ("3 seconds ago", ForkSpec("main", at_time_us=NOW_US - 3_000_000)),
    ],
)
def test_a_moment_is_an_lsn_or_a_time(at: str | None, fork: ForkSpec) -> None:
    assert fork_of("main", at, now=NOW) == fork


@pytest.mark.parametrize(
    "at", ["0", "-1", "", "9223372036854775808", "now", "1969-01-01T00:00:00Z"]
)
def test_what_is_none_is_refused(at: str) -> None:
    with pytest.raises(ConfigError):
        fork_of("main", at, now=NOW)
