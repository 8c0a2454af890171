"""How people name a moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.errors import ConfigError
from engine.moments import NEWEST, Moment, parse_moment
from engine.types import CommitMark

NOW = datetime(2026, 11, 30, 14, 32, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("4711", Moment(lsn=4711)),
        (" 4711 ", Moment(lsn=4711)),
        ("1970-01-01T00:00:01.5Z", Moment(time_us=1_500_000)),
        ("1970-01-01T01:00:01+01:00", Moment(time_us=1_000_000)),
        ("7 seconds ago", Moment(time_us=int(NOW.timestamp() - 7) * 1_000_000)),
    ],
)
def test_it_is_understood_and_shown_as_it_can_be_given_again(text: str, moment: Moment) -> None:
    assert parse_moment(text, now=NOW) == moment
    assert parse_moment(str(moment), now=NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "9223372036854775808", "9" * 5000, "٣", "now", "1969-01-01T00:00:00Z"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_moment(text, now=NOW)


def test_what_it_admits() -> None:
    commit = CommitMark(50, 1_000, 3)
    assert NEWEST.admits(commit)
    assert [Moment(lsn=lsn).admits(commit) for lsn in (49, 50)] == [False, True]
    assert [Moment(time_us=us).admits(commit) for us in (999, 1000)] == [False, True]
    assert (str(NEWEST), NEWEST.newest, Moment(lsn=1).newest) == ("", True, False)
