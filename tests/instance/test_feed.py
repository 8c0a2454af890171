"""What replicas cost the writer: messages, not commits. In a simulated world, so times are exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from cluster.sim.sqlwire import SqlClient
from cluster.sim.world import Shape, World
from engine.instance.feed import Feed, _Follower
from engine.net.pb import instance_pb2 as pb
from tests.instance.test_lag import Stage

CLIENTS = 16
SECONDS = 0.5


def told(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Messages with something in them, by replica, from now on."""
    counts: Counter[str] = Counter()
    making = Feed._item

    def item(feed: Feed, follower: _Follower) -> pb.FeedItem:
        said = follower.waiting_since is not None or bool(follower.frames)
        counts[follower.report.instance] += said
        return making(feed, follower)

    monkeypatch.setattr(Feed, "_item", item)
    return counts


async def insert_for(client: SqlClient, stage: Stage, seconds: float) -> int:
    done, until = 0, stage.world.loop.time() + seconds
    while stage.world.loop.time() < until:
        await client.run("INSERT INTO t DEFAULT VALUES")
        done += 1
    return done


def play(shape: Shape, clients: int, counts: Counter[str]) -> int:
    """Commits that so many clients made in SECONDS; every replica shows them all soon afterwards."""
    stage = Stage(World(1, shape))

    async def whole() -> int:
        await stage.set_up()
        connections = [stage.writing]
        while len(connections) < clients:
            stage.connect()
            connections.append(stage.writing)
        counts.clear()
        done = sum(
            await asyncio.gather(*(insert_for(one, stage, SECONDS) for one in connections))
        )
        asked = dict(counts)
        await asyncio.sleep(0.1)
        newest = max(one.commit_lsn for one in connections)
        for replica in stage.replicas().values():
            assert replica.applied == newest
        counts.clear()
        counts.update(asked)
        return done

    try:
        return stage.world.loop.run_until_complete(whole())
    finally:
        stage.world.close()


def test_redo_travels_once_it_is_durable_with_the_news_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = told(monkeypatch)
    commits = play(Shape(replicas=1), 1, counts)
    assert commits > 25
    assert 0.9 * commits <= counts["main-2"] <= commits + 1


def test_much_redo_travels_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = told(monkeypatch)
    shape = Shape(replicas=1)
    early = replace(shape.instance, feed_early_bytes=1)
    commits = play(replace(shape, instance=early), 1, counts)
    assert counts["main-2"] > 1.5 * commits


@pytest.mark.parametrize("replicas", [1, 4])
def test_messages_are_bounded_by_time_and_replicas_not_by_commits(
    monkeypatch: pytest.MonkeyPatch, replicas: int
) -> None:
    """All replicas together get as many messages as one alone."""
    counts = told(monkeypatch)
    shape = Shape(replicas=replicas)
    pause = 0.01
    slow = replace(shape.instance, feed_pause_s=pause)
    commits = play(replace(shape, instance=slow), CLIENTS, counts)
    assert len(counts) == replicas
    assert commits > 2 * SECONDS / pause, "or the bound below says nothing"
    assert sum(counts.values()) <= SECONDS / pause + replicas
