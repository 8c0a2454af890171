"""`sextet backtrack`: which moment is meant, whether it is within the window, and who has its state."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.archived import wait_for_moment
from cluster.cli.backtracking import (
    BacktrackOptions,
    OutsideWindow,
    Window,
    _as_archived,
    _within,
    check_target,
    target_of,
)
from cluster.cli.errors import CommandFailed
from cluster.cli.up import UpOptions, _refuse_changes
from cluster.local.archiving import ArchiveState, save_archive_state
from cluster.local.folder import Folder
from cluster.local.layout import ClusterSpec, InstanceSpec, Layout, load, save
from engine.archive.catalogue import Target
from engine.errors import ConfigError
from engine.types import CommitMark
from tests.archive.books import book_of, ledger_of

NOW = datetime(2026, 11, 30, 14, 32, 6, tzinfo=UTC)
NOW_US = 1_796_049_126_000_000
HOUR_US = 3_600_000_000
WINDOW = Window("main", 2 * 3600, NOW_US, 900)
NAMED = re.escape(
    "main can be backtracked to any moment of the last 2h, from 2026-11-30T12:32:06.000000Z to "
    "2026-11-30T14:32:06.000000Z (LSN 900)"
)


def test_one_moment_is_named() -> None:
    assert target_of(BacktrackOptions("1 hour ago", None), now=NOW) == Target(
        time_us=NOW_US - HOUR_US
    )
    assert target_of(BacktrackOptions(None, 7), now=NOW) == Target(lsn=7)
    for options in (BacktrackOptions(None, None), BacktrackOptions("1 hour ago", 7)):
        with pytest.raises(ConfigError, match="one of --to-time and --to-lsn"):
            target_of(options, now=NOW)


@pytest.mark.parametrize(
    "target",
    [
        Target(time_us=NOW_US),
        Target(time_us=NOW_US - 2 * HOUR_US),
        Target(lsn=1),
        Target(lsn=900),
    ],
)
def test_moments_of_the_window(target: Target) -> None:
    check_target(target, WINDOW)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(time_us=NOW_US + 1), f"that is yet to come: {NAMED}"),
        (Target(time_us=NOW_US - 2 * HOUR_US - 1), f"that is too long ago: {NAMED}"),
        (Target(time_us=0), "that is too long ago"),
        (Target(lsn=901), f"LSN 901 is yet to come: {NAMED}"),
        (Target(lsn=0), "0 is no LSN; the first one is 1"),
        (Target(lsn=-1), "-1 is no LSN"),
    ],
)
def test_other_moments_are_refused_naming_the_window(target: Target, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_target(target, WINDOW)


class Commits:
    """A source that has these."""

    def __init__(self, *commits: CommitMark) -> None:
        self._commits = [CommitMark(0, 0, 0), *commits]

    async def last(self, target: Target) -> CommitMark:
        return [commit for commit in self._commits if target.admits(commit)][-1]

    async def fetch(self, commit: CommitMark, path: Path) -> None:
        raise AssertionError("nobody has been asked whether he wants it")


async def test_a_state_that_was_the_newest_one_within_the_window_is_in_it() -> None:
    old, oldest, late = (
        CommitMark(lsn, NOW_US - hours * HOUR_US, 9) for lsn, hours in ((5, 9), (7, 5), (20, 1))
    )
    source = Commits(old, oldest, late)
    for target, commit in (
        (Target(lsn=900), late),
        (Target(lsn=19), oldest),  # made 5 hours ago, and the newest until an hour ago
        (Target(lsn=7), oldest),
        (Target(time_us=NOW_US - 2 * HOUR_US), oldest),
    ):
        assert await _within(source, target, WINDOW) == commit
    with pytest.raises(OutsideWindow, match=f"LSN 6 is too long ago: {NAMED}; the first .* LSN 7"):
        await _within(source, Target(lsn=6), WINDOW)
    assert await _within(Commits(old), Target(lsn=6), WINDOW) == old
    for target in (Target(lsn=4), Target(time_us=NOW_US)):
        with pytest.raises(OutsideWindow, match=f"nothing was in main yet at that moment: {NAMED}"):
            await _within(Commits(), target, WINDOW)


async def test_while_nobody_commits_the_last_object_counts() -> None:
    """Objects tell a minute late that nothing was committed."""
    archive = await book_of(ledger_of([((n,), n) for n in range(3)]), [1, 2]).open()
    known_us = (await archive.window()).known_us
    for time_us in (known_us - 1, known_us, known_us + 30_000_000):
        asked = await _as_archived(archive, Target(time_us=time_us))
        assert asked == Target(time_us=min(time_us, known_us))
        await archive.plan(asked)
    assert await _as_archived(archive, Target(lsn=3)) == Target(lsn=3)


# -- what the archiver says


def layout(tmp_path: Path, window_s: int = 3600) -> tuple[Folder, Layout, ClusterSpec]:
    folder = Folder.at(tmp_path)
    folder.make()
    spec = ClusterSpec(
        "main",
        1,
        2,
        1 << 30,
        (InstanceSpec("main-1", 1, "az1", 3),),
        archive="main-1",
        backtrack_window_s=window_s,
    )
    made = Layout(9, (), (spec,), archive_every_s=0.1)
    save(tmp_path, made)
    return folder, made, spec


async def test_the_archive_has_to_reach_to_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.cli.archived.PATIENCE_S", 0.3)
    folder, made, spec = layout(tmp_path)
    said = ArchiveState(9, NOW_US, "main-1.2", "waiting", "the disk is full", 50, NOW_US)
    save_archive_state(folder, "main", said)
    for target in (Target(lsn=50), Target(time_us=NOW_US)):
        await wait_for_moment(folder, made, spec, target)
    for target in (Target(lsn=51), Target(time_us=NOW_US + 1)):
        with pytest.raises(CommandFailed, match="it ends at LSN 50: the disk is full"):
            await wait_for_moment(folder, made, spec, target)
    save_archive_state(folder, "main", replace(said, archive="other-1"))
    with pytest.raises(CommandFailed, match="does not reach to then yet; it ends at LSN 0"):
        await wait_for_moment(folder, made, spec, Target(lsn=50))


# -- the window is decided when a cluster is made


def test_a_window_is_not_changed_by_starting_again(tmp_path: Path) -> None:
    _, made, _ = layout(tmp_path)
    for same in (None, "1h", "60m"):
        _refuse_changes(made, UpOptions(backtrack_window=same))
    said = "this cluster has a backtrack window of 1h; --backtrack-window counts only when"
    with pytest.raises(CommandFailed, match=said):
        _refuse_changes(made, UpOptions(backtrack_window="2h"))
    _, without, _ = layout(tmp_path, 0)
    with pytest.raises(CommandFailed, match="this cluster has no backtrack window; --back"):
        _refuse_changes(without, UpOptions(backtrack_window="2h"))


def test_retention_does_not_become_shorter_than_the_window(tmp_path: Path) -> None:
    _, made, spec = layout(tmp_path)
    longer = made.with_cluster(replace(spec, retention_days=3, backtrack_window_s=25 * 3600))
    save(tmp_path, longer)

    def retention(days: int) -> tuple[int, str]:
        done = CliRunner().invoke(
            app, ("backup", "retention", "main", str(days), "--data", str(tmp_path))
        )
        return done.exit_code, " ".join(str(done.exception or done.output).split())

    assert retention(2)[0] == 0
    code, said = retention(1)
    assert code != 0
    assert "a backtrack window of 25h needs a retention of at least 2 days, not 1" in said
    kept = load(tmp_path)
    assert kept is not None
    assert kept.cluster("main").retention_days == 2
