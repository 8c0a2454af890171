"""Where a page lives: protection groups of PAGES_PER_PG pages, one after another.

Everybody asks here, so a simulation can have many groups in little data (`resize_groups`).
"""

from __future__ import annotations

from engine.types import PAGE_SIZE, PAGES_PER_PG, PageNo, PgNo

_pages = PAGES_PER_PG

PAGES_MAX = (2**32 - 2) // PAGES_PER_PG * PAGES_PER_PG
"""Of a volume: as many as SQLite can number, in whole protection groups."""


def resize_groups(pages: int = PAGES_PER_PG) -> None:
    """Groups of another size, in this whole process: for simulations, before a volume is made."""
    global _pages
    _pages = pages


def group_pages() -> int:
    """Pages of one protection group."""
    return _pages


def pg_of(page: PageNo) -> PgNo:
    """The protection group that keeps `page`."""
    return page // _pages


def first_page(pg: PgNo) -> PageNo:
    return pg * _pages


def pgs_for(pages: int) -> int:
    """How many protection groups a volume of `pages` pages needs."""
    return -(-pages // _pages)


def max_pages_for(max_bytes: int) -> int:
    """Pages that fit into `max_bytes`, whole protection groups, at least one."""
    return max(1, max_bytes // (_pages * PAGE_SIZE)) * _pages
