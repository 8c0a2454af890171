"""Who breaks a promise to be heard again hangs; nobody else does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from engine.pulse import PULSE, Listener, Pulse


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def say(listener: Listener, *promises: int) -> None:
    os.write(listener.writer, bytes(promises))


def test_who_never_said_anything_has_promised_nothing(listener: Listener) -> None:
    assert [listener.look(float(now)) for now in range(0, 1000, 1)] == [None] * 1000


def test_silence_counts_from_the_last_word_and_up_to_the_newest_promise(listener: Listener) -> None:
    assert listener.look(0.0) is None
    say(listener, 60, 3)
    assert [listener.look(t) for t in (1.0, 2.0, 3.0, 3.5)] == [None] * 4
    assert listener.look(4.0) == 3.0
    say(listener, 3)
    assert listener.look(5.0) is None, "it has spoken again"


def test_time_in_which_we_did_not_look_is_no_silence(listener: Listener) -> None:
    say(listener, 10)
    assert listener.look(0.0) is None
    assert listener.look(3600.0) is None, "we were asleep, and perhaps it was too"
    assert listener.look(3601.0) is None


def test_who_was_stopped_on_purpose_begins_anew(listener: Listener) -> None:
    say(listener, 3)
    assert [listener.look(t) for t in (0.0, 1.0, 2.0)] == [None] * 3
    listener.excuse()
    assert [listener.look(t) for t in (3.0, 4.0)] == [None] * 2
    assert listener.look(5.0) == 3.0


def test_who_has_closed_its_end_is_silent(listener: Listener) -> None:
    say(listener, 2)
    listener.born()
    assert [listener.look(t) for t in (0.0, 1.0)] == [None] * 2
    assert listener.look(2.0) == 2.0


async def test_a_node_promises_what_its_patience_says_and_nothing_before(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pulse.BEAT_S", 0.0)
    patience = 0
    pulse = Pulse.of_environment({PULSE: str(listener.writer)}, lambda: patience)
    beating = asyncio.ensure_future(pulse.beat())
    for _ in range(5):
        await asyncio.sleep(0)
    assert [listener.look(float(t)) for t in range(300)] == [None] * 300
    patience = 1000
    for _ in range(5):
        await asyncio.sleep(0)
    beating.cancel()
    looks = [listener.look(float(t)) for t in range(300, 300 + 256)]
    assert looks[:-1] == [None] * 255
    assert looks[-1] == 255.0


async def test_a_supervisor_that_does_not_look_stops_nobody(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pulse.BEAT_S", 0.0)
    os.set_blocking(listener.writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(listener.writer, bytes([1]) * 4096):
            pass
    beating = asyncio.ensure_future(Pulse(listener.writer, lambda: 7).beat())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not beating.done()
    beating.cancel()


async def test_without_a_supervisor_nobody_listens() -> None:
    await Pulse.of_environment({}).beat()
