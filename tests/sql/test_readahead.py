from __future__ import annotations

from engine.sql.readahead import RUNS_MAX, WINDOW_MAX, ReadAhead, block
from engine.types import PAGES_PER_PG
from engine.volume.geometry import pg_of


def test_a_single_miss_fetches_one_page() -> None:
    assert ReadAhead().missed(100, 1000) == 1


def test_a_run_of_misses_doubles_up_to_the_window() -> None:
    ahead, page, sizes = ReadAhead(8), 100, []
    for _ in range(6):
        sizes.append(ahead.missed(page, 1000))
        page += sizes[-1]
    assert sizes == [1, 2, 4, 8, 8, 8]


def test_one_page_in_between_does_not_break_a_run() -> None:
    ahead = ReadAhead()
    ahead.missed(10, 1000)
    assert ahead.missed(12, 1000) == 2


def test_two_scans_do_not_disturb_each_other() -> None:
    ahead = ReadAhead()
    for step in range(3):
        width = 1 << step
        assert ahead.missed(width - 1, 9999) == width
        assert ahead.missed(5000 + width - 1, 9999) == width


def test_never_beyond_the_protection_group_or_the_volume() -> None:
    ahead = ReadAhead()
    for page in (PAGES_PER_PG - 4, PAGES_PER_PG - 3):
        ahead.missed(page, 10 * PAGES_PER_PG)
    assert ahead.missed(PAGES_PER_PG - 1, 10 * PAGES_PER_PG) == 1
    ahead.missed(20, 23)
    assert ahead.missed(21, 23) == 2
    assert ahead.missed(500, 23) == 1


def test_remembers_few_runs_and_drops_the_oldest() -> None:
    ahead = ReadAhead()
    for run in range(RUNS_MAX + 1):
        ahead.missed(run * 50, 1 << 20)
    assert ahead.missed(1, 1 << 20) == 1
    assert ahead.missed(RUNS_MAX * 50 + 1, 1 << 20) == 2


def test_a_block_is_of_the_volume_and_of_one_group() -> None:
    assert block(0, 1000) == range(WINDOW_MAX)
    assert block(WINDOW_MAX + 5, 1000) == range(WINDOW_MAX, 2 * WINDOW_MAX)
    assert block(40, 43) == range(WINDOW_MAX, 43)
    for page in (PAGES_PER_PG - 1, PAGES_PER_PG):
        near = block(page, 1 << 20)
        assert page in near
        assert {pg_of(other) for other in near} == {pg_of(page)}
    assert 50 in block(50, 20), "a volume may have been larger at the read point"
