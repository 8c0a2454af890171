"""Read-ahead: which pages to fetch together with the one that is missing. Pure.

While there is room for all that comes, that is the whole block around it (`block`): a cold pool is warm
after a few large reads instead of as many small ones as it has pages, each of which a writer may wait for
with the lock in its hands. Once something else would have to go for it, only scans are read ahead of.

A scan of a table reads pages that mostly follow one another, with an interior page of the B-tree
between now and then. So a miss that continues an earlier one (at its end, or one page further)
doubles the number of pages fetched, and any other miss starts a new run with one page. A few runs
are remembered, so that scans of several sessions do not spoil one another's.
"""

from __future__ import annotations

from collections import OrderedDict

from engine.types import PageNo
from engine.volume.geometry import first_page, pg_of

WINDOW_MAX = 32
"""Pages per fetch: 128 KiB. More would delay the first page without saving many round trips."""

WARMING_PAGES = 128
"""Per fetch of a pool that is warmed while nobody waits for it."""

RUNS_MAX = 32


def block(page: PageNo, pages: int, size: int = WINDOW_MAX) -> range:
    """The pages around `page` of a volume of `pages` that are fetched at once, `size` at most, itself among
    them; all of its protection group."""
    group = pg_of(page)
    first = max(page - page % size, first_page(group))
    return range(first, max(page + 1, min(first + size, first_page(group + 1), pages)))


class ReadAhead:
    """Remembers where recent runs of misses would go on."""

    __slots__ = ("_runs", "_window_max")

    def __init__(self, window_max: int = WINDOW_MAX) -> None:
        self._runs: OrderedDict[PageNo, int] = OrderedDict()  # expected next page -> window
        self._window_max = max(1, window_max)

    def missed(self, page: PageNo, pages: int) -> int:
        """`page` of a volume of `pages` is missing: how many pages to fetch from there on.

        At least 1; never beyond the page's protection group nor beyond the volume.
        """
        window = self._runs.pop(page, 0) or self._runs.pop(page - 1, 0)
        window = min(2 * window, self._window_max) if window else 1
        upto = min(first_page(pg_of(page) + 1), pages)
        window = max(1, min(window, upto - page))
        self._runs[page + window] = window
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)
        return window
