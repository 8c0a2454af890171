from __future__ import annotations

import pytest

from engine.sql.pins import Pins


def test_lowest_is_the_default_without_pins() -> None:
    assert Pins().lowest(7) == 7


def test_counts_equal_pins() -> None:
    pins = Pins()
    pins.add(5)
    pins.add(5)
    pins.add(3)
    assert (len(pins), pins.lowest(9)) == (3, 3)
    assert not pins.remove(5)
    assert pins.remove(3)
    assert pins.lowest(9) == 5
    assert pins.remove(5)
    assert len(pins) == 0


def test_removing_what_nobody_pins_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Pins().remove(1)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 9, None), (10, 10, 10), (11, 19, None), (11, 40, 20), (31, 99, None), (5, 10, 10)],
)
def test_first_within(low: int, high: int, found: int | None) -> None:
    pins = Pins()
    for lsn in (20, 10, 30):
        pins.add(lsn)
    assert pins.first_within(low, high) == found
